"""Published networks of timm: what they err, and what an image took where their authors measured it."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "timm_bench"
ACCURACIES = "results-imagenet.csv"
ELSEWHERE = frozenset({
    "ft", "ssl", "ssld", "swsl", "wsl", "jft", "ns", "c2ns", "swag", "seer", "mim", "mae", "fcmae", "clip", "openai",
    "webli", "laion2b", "m30m", "m38m", "in12k", "in21k", "in22k",
})  # fmt: skip
"""Words in the tags of weights that have seen other images than those of ImageNet-1k, or were tuned from such."""
TOYS = "test_"
"""How the names of networks begin that timm has for its own tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A network at one resolution, as it was measured.

    Attributes:
        batch: images that it was given at once.
        error: 1 - ImageNet top-1 at this resolution, of the best weights that are published for it.
        latency_s: of one image: the batch's over its images.
        activations, macs: of one image, as timm counts them; the former are the elements that convolutions and linear
            layers write.
        in1k_error: error of the best weights that were trained on ImageNet-1k alone; nan where there are none.
    """

    name: str
    resolution: int
    batch: int
    error: float
    latency_s: float
    activations: float
    macs: float = field(repr=False)  # these two say nothing of what is traced, nor how
    in1k_error: float = field(repr=False)

    @property
    def text(self) -> str:
        """As `predictors.named_modules.timm_network` takes it: 'resnet18@224'."""
        return f"{self.name}@{self.resolution}"


def read_networks(data: Path, file: str) -> tuple[tuple[Published, ...], dict[str, int]]:
    """Networks of a benchmark whose accuracy is known at the resolution of the latency; how many are left by each step.

    Of a network with several published weights the most accurate counts: the architecture is what is chosen.

    Args:
        data: the folder that holds `timm_bench`.
        file: of the benchmark, in that folder.

    Raises:
        ValueError: there is no such file.
    """
    rows = _rows(data / FOLDER / file)
    accuracies = _rows(data / FOLDER / ACCURACIES)
    errors = _least_errors(accuracies)
    in1k_errors = _least_errors([row for row in accuracies if _is_in1k(row["model"].partition(".")[2])])
    names = {name for name, _ in errors}
    real = [row for row in rows if not row["model"].startswith(TOYS)]
    named = [row for row in real if row["model"] in names]
    matched = [row for row in named if (row["model"], int(row["infer_img_size"])) in errors]
    counted = [row for row in matched if row["infer_macts"]]
    counts = {
        "rows of latencies": len(rows),
        "without timm's toys": len(real),
        "with a published accuracy": len(named),
        "at the same resolution": len(matched),
        "with counted activations": len(counted),
    }
    return tuple(_network(row, errors, in1k_errors) for row in counted), counts


# ------------------------------------------------------------------------------------------------------------ private


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"there is no {path}; --data names the folder that holds {FOLDER}/{path.name}")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _least_errors(rows: Sequence[Mapping[str, str]]) -> dict[tuple[str, int], float]:
    """By name without the tag of its weights, and resolution."""
    found: dict[tuple[str, int], float] = {}
    for row in rows:
        key = (row["model"].partition(".")[0], int(row["img_size"]))
        found[key] = min(found.get(key, 1.0), 1.0 - float(row["top1"]) / 100)
    return found


def _is_in1k(tag: str) -> bool:
    words = set(tag.split("_"))
    return "in1k" in words and not words & ELSEWHERE


def _network(
    row: Mapping[str, str], errors: Mapping[tuple[str, int], float], in1k_errors: Mapping[tuple[str, int], float]
) -> Published:
    name, resolution = row["model"], int(row["infer_img_size"])
    batch = int(float(row["infer_batch_size"]))
    return Published(
        name=name,
        resolution=resolution,
        batch=batch,
        error=errors[name, resolution],
        latency_s=float(row["infer_step_time"]) / 1e3 / batch,
        activations=1e6 * float(row["infer_macts"]),
        macs=1e9 * float(row["infer_gmacs"]),
        in1k_error=in1k_errors.get((name, resolution), float("nan")),
    )
