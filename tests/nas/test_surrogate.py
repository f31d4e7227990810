import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from scipy.stats import kendalltau

import nas.fit_surrogate
import nas.search
from nas.cli import plain_mapping
from nas.fit_surrogate import features_of, fitted_text, main, read_published
from nas.job import job_from_mapping, search_from_mapping
from nas.surrogate import FromSurrogate, Surrogate, load_surrogate, pairs, terms, terms_of
from predictors.paths import shipped
from search_spaces import Space, load_space

NAME = "ofa_mobilenet_v3_w1.0_r224"
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "dynast_ofa_mbv3"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published accuracies are not here")


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobilenet_v3", resolutions=[224])


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return load_surrogate(NAME)


def lines() -> list[dict[str, Any]]:
    """The file's header and its coefficients."""
    text = (shipped("surrogate") / f"{NAME}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------------------------------------------ what it answers


def test_the_smallest_arch_has_no_term_and_so_the_intercept_alone(space: Space, surrogate: Surrogate) -> None:
    accuracies, _ = surrogate.of_many(space, [space.smallest()])
    assert accuracies[0] == pytest.approx(surrogate.ceiling - np.exp(surrogate.intercept))


def test_one_larger_kernel_adds_its_coefficient_in_the_exponent(space: Space, surrogate: Surrogate) -> None:
    arch = {**space.smallest(), "stage2_block1_kernel": 7}
    exponent = surrogate.intercept + surrogate.single["stage2_block1_kernel>=5"]
    exponent += surrogate.single["stage2_block1_kernel>=7"]
    assert surrogate.of_many(space, [arch])[0][0] == pytest.approx(surrogate.ceiling - np.exp(exponent))


def test_two_changes_in_a_stage_add_what_their_pair_says_too(space: Space, surrogate: Surrogate) -> None:
    one, other = "stage3_block1_expansion>=4", "stage3_block2_kernel>=5"
    arch = {**space.smallest(), "stage3_block1_expansion": 4, "stage3_block2_kernel": 5}
    [pair] = [value for names, value in surrogate.pairs.items() if set(names) == {one, other}]
    exponent = surrogate.intercept + surrogate.single[one] + surrogate.single[other] + pair
    assert surrogate.of_many(space, [arch])[0][0] == pytest.approx(surrogate.ceiling - np.exp(exponent))


def test_knobs_of_blocks_that_an_arch_lacks_change_nothing(space: Space, surrogate: Surrogate) -> None:
    arch = space.smallest()
    dead = {**arch, "stage1_block4_kernel": 7, "stage5_block3_expansion": 6}
    assert space.canonical(dead) == arch
    assert np.array_equal(*(surrogate.of_many(space, [each])[0] for each in (arch, dead)))


def test_many_archs_get_what_each_gets_alone(space: Space, surrogate: Surrogate) -> None:
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(40)]
    accuracies, stds = surrogate.of_many(space, archs)
    judge = FromSurrogate().load(space, None, None).accuracy
    assert accuracies.shape == stds.shape == (40,)
    np.testing.assert_allclose(accuracies, [judge(arch) for arch in archs], rtol=1e-12)
    assert ((accuracies > 0.70) & (accuracies < surrogate.ceiling)).all()
    assert ((stds > 0.0002) & (stds < 0.003)).all()


def test_a_wider_or_deeper_network_is_hardly_ever_judged_worse(space: Space, surrogate: Surrogate) -> None:
    """Kernels may go either way; where expansion or depth lowers the estimate, it is by less than its deviation."""
    rng = np.random.default_rng(1)
    changes = []
    for arch in (space.sample(rng) for _ in range(60)):
        raised = [
            {**arch, knob: values[values.index(arch[knob]) + 1]}
            for knob, values in space.choices.items()
            if not knob.endswith("kernel") and arch[knob] != values[-1]
        ]
        raised = [each for each in raised if space.canonical(each) != arch]
        changes += list(surrogate.of_many(space, raised)[0] - surrogate.of_many(space, [arch])[0][0])
    assert np.mean(np.array(changes) < 0) < 0.05
    assert min(changes) > -0.001
    ends = surrogate.of_many(space, [space.smallest(), space.largest()])[0]
    assert ends[0] == pytest.approx(0.706, abs=0.01)
    assert ends[1] == pytest.approx(0.775, abs=0.01)


def test_terms_of_one_block_of_a_stage() -> None:
    """Depth 2 or 3 and two kernels: terms depth>=3 and, per block, kernel>=5; block 3 is there at depth 3 alone."""
    space = load_space(
        "mobilenet_v3_tiny", resolutions=[32], stage_widths=[8], stage_strides=[2], stage_se=[False],
        stage_activations=["relu"], depths=[2, 3], kernels=[3, 5], expansions=[2],
    )  # fmt: skip
    assert [each.text for each in terms(space)] == [
        "stage1_depth>=3", "stage1_block1_kernel>=5", "stage1_block2_kernel>=5", "stage1_block3_kernel>=5",
    ]  # fmt: skip
    arch = {**space.largest(), "stage1_depth": 2}
    assert terms_of(space, space.encode([arch, space.largest()])).tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]
    assert pairs(terms(space)) == ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))  # (0, 3) is what term 3 says already


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mobilenet_v3", {}, r'resolutions \[128.* set "space.resolutions=\[224\]"$'),
        ("mobilenet_v3", {"resolutions": [224], "width_multiplier": 1.2}, 'set "space.width_multiplier=1.0"$'),
        ("mobilenet_v3", {"resolutions": [224], "num_classes": 10}, 'set "space.num_classes=1000"$'),
        ("mobilenet_v3", {"resolutions": [224], "kernels": [3, 5]}, "has kernels .* set space=mobilenet_v3 "),
        ("mobilenet_v3_tiny", {}, r'set space=mobilenet_v3 "space.resolutions=\[224\]"$'),
        ("nasbench201", {}, "class 'NasBench201Space' instead of 'MobileNetV3Space'; set space=mobilenet_v3 "),
    ],
)
def test_networks_that_it_was_not_fitted_on_are_refused_with_what_to_set(
    name: str, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FromSurrogate().check(load_space(name, **overrides), None)


def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"unknown surrogate 'ofa'.*there are \['{NAME}'\]"):
        load_surrogate("ofa")
    with pytest.raises(ValueError, match="does not exist"):
        load_surrogate(str(tmp_path / "mine.jsonl"))
    broken = tmp_path / "broken.jsonl"
    text = (shipped("surrogate") / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()
    broken.write_text("\n".join([*text[:3], text[3][:20]]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.jsonl:4: not JSON"):
        load_surrogate(str(broken))
    broken.write_text(json.dumps({"format": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="is no surrogate"):
        load_surrogate(str(broken))


def test_a_table_that_cannot_be_fitted_is_refused_by_line(space: Space, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    subnet = {"wid": None, "ks": [3] * 20, "e": [3] * 20, "d": [2] * 5, "r": [224]}

    def refused(row: str) -> str:
        table.write_text(f"Sub-network,Top-1 Acc (%)\n{row}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"table\.csv|archs") as error:
            read_published(space, [table])
        return str(error.value)

    assert "table.csv:2: resolution [160]" in refused(f'"{subnet | {"r": [160]}}",75')
    assert "table.csv:2: space 'mobilenet_v3': knob 'stage1_block1_kernel'" in refused(
        f'"{subnet | {"ks": [9] * 20}}",75'
    )
    assert "table.csv:2: an accuracy of 0.75 %" not in refused(f'"{subnet}",0.75')
    assert "an accuracy of 95 % is not in" in refused(f'"{subnet}",95')
    assert "1 different archs are too few" in refused(f'"{subnet}",75')
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "none.csv"), "--output", str(tmp_path / "x.jsonl"), "--date", "2026-01-01"])


# ------------------------------------------------------------------------------------------------------ how it was made


def test_the_file_has_its_source_and_licence_and_no_published_row() -> None:
    found = lines()[0]
    assert "DyNAS-T" in found["source"]
    assert "Apache-2.0" in found["licence"]
    assert found["fitted_with"].startswith("python -m nas.fit_surrogate ")
    assert all(set(each) == {"has", "coefficient"} for each in lines()[1:])


def test_it_is_as_good_as_was_asked_of_it() -> None:
    scores = lines()[0]["cross_validation"]
    assert scores["rmse"] <= 0.0010
    assert scores["kendall"] >= 0.95


@needs_published
def test_the_command_gives_the_file_again(
    space: Space, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search for settings takes half a minute, so only those that it chose are tried here."""
    found = lines()[0]
    for name, key in (("CEILINGS", "ceiling"), ("RIDGES", "ridge"), ("PAIR_VARIANCES", "pair_variance")):
        monkeypatch.setattr(nas.fit_surrogate, name, (found[key],))
    files = [PUBLISHED / name for name in found["fitted_with"].split(" --output")[0].split()[3:]]
    text = fitted_text(space, files, name=NAME, date=found["date"])
    assert "without mbnv3w10_linasga_acc.csv: RMSE 0.0" in capsys.readouterr().out
    again = [json.loads(line) for line in text.splitlines()]
    kept = lines()
    assert again[0] | {"spread": 0, "noise": 0} == kept[0] | {"spread": 0, "noise": 0}
    np.testing.assert_allclose(again[0]["spread"], kept[0]["spread"], rtol=2e-3)
    assert [each["has"] for each in again[1:]] == [each["has"] for each in kept[1:]]
    np.testing.assert_allclose(
        [each["coefficient"] for each in again[1:]], [each["coefficient"] for each in kept[1:]], rtol=1e-4, atol=1e-9
    )


@needs_published
def test_published_subnets_get_the_accuracies_that_were_published(space: Space, surrogate: Surrogate) -> None:
    """Rows of all files, repeated archs once; two deviations hold about 95 % of them."""
    published = read_published(space, sorted(PUBLISHED.glob("mbnv3w10_*.csv")))
    accuracies, stds = surrogate.of_many(space, published.archs)
    errors = accuracies - published.accuracies
    assert np.sqrt(np.mean(errors**2)) < 0.0006
    assert kendalltau(accuracies, published.accuracies).statistic > 0.96
    assert 0.93 < np.mean(np.abs(errors) < 2 * stds) <= 1.0
    assert features_of(space, published.archs[:5]).x_NF.shape == (5, 1 + 90 + len(surrogate.pairs))


# ----------------------------------------------------------------------------------------------------------- the search


def test_a_search_with_it_reads_neither_data_nor_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    overrides = ["hw=mobile_gpu", "space=mobilenet_v3", "space.resolutions=[224]", "accuracy=surrogate", "num_trials=4"]
    with initialize_config_module("configs", version_base="1.3"):
        config = plain_mapping(compose("search", overrides))
    config |= {"data": {"source": "no.such.Data"}, "training": {"nonsense": 1}}
    job = job_from_mapping(config)
    assert job.inputs.data is job.inputs.recipe is None
    result = search_from_mapping(config, command="python -m nas.search")
    errors = [each.metrics["error"] for each in result.candidates]
    assert max(errors) < 0.30
    page = (job.folder / "report.html").read_text(encoding="utf-8")
    assert "Accuracies are estimates of ImageNet top-1 of subnets" in page
    assert job.folder.name.startswith("mobilenet_v3-surrogate-memory_aware-")
