"""After a search: chosen subnets are fine-tuned, evaluated once on the test images, and exported.

What the test images said is kept in `test_accuracy.json`, by the weights that were asked about: the same weights are
never evaluated again, and every look at the test images is counted.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from math import sqrt
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from nas.accuracy import accuracy, calibration_images, channels_last, check_data_fits, recalibrate
from nas.data import ImageData, data_from_mapping
from nas.data.inputs import evaluation_input
from nas.export import ARCH_FILE, INT8_ACCURACY_FILE, WEIGHTS_FILE, write_network
from nas.files import write_text
from nas.report.after import TEST_FILE, refresh_page
from nas.run_folder import Run, chosen_of, locked_run, read_run
from nas.scoring import AccuracySource
from nas.training import Recipe, recipe_from_mapping, train_network
from nas.training.checkpoint import read_safetensors
from nas.training.keys import network_key, state_hash
from search_spaces.deployment import as_deployed
from search_spaces.loading import instance_from_mapping
from search_spaces.space import Arch

FINISHED = "finished"
"""Folder of a run that holds a folder for each finished subnet."""

IMAGE_SIZES = ("trained", "deployed")

NUM_COMPARED = 2000
"""Validation images, at most, on which the int8 copy of a finished network is compared."""

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished subnet, as `arch.json` of its folder says.

    Attributes:
        valid_before, valid_after: accuracies on the validation images, with the weights of the search and with these.
        test_accuracy: on `num_test` images, which were looked at once for these weights.
        looked_up: the test accuracy was in the record; nothing was evaluated.
        int8_accuracy, float_accuracy: of the exported models on validation images, as deployed.
        trained_size, deployed_size: height and width of images in training and as deployed.
    """

    name: str
    folder: Path
    valid_before: float
    valid_after: float
    test_accuracy: float
    num_test: int
    looked_up: bool
    int8_accuracy: float
    float_accuracy: float
    trained_size: int
    deployed_size: int

    @property
    def test_std(self) -> float:
        """Standard error of the test accuracy, sqrt(p (1 - p) / n)."""
        return sqrt(self.test_accuracy * (1.0 - self.test_accuracy) / self.num_test)


def finish_from_mapping(config: Mapping[str, Any]) -> None:
    """Finish the subnets that a composed `configs/finish.yaml` names, and print what came of it."""
    run = read_run(config["run"])
    recipe = None
    if config["finetune"].get("num_steps", 0) != 0:
        recipe = recipe_from_mapping(config["finetune"])
    found = finish_run(
        run,
        config["subnets"],
        recipe,
        image_size=config["image_size"],
        num_calibration=config["num_calibration"],
        from_scratch=config["from_scratch"],
    )
    _print(run, found, recipe)


def finish_run(
    run: Run,
    subnets: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    *,
    image_size: str = "trained",
    num_calibration: int = 400,
    from_scratch: bool = False,
    progress: bool = True,
) -> list[Finished]:
    """Fine-tune subnets of a run, evaluate each once on the test images and export it into `finished/NAME`.

    A subnet begins with the weights that the search exported, or, where those are not there, with what the run's source
    of accuracies extracts. Killed, the same call goes on where it stopped; what is finished is not done again.

    Args:
        subnets: names in `subnets/`; None takes all that the report chose.
        recipe: of fine-tuning; None keeps the weights.
        image_size: height and width in training and test, as the arch was `trained` or as it is `deployed`.
        num_calibration: training images for the statistics of batch norms.
        from_scratch: train fresh weights by the recipe of the run's own config first.
        progress: show a bar.

    Raises:
        ValueError: an unknown subnet, a run without weights or data (unless `from_scratch`), a damaged file, or an ONNX
            export that does not compute what the network does.
    """
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"unknown image_size {image_size!r}; there are {list(IMAGE_SIZES)}")
    if num_calibration < 1:
        raise ValueError(f"num_calibration must be at least 1, found {num_calibration}")
    chosen = chosen_of(run, subnets)
    source: AccuracySource = instance_from_mapping(run.config["accuracy"], "source", "accuracy")
    data = _data(run, source, from_scratch)
    _check_record(run)
    with locked_run(run):
        origin = _Origin(run, source, data, from_scratch, progress)
        found = []
        for name, description in chosen.items():
            size = description["input_shape"][2]
            if image_size == "trained":
                size = run.space.image_size(description["arch"])
            found.append(_finish(run, name, description, origin, recipe, size, num_calibration))
        refresh_page(run.folder)
    return found


# ------------------------------------------------------------------------------------------------------------ private


class _Origin:
    """Where the weights of subnets come from; the source of accuracies is asked only where no file has them."""

    def __init__(self, run: Run, source: AccuracySource, data: ImageData, from_scratch: bool, progress: bool) -> None:
        self.run, self.source, self.data = run, source, data
        self.from_scratch, self.progress = from_scratch, progress
        self._extract: Any = None

    def module(self, name: str, arch: Arch) -> nn.Module:
        """A stand-alone subnet with trained weights, in evaluation mode."""
        if self.from_scratch:
            return self._trained_alone(name, arch)
        path = self.run.folder / "subnets" / name / WEIGHTS_FILE
        if path.is_file():
            return _read_weights(path, self.run, arch)
        if self._extract is None:
            training = self.run.config.get("training")
            recipe = recipe_from_mapping(training) if self.source.needs_training and training else None
            self._extract = self.source.load(self.run.space, self.data, recipe).extract
        if self._extract is None:
            raise ValueError(_no_weights(self.run))
        module: nn.Module = self._extract(arch)
        return module.eval()

    def _trained_alone(self, name: str, arch: Arch) -> nn.Module:
        recipe = recipe_from_mapping(self.run.config["training"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            module = self.run.space.build(arch)
        size = self.run.space.image_size(arch)
        file = _weights_file(self.run, f"{name}-alone", network_key(module, self.data, recipe, size=size))
        return train_network(module, self.data, recipe, size=size, file=file, progress=self.progress)


def _finish(
    run: Run,
    name: str,
    description: Mapping[str, Any],
    origin: _Origin,
    recipe: Recipe | None,
    size: int,
    num_calibration: int,
) -> Finished:
    folder, data, arch = run.folder / FINISHED / name, origin.data, description["arch"]
    module = channels_last(origin.module(name, arch))
    asked = {
        "begins_with": state_hash(module.state_dict()),
        "finetune": asdict(recipe) if recipe else None,
        "image_size": size,
        "input_shape": list(description["input_shape"]),
        "num_calibration": num_calibration,
        "images": data.digest,
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    if (done := _done(folder, key)) is not None:
        return done
    before = accuracy(as_deployed(module), data, data.valid, size)
    if recipe is not None:
        file = _weights_file(run, name, network_key(module, data, recipe, size=size))
        module = train_network(module, data, recipe, size=size, file=file, progress=origin.progress)
    if recipe is not None or size != run.space.image_size(arch):  # else its statistics are those of the search
        _recalibrate(module, data, size, num_calibration)
    after = accuracy(as_deployed(module), data, data.valid, size)
    entry, looked_up = _test_accuracy(run, name, module, data, size)
    written = {
        **description,
        "finished": {
            "key": key,
            "finetuned": asdict(recipe) if recipe else None,
            "from_scratch": origin.from_scratch,
            "image_size": size,
            "data": data.name,
            "valid_before": before,
            "valid_after": after,
            "test_accuracy": entry["accuracy"],
            "num_test": entry["num_images"],
        },
    }
    symmetric = run.config["hw"].get("runtime") == "tensorrt"
    write_network(
        module,
        written,
        run.space,
        folder,
        data=data,
        trained_size=size,
        symmetric=symmetric,
        num_compared=NUM_COMPARED,
    )
    found = _done(folder, key)
    assert found is not None
    return replace(found, looked_up=looked_up)


def _weights_file(run: Run, name: str, key: str) -> Path:
    return run.folder / FINISHED / "training" / f"{name}-{key[:12]}.safetensors"


def _done(folder: Path, key: str) -> Finished | None:
    """What stands in a folder, if it was finished just so."""
    try:
        description = json.loads((folder / ARCH_FILE).read_text(encoding="utf-8"))
        int8 = json.loads((folder / INT8_ACCURACY_FILE).read_text(encoding="utf-8"))
        finished = description["finished"]
        if finished["key"] != key:
            return None
        return Finished(
            name=folder.name,
            folder=folder,
            looked_up=True,
            int8_accuracy=int8["int8_accuracy"],
            float_accuracy=int8["float_accuracy"],
            trained_size=int8["trained_size"],
            deployed_size=int8["image_size"],
            **{each: finished[each] for each in ("valid_before", "valid_after", "test_accuracy", "num_test")},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or torn: it is written anew


def _recalibrate(module: nn.Module, data: ImageData, size: int, num_calibration: int) -> None:
    if any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in module.modules()):
        recalibrate(module, evaluation_input(data, calibration_images(data, num_calibration), size))


def _test_accuracy(
    run: Run, name: str, module: nn.Module, data: ImageData, size: int
) -> tuple[Mapping[str, Any], bool]:
    """The entry of these weights in the record, and whether it stood there already."""
    entries = _check_record(run)
    asked = {"weights": state_hash(module.state_dict()), "images": data.test.digest, "image_size": size}
    for entry in entries:
        if all(entry[key] == value for key, value in asked.items()):
            return entry, True
    share = accuracy(as_deployed(module), data, data.test, size)
    entry = {
        "subnet": name,
        **asked,
        "data": data.name,
        "accuracy": share,
        "num_images": len(data.test),
        "date": date.today().isoformat(),
    }
    record = {"format": _FORMAT, "entries": [*entries, entry]}
    write_text(run.folder / TEST_FILE, json.dumps(record, indent=2) + "\n")
    return entry, False


def _check_record(run: Run) -> list[dict[str, Any]]:
    """Entries of the record of looks at the test images.

    Raises:
        ValueError: it is damaged, so that nobody knows what was looked at.
    """
    path = run.folder / TEST_FILE
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries: list[dict[str, Any]] = record["entries"]
        for entry in entries:
            _ = entry["weights"], entry["images"], entry["image_size"], entry["accuracy"], entry["num_images"]
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}, known is {_FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}, which says for which weights the test images were looked at, is damaged or of another version "
            f"({type(error).__name__}: {error}); move it away to begin a new record"
        ) from None
    return entries


def _data(run: Run, source: AccuracySource, from_scratch: bool) -> ImageData:
    if not source.needs_data and not from_scratch:
        raise ValueError(_no_weights(run))
    if run.config.get("data") is None:
        raise ValueError(f"{run.folder}/config.yaml names no data, so nothing can be trained or tested")
    data = data_from_mapping(run.config["data"])
    check_data_fits(run.space, data)
    return data


def _no_weights(run: Run) -> str:
    return (
        f"the accuracies of {run.folder} come from {run.config['accuracy'].get('source')}, which has no weights, so "
        "there is nothing to fine-tune, to test or to export; from_scratch=true trains each chosen subnet alone, on "
        "the run's data and by its training recipe; or train a supernet (nas.train) and search with accuracy=supernet"
    )


def _read_weights(path: Path, run: Run, arch: Arch) -> nn.Module:
    """The subnet with the weights of a file that `write_network` wrote."""
    try:
        weights, metadata = read_safetensors(path)
        found = json.loads(metadata.get("arch", "null"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); the same search, run again, writes it anew") from None
    if found != arch:
        raise ValueError(
            f"{path} holds the weights of another arch than arch.json beside it says; the same search, run again, "
            "writes both anew"
        )
    module = run.space.build(arch)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip() or str(error)
        raise ValueError(f"{path} holds weights of another space than the run's: {reason}") from None
    return module.eval()


def _print(run: Run, found: Sequence[Finished], recipe: Recipe | None) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("subnet", "valid before", "valid now", "test", "float ONNX", "int8 ONNX"):
        table.add_column(column, justify="left" if column == "subnet" else "right", no_wrap=True)
    for each in found:
        table.add_row(
            each.name,
            f"{100 * each.valid_before:.2f} %",
            f"{100 * each.valid_after:.2f} %",
            f"{100 * each.test_accuracy:.2f} ± {100 * each.test_std:.2f} %",
            f"{100 * each.float_accuracy:.2f} %",
            f"{100 * each.int8_accuracy:.2f} %",
        )
    console.print(table)
    looked_up = [each.name for each in found if each.looked_up]
    if looked_up:
        console.print(
            f"Test accuracies of {', '.join(looked_up)} are read from {TEST_FILE}: those weights were tested before, "
            "and are not tested again.",
            soft_wrap=True,
        )
    looks = len(_check_record(run))
    if looks > len(found):
        console.print(
            f"The test images have been looked at for {looks} sets of weights of this run by now; the best of many "
            "looks is no unbiased figure.",
            soft_wrap=True,
        )
    if any(each.trained_size != each.deployed_size for each in found):
        console.print(
            "The ONNX files take images of another size than these networks were trained on, which costs the accuracy "
            "that the table shows; image_size=deployed trains them on images of that size.",
            soft_wrap=True,
        )
    how = f"fine-tuned for {recipe.total_steps} steps" if recipe else "not fine-tuned"
    console.print(
        f"{how}; ONNX accuracies are those on validation images as deployed; files: {run.folder / FINISHED}",
        soft_wrap=True,
    )
