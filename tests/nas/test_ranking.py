from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module

import nas.rank
from nas.alone import Alone, TrainedAlone
from nas.cli import plain_mapping
from nas.data.digits import Digits
from nas.ranking import Judge, agreement, judged, rank_from_mapping, sampled
from nas.training import Phase, Recipe
from predictors.paths import shipped
from search_spaces import Space, load_space
from search_spaces.space import Arch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobilenet_v3_tiny")


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("configs", version_base="1.3"):
        return plain_mapping(compose("rank", [*overrides]))


# ------------------------------------------------------------------------------------------------------------ agreement


def test_one_swap_of_three_costs_a_third() -> None:
    """Of 3 pairs 2 agree: tau = (2 - 1) / 3; rho = 1 - 6 * (1 + 1) / (3 * 8) = 1/2."""
    found = agreement(np.array([0.1, 0.2, 0.3]), np.array([5.0, 9.0, 7.0]), 50)
    assert found.kendall == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(1 / 2)


def test_intervals_hold_the_value_and_narrow_with_more_archs() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for num in (20, 200):
        one = rng.standard_normal(num)
        found = agreement(one, one + 0.5 * rng.standard_normal(num), 300)
        low, high = found.kendall_interval
        assert low < found.kendall < high
        assert found.spearman_interval[0] < found.spearman < found.spearman_interval[1]
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_ranks_do_not_change_with_any_growing_function() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random(30), rng.random(30)
    assert agreement(one, other, 20) == agreement(np.exp(9 * one), other, 20)
    assert agreement(one, -one, 20).kendall == -1


def test_archs_that_are_all_alike_have_no_rank() -> None:
    with pytest.raises(ValueError, match=r"all 4 archs get 0\.5"):
        agreement(np.full(4, 0.5), np.arange(4.0), 10)


# ------------------------------------------------------------------------------------------------------ what is judged


def test_more_archs_begin_with_the_same_ones(space: Space) -> None:
    assert sampled(space, 12, 3)[:5] == sampled(space, 5, 3)
    assert len({tuple(arch.values()) for arch in sampled(space, 12, 3)}) == 12
    few = load_space(
        "mobilenet_v3_tiny", resolutions=[32], kernels=[3], expansions=[2], depths=[1, 2], stage_widths=[8],
        stage_strides=[2], stage_se=[False], stage_activations=["relu"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="only 2 different networks"):
        sampled(few, 3, 0)


def test_what_was_judged_before_a_crash_is_not_judged_again(space: Space, tmp_path: Path) -> None:
    archs = sampled(space, 5, 0)
    asked: list[Arch] = []

    def failing(limit: int) -> Callable[[], Callable[[Arch], float]]:
        def judge(arch: Arch) -> float:
            if len(asked) >= limit:
                raise RuntimeError("killed")
            asked.append(arch)
            return 0.1 * archs.index(arch)

        return lambda: judge

    file = tmp_path / "values.csv"
    with pytest.raises(RuntimeError, match="killed"):
        judged(space, archs, [Judge(name="accuracy", load=failing(3))], file, progress=False)
    values, _ = judged(space, archs, [Judge(name="accuracy", load=failing(99))], file, progress=False)
    assert asked == archs
    assert values["accuracy"].tolist() == [0.1 * index for index in range(5)]

    def never() -> Callable[[Arch], float]:
        raise AssertionError("everything is known")

    again, seconds = judged(space, archs, [Judge(name="accuracy", load=never)], file, progress=False)
    assert again["accuracy"].tolist() == values["accuracy"].tolist()
    assert seconds == {}


def test_a_torn_or_foreign_file_of_values_is_named(space: Space, tmp_path: Path) -> None:
    file = tmp_path / "values.csv"
    archs = sampled(space, 3, 0)
    judge = Judge(name="accuracy", load=lambda: lambda arch: 0.5)
    judged(space, archs, [judge], file, progress=False)
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("0.5", "half", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"values\.csv:2: .*'half'"):
        judged(space, archs, [judge], file, progress=False)
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="choose another run_dir"):
        judged(space, archs, [judge], file, progress=False)


# ---------------------------------------------------------------------------------------------------------- the command


def test_every_source_of_accuracies_can_be_held_against() -> None:
    names = sorted(path.stem for path in shipped("accuracy").glob("*.yaml"))
    assert sorted(path.stem for path in shipped("against").glob("*.yaml")) == names
    for name in names:
        config = composed(f"accuracy={name}", f"against={name}")
        assert config["accuracy"] == config["against"]


def test_the_command_prints_and_writes_agreements_and_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("space=mobilenet_v3", "space.resolutions=[224]", "accuracy=proxy", "accuracy.proxy=macs",
                 "against=surrogate", "num_resamples=50")  # fmt: skip
    found = rank_from_mapping(composed(*overrides, "num_archs=12"))
    assert found["accuracy"] == found["macs"]  # the baselines are proxies, too
    assert 0.3 < found["params"].kendall < 1
    printed = capsys.readouterr().out
    assert "12 networks of mobilenet_v3" in printed
    assert "against surrogate" in printed
    [folder] = (tmp_path / "outputs" / "rank").iterdir()
    kept = (folder / "values.csv").read_text(encoding="utf-8")
    assert (folder / "agreement.csv").read_text(encoding="utf-8").startswith("judge,kendall,kendall_low")
    rank_from_mapping(composed(*overrides, "num_archs=13"))
    assert (folder / "values.csv").read_text(encoding="utf-8").startswith(kept.splitlines()[0])
    assert len((folder / "values.csv").read_text(encoding="utf-8").splitlines()) == 14
    assert list((tmp_path / "outputs" / "rank").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_archs=2", "num_archs must be at least 3, found 2"),
        ("baselines=[flops]", "unknown proxy 'flops'"),
        ("num_resamples=0", "num_resamples must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        rank_from_mapping(composed(override, "data=digits"))
    assert not (tmp_path / "outputs").exists()


def test_the_schema_and_the_file_have_the_same_defaults() -> None:
    config, plain = composed(), nas.rank.RankConfig()
    for key in ("baselines", "num_archs", "seed", "num_resamples", "run_dir"):
        assert config[key] == getattr(plain, key)


# ------------------------------------------------------------------------------------------------------- trained alone


def test_networks_trained_alone_are_kept_and_found_again(tmp_path: Path) -> None:
    data = Digits(size=16).load()
    space = load_space(
        "mobilenet_v3_tiny", stem_width=8, stage_widths=[8], stage_strides=[2], stage_se=[False],
        stage_activations=["relu"], head_width=16, feature_width=16, resolutions=[16],
    )  # fmt: skip
    recipe = Recipe(num_steps=25, batch_size=32, learning_rate=0.02, accelerator="cpu", log_steps=0)
    judge = TrainedAlone(space, data, recipe, tmp_path)
    value = judge(space.smallest())
    assert value > 0.2  # chance is 0.1
    [file] = tmp_path.glob("*.safetensors")
    written = file.stat().st_mtime_ns
    assert TrainedAlone(space, data, recipe, tmp_path)(space.smallest()) == value
    assert file.stat().st_mtime_ns == written
    untrained = space.build(space.smallest()).state_dict()
    trained = judge.network(space.smallest())
    assert not trained.training
    assert set(trained.state_dict()) == set(untrained)


def test_a_recipe_with_phases_becomes_one_phase_of_all_their_steps() -> None:
    phases = (Phase(num_steps=30, learning_rate=0.02, elastic=()), Phase(num_steps=12, learning_rate=0.01))
    recipe = Recipe(batch_size=8, phases=phases)
    alone = Alone().recipe_of(recipe)
    assert (alone.num_steps, alone.learning_rate, alone.phases) == (42, 0.02, ())
    assert Alone(num_steps=5).recipe_of(recipe).num_steps == 5
