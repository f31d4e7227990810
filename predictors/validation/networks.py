"""Whole networks that somebody measured on a device, held out from what little of them the predictor may see.

Two sources: a person's CSV of networks and seconds, and what `predictors.measure_networks` leaves.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictors.calibration import calibrate
from predictors.class_prior import ClassPrior
from predictors.cost import kernel_cost
from predictors.device import Device
from predictors.fusion import fuse
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable
from predictors.network_times import NetworkTimes
from predictors.roofline import roofline
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison

AGAIN = "measured again"
"""Every second pass as a model of the others: nobody predicts better than a measurement repeats."""

UNITS = {
    "seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6,
    "latency_s": 1.0, "latency_ms": 1e-3, "latency_us": 1e-6,
}  # fmt: skip
"""Columns that give a network's time."""

MIN_CALIBRATION = 3

_UNIT_SLIP = 200.0
_ODD_ONE = 50.0

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedNetwork:
    """A network and what it took, in seconds."""

    name: str
    graph: Graph
    measured_s: float


def read_measured(path: Path, read: Callable[[str, Path], Graph]) -> list[TimedNetwork]:
    """Networks of a CSV with the columns `network` and one whose name is a unit (`UNITS`).

    Args:
        read: makes a graph of what stands under `network`, and the folder of the file that relative paths start from.

    Raises:
        ValueError: no such columns, no rows, a time that is not positive, a network that cannot be read; with the line.
    """
    found = []
    for row in timed_rows(path):
        if row.seconds is None:
            raise ValueError(f"{row.where}: {row.network!r} has no time")
        try:
            graph = read(row.network, path.parent)
        except ValueError as error:
            raise ValueError(f"{row.where}: {error}") from None
        found.append(TimedNetwork(name=row.network, graph=graph, measured_s=row.seconds))
    if not found:
        raise ValueError(f"{path}: has no rows")
    return found


class TimedRow(NamedTuple):
    """A line of a CSV of times: its file and number, what stands under `network`, and seconds where there is a time."""

    where: str
    network: str
    seconds: float | None


def timed_rows(path: Path) -> Iterator[TimedRow]:
    """Lines of a CSV with a column `network` and one whose name is a unit of `UNITS`.

    Raises:
        ValueError: no such columns, or a time that is no number or not positive, with the line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        units = [column for column in columns if column in UNITS]
        if "network" not in columns or len(units) != 1:
            raise ValueError(f"{path}: needs the columns 'network' and one of {list(UNITS)}, found {columns}")
        [unit] = units
        for row in reader:
            where, network, text = (
                f"{path}:{reader.line_num}",
                (row["network"] or "").strip(),
                (row[unit] or "").strip(),
            )
            if not text:
                yield TimedRow(where, network, None)
                continue
            try:
                seconds = float(text) * UNITS[unit]
            except ValueError:
                raise ValueError(f"{where}: {unit} is {text!r}, which is no number") from None
            if not (isfinite(seconds) and seconds > 0.0):
                raise ValueError(f"{where}: {network!r} took {text} {unit}; a time is positive and finite")
            yield TimedRow(where, network, seconds)


def split(networks: Sequence[TimedNetwork], chosen: str) -> tuple[list[TimedNetwork], list[TimedNetwork]]:
    """Networks for calibration and the others.

    Args:
        chosen: a number, for the first so many; or a pattern of their names such as 'mobilenet_v3_0?'.

    Raises:
        ValueError: no network, or more than there are, or fewer than `MIN_CALIBRATION`.
    """
    if chosen.isdigit():
        found = list(range(min(int(chosen), len(networks))))
    else:
        found = [index for index, each in enumerate(networks) if fnmatchcase(each.name, chosen)]
    if len(found) < MIN_CALIBRATION or (chosen.isdigit() and int(chosen) > len(networks)):
        raise ValueError(
            f"calibration takes {MIN_CALIBRATION} to {len(networks)} networks of {len(networks)}; {chosen!r} names "
            f"{chosen if chosen.isdigit() else len(found)}"
        )
    rest = [each for index, each in enumerate(networks) if index not in found]
    return [networks[index] for index in found], rest


def compare_measured(
    name: str,
    networks: Sequence[TimedNetwork],
    device: Device,
    *,
    calibration: Sequence[TimedNetwork] = (),
    dtype: str | None = None,
    runtime: str | None = None,
    tables: Sequence[LookupTable] | None = None,
    prior: ClassPrior | str | Path | None = None,
) -> Comparison:
    """Measured networks against their predictions.

    The networks for calibration refit our model, and one factor for either baseline. Where fewer than three others are
    left, each of all is predicted with the rest for calibration (leave-one-out). Without calibration ours and the bare
    roofline see no time, and what is proportional to MACs sees all but the one it predicts.

    Args:
        networks: to be scored.
        calibration: others.
        device, dtype, runtime, tables: as of `LatencyPredictor`.
        prior: as of `calibrate`.

    Raises:
        ValueError: times that cannot be in the unit that they are said to be in.
    """
    plain = LatencyPredictor(device, tables, dtype=dtype, runtime=runtime)
    everything = [*calibration, *networks]
    _check_units(everything, np.array([plain.predict(each.graph).latency_s for each in everything]))
    folds = [(list(calibration), list(networks))]
    if not calibration or len(networks) < MIN_CALIBRATION:
        folds = [([*everything[:index], *everything[index + 1 :]], [each]) for index, each in enumerate(everything)]
    if calibration:
        how = "each left out in turn" if len(folds) > 1 else f"{len(calibration)} others for calibration"
        name = f"{name}; {how}"
    models: dict[str, list[Array]] = {OURS: [], MACS_BASELINE: [], ROOFLINE_BASELINE: []}
    std_s: list[Array] = []
    for fitted, scored in folds:
        predictor = plain
        if calibration:
            pairs = [(each.graph, each.measured_s) for each in fitted]
            refitted = calibrate(device, pairs, dtype=plain.dtype, runtime=runtime, tables=tables, prior=prior)
            predictor = LatencyPredictor(refitted, tables, dtype=plain.dtype)
        predictions = [predictor.predict(each.graph) for each in scored]
        models[OURS].append(np.array([each.latency_s for each in predictions]))
        std_s.append(np.array([each.std_s for each in predictions]))
        models[MACS_BASELINE].append(_scaled(_macs, fitted, scored))
        models[ROOFLINE_BASELINE].append(_scaled(_roofline_of(plain), fitted if calibration else [], scored))
    scored = [each for _, some in folds for each in some]
    return Comparison(
        name=name,
        measured_s_N=np.array([each.measured_s for each in scored]),
        predicted_s_N={model: np.concatenate(values) for model, values in models.items()},
        std_s_N=np.concatenate(std_s),
        labels=[each.name for each in scored],
    )


def compare_networks(
    times: NetworkTimes,
    device: Device,
    *,
    calibration: str = "10",
    tables: Sequence[LookupTable] | None = None,
) -> Comparison:
    """Networks that `predictors.measure_networks` timed, against predictions from a table of some of their kernels.

    What is predicted is the geometric mean of the first, third, ... pass; that of the second, fourth, ... stands beside
    it as a model of its own, `AGAIN`. Networks for calibration count with the mean of all passes.

    Args:
        times: of one device and runtime.
        device: whose tables hold the kernels.
        calibration: which networks, as of `split`, in the order of their names.
        tables: None takes those that the device file names.

    Raises:
        ValueError: too few networks.
    """
    header = times.header
    (odd_s, even_s), every_s, graphs = times.halves(), times.mean_seconds(), times.graphs
    networks = [TimedNetwork(name=name, graph=graphs[name], measured_s=odd_s[name]) for name in sorted(odd_s)]
    fitted, scored = split(networks, calibration)
    fitted = [replace(each, measured_s=every_s[each.name]) for each in fitted]
    comparison = compare_measured(
        f"{header.runtime} {header.runtime_version}, {header.dtype}, {header.threads} thread"
        f"{'' if header.threads == 1 else 's'}",
        scored,
        device,
        calibration=fitted,
        dtype=header.dtype,
        runtime=header.runtime,
        tables=tables,
    )
    if any(name not in even_s for name in comparison.labels):
        return comparison
    again_s_N = np.array([even_s[name] for name in comparison.labels])
    return replace(comparison, predicted_s_N={**comparison.predicted_s_N, AGAIN: again_s_N})


def table_note(times: NetworkTimes, device: Device, tables: Sequence[LookupTable] | None = None) -> str:
    """How much of the networks' kernels and of their time the tables hold, in words."""
    header = times.header
    predictor = LatencyPredictor(device.in_runtime(header.runtime), tables, dtype=header.dtype)
    predictions = [predictor.predict(graph) for graph in times.graphs.values()]
    kernels = {node.kernel for prediction in predictions for node in prediction.kernel_nodes}
    num_measured = sum(len(table.entries) for table in predictor.tables)
    return (
        f"{header.runtime}: {num_measured} kernels measured, {num_measured / len(kernels):.0%} of the {len(kernels)} "
        f"of these networks; with them {np.mean([each.coverage for each in predictions]):.0%} of a network's time"
    )


# ------------------------------------------------------------------------------------------------------------ private


def _macs(graph: Graph) -> float:
    return float(graph.macs)


def _roofline_of(predictor: LatencyPredictor) -> Callable[[Graph], float]:
    device, dtype = predictor.device, predictor.dtype

    def seconds(graph: Graph) -> float:
        nodes = fuse(graph, predictor.runtime, dtype)
        return sum(
            roofline(kernel_cost(node.kernel, device.channel_alignment), device, dtype).latency_s for node in nodes
        )

    return seconds


def _scaled(amount: Callable[[Graph], float], fitted: Sequence[TimedNetwork], scored: Sequence[TimedNetwork]) -> Array:
    """Amounts of the scored networks times the geometric mean of measured / amount over the fitted ones, if any."""
    amounts_N = np.array([amount(each.graph) for each in scored])
    if not fitted:
        return amounts_N
    logs = [np.log(each.measured_s / amount(each.graph)) for each in fitted]
    scaled_N: Array = amounts_N * float(np.exp(np.mean(logs)))
    return scaled_N


def _check_units(networks: Sequence[TimedNetwork], predicted_s_N: Array) -> None:
    """A thousandfold is no error of a model: refuse times in another unit than said, of all networks or of one."""
    ratio_N = np.array([each.measured_s for each in networks]) / predicted_s_N
    usual = float(np.median(ratio_N))
    if not 1.0 / _UNIT_SLIP < usual < _UNIT_SLIP:
        likely = "milliseconds" if usual > 1.0 else "a larger unit, or another device"
        raise ValueError(
            f"the networks took {usual:.3g} times what is predicted of them; are their times in {likely}? "
            f"columns say their unit by name: {list(UNITS)}"
        )
    for each, ratio in zip(networks, ratio_N):
        if not 1.0 / _ODD_ONE < ratio / usual < _ODD_ONE:
            raise ValueError(
                f"network {each.name!r} took {each.measured_s:.3g} s, {ratio / usual:.3g} times as much as the others "
                "beside their predictions; is its time in another unit?"
            )
