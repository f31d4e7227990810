"""What all strategies are judged by beside the error: latency that was measured, or the prediction where none was.

`configs/yardstick` names one of the sources below. Without any, networks are measured where this machine is the device,
and predicted elsewhere.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Protocol, cast, get_args

import numpy as np

from nas.compare.records import Floats, Yardstick
from nas.files import write_text
from nas.tabular import ArchForm, by_network, one_of, read_column
from nas.task import SearchTask
from nas.verify_times import Measuring, measure_graphs, why_elsewhere
from predictors.latency import LatencyPredictor
from predictors.measure.session import Settings
from predictors.validation.networks import UNITS
from search_spaces.space import Arch, Space

MEASURED_FOLDER = "measured"

_UNIT_SLIP = 200.0
"""A factor between measurements and predictions that is no error of a model."""
_NUM_CHECKED = 100


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """The latency that a task predicts.

    Args:
        title: of the device, for a person.
        why: nothing is measured; the end of a sentence.
    """

    task: SearchTask
    title: str
    why: str = ""

    @property
    def is_measured(self) -> bool:
        return False

    @property
    def text(self) -> str:
        return f"latency predicted for {self.title}{self.why and f' ({self.why})'}"

    def latency_s(self, archs: Sequence[Arch]) -> Floats:
        found: Floats = self.task.costs_many(self.task.space.encode(archs))["latency_s"]
        return found


@dataclass(frozen=True, kw_only=True)
class FromMeasurements:
    """Latencies that somebody has measured, by network; those that are not there are not known.

    Args:
        seconds: by values of canonical archs.
        text: see `nas.compare.records.Yardstick`.
        column: of the table, for one that is to be filled in.
    """

    space: Space
    seconds: Mapping[tuple[int, ...], float]
    text: str
    column: str

    @property
    def is_measured(self) -> bool:
        return True

    def latency_s(self, archs: Sequence[Arch]) -> Floats:
        keys = [tuple(self.space.canonical(arch).values()) for arch in archs]
        return np.array([self.seconds.get(key, nan) for key in keys], dtype=np.float64)


class MeasuredHere:
    """Latencies of networks that are measured on this machine; those that `measure` was not asked for are not known.

    Args:
        predictor: of the device and the runtime to measure under.
        folder: of the times, which are kept: what was measured before is not measured again.
    """

    def __init__(
        self, task: SearchTask, predictor: LatencyPredictor, title: str, folder: Path, measuring: Measuring
    ) -> None:
        self._task, self._predictor, self._title = task, predictor, title
        self._folder, self._measuring = folder, measuring
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []

    @property
    def is_measured(self) -> bool:
        return True

    @property
    def text(self) -> str:
        notes = "".join(f"; {note}" for note in self._notes)
        how = f"{self._predictor.runtime.name}, {self._predictor.dtype}, this machine"
        return f"latency measured on {self._title} ({how}{notes})"

    def measure(self, archs: Sequence[Arch]) -> None:
        """Measure networks, or read what is known of them.

        Raises:
            ValueError: this machine is not the device, the runtime is not installed, or can run none of the networks.
        """
        graphs = {_name(arch): self._task.deployed_space.graph(arch) for arch in map(self._task.space.canonical, archs)}
        found, self._notes = measure_graphs(self._folder, self._predictor, graphs, self._measuring)
        self._seconds = {name: each.seconds for name, each in found.items()}

    def latency_s(self, archs: Sequence[Arch]) -> Floats:
        names = [_name(self._task.space.canonical(arch)) for arch in archs]
        return np.array([self._seconds.get(name, nan) for name in names], dtype=np.float64)


class YardstickSource(Protocol):
    """Where latencies come from: a frozen dataclass whose fields are the keys of its file in `configs/yardstick`."""

    def load(self, task: SearchTask, title: str, folder: Path) -> Yardstick:
        """Read and check all that there is; nothing is measured or written.

        Raises:
            ValueError: it cannot judge networks of this task.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FromPrediction:
    """What the search predicts, also where it could be measured."""

    def load(self, task: SearchTask, title: str, folder: Path) -> Predicted:
        return Predicted(task=task, title=title)


@dataclass(frozen=True, slots=True, kw_only=True)
class FromTimes:
    """A column of a CSV file. Keys and values of `configs/yardstick/table.yaml`.

    Args:
        path: of the file, gzipped or not; its first line names the columns. A network without a time may stand in it.
        column: with the latencies.
        unit: "milliseconds", "seconds" or "microseconds".
        archs, arch_column: see `nas.tabular.FromTable`.
    """

    path: str | None = None
    column: str | None = None
    unit: str = "milliseconds"
    archs: str = "strings"
    arch_column: str = "arch_str"

    def load(self, task: SearchTask, title: str, folder: Path) -> FromMeasurements:
        if self.path is None:
            raise ValueError("yardstick=table needs the file of the latencies: yardstick.path=FILE.csv")
        path = Path(self.path).expanduser()
        scale = UNITS[one_of(self.unit, tuple(UNITS), "yardstick.unit")]
        archs = cast(ArchForm, one_of(self.archs, get_args(ArchForm), "yardstick.archs"))
        read = read_column(
            path,
            task.space,
            self.column,
            _time,
            archs,
            self.arch_column,
            group="yardstick",
        )
        known = {arch: scale * time for arch, time in read.items() if isfinite(time)}
        if not known:
            raise ValueError(f"{path}: column {self.column!r} has no times")
        seconds = by_network(known, task.space)
        _check_unit(task, seconds, path, self.unit)
        column = str(self.column)
        text = f"latency measured on {title} (column {column!r} of {path.name})"
        return FromMeasurements(space=task.space, seconds=seconds, text=text, column=column)


@dataclass(frozen=True, slots=True, kw_only=True)
class FromHere:
    """This machine, which is the device. Keys and values of `configs/yardstick/here.yaml`.

    Args:
        runtime: name of the one to measure under; None: the one that is predicted.
        threads: None: those of the device's tables, else one.
        budget_s: seconds for more visits than the least.
        is_device: this machine is the device although its file does not say so.
    """

    runtime: str | None = None
    threads: int | None = None
    budget_s: float = 600.0
    is_device: bool = False

    def load(self, task: SearchTask, title: str, folder: Path) -> MeasuredHere:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"yardstick.threads must be at least 1, found {self.threads}")
        if not 0.0 <= self.budget_s < float("inf"):
            raise ValueError(f"yardstick.budget_s must not be negative, found {self.budget_s}")
        predictor = task.predictor
        if self.runtime is not None:
            predictor = LatencyPredictor(predictor.device, dtype=predictor.dtype, runtime=self.runtime)
        if not self.is_device and (why := why_elsewhere(predictor)):
            raise ValueError(
                f"yardstick=here: {why}; give yardstick=table with times that were taken on the device, or "
                "yardstick=predicted, or yardstick.is_device=true if this machine is the device"
            )
        measuring = Measuring(settings=Settings(budget_s=self.budget_s), threads=self.threads, here=True)
        return MeasuredHere(task, predictor, title, folder / MEASURED_FOLDER, measuring)


def usual_yardstick(task: SearchTask, title: str, folder: Path) -> Yardstick:
    """This machine where it is the device, else what is predicted."""
    if why_elsewhere(task.predictor) is None:
        return FromHere().load(task, title, folder)
    return Predicted(task=task, title=title, why="neither the device nor a table of measurements is at hand")


def write_unknown(path: Path, space: Space, archs: Sequence[Arch], column: str) -> None:
    """Write networks that have no time as a table to be filled in: a column for each knob, and one for the times."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*space.choices, column])
    writer.writerows([*(arch[knob] for knob in space.choices), ""] for arch in archs)
    write_text(path, text.getvalue())


# ------------------------------------------------------------------------------------------------------------ private


def _name(arch: Mapping[str, int]) -> str:
    return f"network_{hashlib.sha256(json.dumps(sorted(arch.items())).encode()).hexdigest()[:12]}"


def _time(text: str, where: str) -> float:
    """nan of a network that has none yet."""
    if not text.strip():
        return nan
    try:
        time = float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is no number") from None
    if not 0.0 < time < float("inf"):
        raise ValueError(f"{where}: a time is positive and finite, found {text}")
    return time


def _check_unit(task: SearchTask, seconds: Mapping[tuple[int, ...], float], path: Path, unit: str) -> None:
    """A thousandfold is no error of a model: refuse times in another unit than said."""
    some = list(seconds)[:: max(1, len(seconds) // _NUM_CHECKED)]
    predicted_s_N = task.costs_many(task.space.encode([dict(zip(task.space.choices, arch)) for arch in some]))
    ratio = float(np.median([seconds[arch] for arch in some] / predicted_s_N["latency_s"]))
    if not 1.0 / _UNIT_SLIP < ratio < _UNIT_SLIP:
        raise ValueError(
            f"{path}: networks took {ratio:.3g} times what is predicted for {task.predictor.device.name}; are their "
            f"times in {unit}? yardstick.unit is one of {list(UNITS)}"
        )
