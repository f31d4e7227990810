import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.data import ImageData
from nas.data.digits import ClutteredDigits
from nas.training import DivergedError, Phase, Recipe, load_supernet, train_network, train_supernet, training_key
from nas.training.engine import Training
from nas.training.logs import StepResult
from search_spaces import Space, load_space
from search_spaces.supernet import Supernet

torch.set_num_threads(1)

SPACE = {
    "stem_width": 8, "stage_widths": [8, 8], "stage_strides": [2, 2], "stage_se": [False, True],
    "stage_activations": ["relu", "hardswish"], "depths": [1, 2], "head_width": 8, "feature_width": 8,
}  # fmt: skip
DATA = {"num_train": 64, "num_valid": 20, "num_test": 20}
RECIPE = Recipe(num_steps=8, batch_size=16, learning_rate=0.004, accelerator="cpu", log_steps=0)
PROGRESSIVE = replace(
    RECIPE,
    num_steps=0,
    learning_rate=0.0,
    rule="sampled",
    ema=0.9,
    phases=(
        Phase(num_steps=3, learning_rate=0.004, elastic=("resolution",)),
        Phase(num_steps=2, learning_rate=0.004, elastic=("resolution", "kernel", "depth"), distilled=True),
        Phase(num_steps=3, learning_rate=0.002, distilled=True),
    ),
)

KILLED_TRAINING = f"""
import sys
from pathlib import Path
import torch
from nas.data.digits import ClutteredDigits
from nas.training import Recipe, train_supernet
from search_spaces import load_space

torch.set_num_threads(1)
space = load_space("mobilenet_v3_tiny", **{SPACE!r})
recipe = Recipe(num_steps=8, batch_size=16, learning_rate=0.004, accelerator="cpu", log_steps=0)
train_supernet(space, ClutteredDigits(**{DATA!r}).load(), recipe, Path(sys.argv[1]), checkpoint_steps=1, progress=False)
"""


def space() -> Space:
    return load_space("mobilenet_v3_tiny", **SPACE)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ClutteredDigits(**DATA).load()


@pytest.fixture(scope="module")
def unbroken(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    return train_supernet(space(), data, RECIPE, tmp_path_factory.mktemp("unbroken"), progress=False)


def assert_same_weights(first: Supernet, second: Supernet) -> None:
    others = second.state_dict()
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, others[name], rtol=0, atol=0, msg=name)


class StoppedError(Exception):
    pass


def train_until(
    step: int, data: ImageData, folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe = RECIPE
) -> None:
    run_step = Training.run_step

    def stopping(training: Training) -> StepResult:
        if training.step == step:
            raise StoppedError
        return run_step(training)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "run_step", stopping)
        with pytest.raises(StoppedError):
            train_supernet(space(), data, recipe, folder, checkpoint_steps=2, progress=False)


def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(
    data: ImageData, unbroken: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(5, data, tmp_path, monkeypatch)  # the checkpoint of step 4 stays: step 4 is made twice
    assert [path.suffix for path in tmp_path.iterdir()] == [".checkpoint"]
    assert_same_weights(train_supernet(space(), data, RECIPE, tmp_path, progress=False), unbroken)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_a_training_that_was_killed_outright_goes_on(data: ImageData, unbroken: Supernet, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED_TRAINING, str(tmp_path)])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*.checkpoint")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.glob("*.checkpoint"))
    assert_same_weights(train_supernet(space(), data, RECIPE, tmp_path, progress=False), unbroken)


def test_a_finished_training_is_read_and_not_repeated(
    data: ImageData, unbroken: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_supernet(space(), data, RECIPE, tmp_path, progress=False)
    monkeypatch.setattr(Training, "run_step", None)
    read = train_supernet(space(), data, RECIPE, tmp_path, progress=False)
    assert_same_weights(read, unbroken)
    assert not read.training


def test_everything_that_determines_the_weights_changes_the_key(data: ImageData) -> None:
    other_data = ClutteredDigits(**DATA, seed=1).load()
    other = space().supernet()
    keys = {
        training_key(space(), data, RECIPE),
        training_key(load_space("mobilenet_v3_tiny", **SPACE | {"stem_width": 16}), data, RECIPE),
        training_key(space(), other_data, RECIPE),
        training_key(space(), data, replace(RECIPE, seed=1)),
        training_key(space(), data, replace(RECIPE, ema=0.9)),
        training_key(space(), data, PROGRESSIVE),
        training_key(space(), data, RECIPE, initial=other),
        training_key(space(), data, RECIPE, teacher=other),
        training_key(space(), data, replace(RECIPE, teacher="torch.nn:Identity")),
    }
    assert len(keys) == 9
    elsewhere = replace(RECIPE, accelerator="auto", log_steps=7)
    assert training_key(space(), data, elsewhere) == training_key(space(), data, RECIPE)
    assert training_key(space(), ClutteredDigits(**DATA).load(), replace(RECIPE)) in keys


def test_a_damaged_checkpoint_is_named(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(3, data, tmp_path, monkeypatch)
    [checkpoint] = tmp_path.iterdir()
    for content in (checkpoint.read_bytes()[:1000], b"", b"not a checkpoint"):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{checkpoint.name} is damaged \(.+\); delete it"):
            train_supernet(space(), data, RECIPE, tmp_path, progress=False)


def test_a_checkpoint_of_another_training_is_refused(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(3, data, tmp_path, monkeypatch)
    [checkpoint] = tmp_path.iterdir()
    recipe = replace(RECIPE, seed=1)
    key = training_key(space(), data, recipe)
    checkpoint.rename(tmp_path / f"mobilenet_v3_tiny-{key[:12]}.checkpoint")
    with pytest.raises(ValueError, match="holds another training"):
        train_supernet(space(), data, recipe, tmp_path, progress=False)


def test_weights_of_another_space_and_torn_weights_are_refused(data: ImageData, tmp_path: Path) -> None:
    train_supernet(space(), data, RECIPE, tmp_path, progress=False)
    [path] = tmp_path.iterdir()
    other = load_space("mobilenet_v3_tiny")
    with pytest.raises(ValueError, match="holds another training"):
        load_supernet(path, other, training_key(other, data, RECIPE))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"is damaged .* delete it"):
        train_supernet(space(), data, RECIPE, tmp_path, progress=False)


def test_a_full_disk_stops_training_and_leaves_the_last_checkpoint_whole(
    data: ImageData, unbroken: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(3, data, tmp_path, monkeypatch)
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write_bytes(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"cannot write .* the disk is full"):
            train_supernet(space(), data, RECIPE, tmp_path, checkpoint_steps=2, progress=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".checkpoint"]
    assert_same_weights(train_supernet(space(), data, RECIPE, tmp_path, progress=False), unbroken)


def test_data_that_do_not_fit_are_refused_before_anything_is_written(data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has num_classes 10, space .* has 3; set space.num_classes=10"):
        train_supernet(load_space("mobilenet_v3_tiny", **SPACE, num_classes=3), data, RECIPE, tmp_path)
    with pytest.raises(ValueError, match="has in_channels 1"):
        train_supernet(load_space("mobilenet_v3_tiny", **SPACE, in_channels=3), data, RECIPE, tmp_path)
    recipe = replace(
        RECIPE, num_steps=0, learning_rate=0.0, phases=(Phase(num_steps=1, learning_rate=0.1, elastic=("wid",)),)
    )
    with pytest.raises(ValueError, match=r"elastic 'wid' fits no knob .* its families are \['depth', 'expansion'"):
        train_supernet(space(), data, recipe, tmp_path)
    with pytest.raises(ValueError, match="batch_size 65 is more than the 64"):
        train_supernet(space(), data, replace(RECIPE, batch_size=65), tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_shows_loss_and_accuracy(data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_supernet(space(), data, replace(RECIPE, num_steps=4), tmp_path)
    shown = capsys.readouterr().err
    assert "supernet mobilenet_v3_tiny" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown


@pytest.mark.parametrize("step", [4, 7])
def test_progressive_shrinking_goes_on_exactly_where_it_stopped(
    step: int, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = train_supernet(space(), data, PROGRESSIVE, tmp_path / "unbroken", progress=False)
    train_until(step, data, tmp_path / "broken", monkeypatch, PROGRESSIVE)
    resumed = train_supernet(space(), data, PROGRESSIVE, tmp_path / "broken", progress=False)
    assert_same_weights(resumed, unbroken)


def test_training_begins_with_the_initial_supernet(data: ImageData, unbroken: Supernet, tmp_path: Path) -> None:
    recipe = replace(RECIPE, num_steps=1, learning_rate=1e-9, warmup=0.0)
    went_on = train_supernet(space(), data, recipe, tmp_path, initial=unbroken, progress=False)
    for name, weight in went_on.named_parameters():
        torch.testing.assert_close(weight, unbroken.get_parameter(name), rtol=0, atol=1e-6)
    other = load_space("mobilenet_v3_tiny").supernet()
    with pytest.raises(
        ValueError, match=r"the initial supernet does not fit: it has 'network\.stages\.0\.2\..* and \d+ more"
    ):
        train_supernet(space(), data, recipe, tmp_path, initial=other, progress=False)


def test_a_loss_that_is_not_finite_stops_with_step_subnet_and_checkpoint(
    data: ImageData, unbroken: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(logits_BK: torch.Tensor, answers_BK: torch.Tensor, temperature: float) -> torch.Tensor:
        calls.append(0)  # three subnets a step follow the largest: call 13 is the smallest one's in step 5
        return logits_BK.sum() * (float("nan") if len(calls) == 13 else 0.0)

    with monkeypatch.context() as patched:
        patched.setattr("nas.training.passes.soft_loss", failing)
        with pytest.raises(DivergedError) as raised:
            train_supernet(space(), data, RECIPE, tmp_path, checkpoint_steps=2, progress=False)
    [checkpoint] = tmp_path.iterdir()
    assert "at step 5 of 8 the loss of the smallest subnet is nan" in str(raised.value)
    assert f"the step was not applied. The last good checkpoint, of step 4, stays in {checkpoint};" in str(raised.value)
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 4
    assert all(weight.isfinite().all() for weight in state["module"].values())


def test_a_loss_that_is_not_finite_before_the_first_checkpoint_says_so(data: ImageData, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimiser="sgd", learning_rate=1e30, warmup=0.0)
    with pytest.raises(DivergedError, match=r"at step 2 of 8 the loss of the largest .* There was no checkpoint"):
        train_supernet(space(), data, recipe, tmp_path, progress=False)


class Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo must not run",)


def test_a_checkpoint_with_code_in_it_is_refused(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train_until(3, data, tmp_path, monkeypatch)
    [checkpoint] = tmp_path.iterdir()
    torch.save({"step": Command()}, checkpoint)
    with pytest.raises(ValueError, match=rf"{checkpoint.name} wants to run code \(.*system\) and is refused"):
        train_supernet(space(), data, RECIPE, tmp_path, progress=False)
    assert "must not run" not in capfd.readouterr().out


def test_one_network_is_trained_kept_and_read_again(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "baseline.safetensors"
    torch.manual_seed(0)
    module = space().build(space().smallest())
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    recipe = replace(RECIPE, num_steps=30, learning_rate=0.02, ema=0.5)
    trained = train_network(module, data, recipe, size=20, file=file, progress=False)
    assert not trained.training
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    monkeypatch.setattr(Training, "run_step", None)
    read = train_network(module, data, recipe, size=20, file=file, progress=False)
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, read.state_dict()[name])
    with pytest.raises(ValueError, match="holds another training"):
        train_network(module, data, replace(recipe, seed=1), size=20, file=file, progress=False)


def test_a_network_that_does_not_fit_the_data_is_refused(data: ImageData) -> None:
    module = load_space("mobilenet_v3_tiny", **SPACE, num_classes=3).build(space().smallest())
    with pytest.raises(ValueError, match=r"the network gives logits of shape \(1, 3\) .* has 10 classes"):
        train_network(module, data, RECIPE, size=20, progress=False)
    colour = load_space("mobilenet_v3_tiny", **SPACE, in_channels=3).build(space().smallest())
    with pytest.raises(ValueError, match=r"the network does not take images of shape \(1, 1, 20, 20\)"):
        train_network(colour, data, RECIPE, size=20, progress=False)
    with pytest.raises(ValueError, match="phases are for supernets"):
        train_network(colour, data, PROGRESSIVE, size=20, progress=False)


def test_curves_for_tensorboard_lie_beside_the_weights(data: ImageData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_supernet(space(), data, replace(RECIPE, num_steps=4, log_steps=2), tmp_path, progress=False)
    [weights] = tmp_path.glob("*.safetensors")
    curves = EventAccumulator(str(tmp_path / "logs" / weights.stem))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) == {
        *(f"{what}/{subnet}" for what in ("loss", "accuracy") for subnet in ("largest", "smallest", "random")),
        "learning_rate", "gradient_norm", "images_per_s",
    }  # fmt: skip
    assert [point.step for point in curves.Scalars("loss/largest")] == [2, 4]
