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
from nas.training import (
    Recipe,
    _Training,
    load_supernet,
    recipe_from_mapping,
    train_supernet,
    training_key,
)
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces import Space, load_space
from search_spaces.supernet import Supernet

torch.set_num_threads(1)

SPACE = {"stem_width": 8, "stage_widths": [8, 8, 8], "depths": [1, 2], "head_width": 8, "feature_width": 8}
DATA = {"num_train": 64, "num_valid": 20, "num_test": 20}
RECIPE = Recipe(num_steps=8, batch_size=16, learning_rate=0.004)

KILLED_TRAINING = f"""
import sys
from pathlib import Path
import torch
from nas.data.digits import ClutteredDigits
from nas.training import Recipe, train_supernet
from search_spaces import load_space

torch.set_num_threads(1)
space = load_space("mobilenet_v3_tiny", **{SPACE!r})
recipe = Recipe(num_steps=8, batch_size=16, learning_rate=0.004)
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


def train_until(step: int, data: ImageData, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_step = _Training.run_step

    def stopping(training: _Training) -> tuple[float, float]:
        if training.step == step:
            raise StoppedError
        return run_step(training)

    with monkeypatch.context() as patched:
        patched.setattr(_Training, "run_step", stopping)
        with pytest.raises(StoppedError):
            train_supernet(space(), data, RECIPE, folder, checkpoint_steps=2, progress=False)


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
    monkeypatch.setattr(_Training, "run_step", None)
    read = train_supernet(space(), data, RECIPE, tmp_path, progress=False)
    assert_same_weights(read, unbroken)
    assert not read.training


def test_everything_that_determines_the_weights_changes_the_key(data: ImageData) -> None:
    other_data = ClutteredDigits(**DATA, seed=1).load()
    keys = {
        training_key(space(), data, RECIPE),
        training_key(load_space("mobilenet_v3_tiny", **SPACE | {"stem_width": 16}), data, RECIPE),
        training_key(space(), other_data, RECIPE),
        training_key(space(), data, replace(RECIPE, seed=1)),
    }
    assert len(keys) == 4
    assert training_key(space(), ClutteredDigits(**DATA).load(), replace(RECIPE)) in keys


def test_training_lowers_the_loss_of_the_largest_subnet(data: ImageData) -> None:
    training = _Training(space(), data, replace(RECIPE, num_steps=60))
    losses = [training.run_step()[0] for _ in range(training.recipe.num_steps)]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_a_step_trains_the_parts_of_the_smallest_and_the_largest_subnet(data: ImageData) -> None:
    training = _Training(space(), data, replace(RECIPE, num_random=0))
    training.run_step()
    assert all(parameter.grad is not None for parameter in training.supernet.network.parameters())
    used = [name for name, each in training.supernet.kernel_transforms.items() if each.grad is not None]
    assert used
    assert all("stages_" in name for name in used)


def test_the_learning_rate_rises_and_falls(data: ImageData) -> None:
    training = _Training(space(), data, replace(RECIPE, num_steps=20, warmup=0.5))
    rates = []
    for step in range(training.recipe.num_steps):
        training.step = step
        rates.append(training._learning_rate())
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.05 * RECIPE.learning_rate < max(rates) <= RECIPE.learning_rate


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
    with pytest.raises(ValueError, match="batch_size 65 is more than the 64"):
        train_supernet(space(), data, replace(RECIPE, batch_size=65), tmp_path)
    assert not list(tmp_path.iterdir())


def test_progress_shows_loss_and_accuracy(data: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_supernet(space(), data, replace(RECIPE, num_steps=4), tmp_path)
    shown = capsys.readouterr().err
    assert "supernet mobilenet_v3_tiny" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_every_shipped_recipe_reads() -> None:
    for path in shipped("training").glob("*.yaml"):
        assert recipe_from_mapping(read_yaml(path)).num_steps > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_step": 1}, "unknown key 'num_step'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, found 0.0"),
        ({"num_random": -1}, "num_random must not be negative, found -1"),
        ({"warmup": 1.0}, "warmup must be in 0 <= warmup < 1"),
        ({"batch_size": True}, "batch_size: expected int, found True"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_from_mapping(read_yaml(shipped("training") / "default.yaml") | fields)
