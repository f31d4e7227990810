"""Measured whole networks as text: JSON Lines whose first line says where and how they were measured.

    {"format": "ridgeline-network-times", "version": 1, "device": "host", "runtime": "onnxruntime", ...}
    {"network": "random_00", "number": 1, "latency_p50_s": 0.0071, "spread": 0.004, "num_visits": 12,
     "reference_s": 0.00084, "nodes": [...], "outputs": [...]}
    {"network": "random_00", "number": 2, ...}
    {"network": "odd", "number": 1, "failed": "onnxruntime has no kernel for ..."}

A line is a network in one pass, so that a kill loses one network and passes tell how far each repeats the others.
The networks themselves stand in it: nothing else is needed to predict them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from predictors.graph import Graph
from predictors.graph_file import graph_from_record, graph_record
from predictors.json_lines import append_records, read_records
from predictors.lookup_table import TableHeader, begin, check_same, under_header
from predictors.mapping import check_keys, check_type

FORMAT = "ridgeline-network-times"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTime:
    """Median seconds of one whole network in one pass.

    Attributes:
        number: of the pass, from 1.
        latency_p50_s: median over visits, in seconds, with the reference at its best.
        spread: relative standard deviation of that median.
        num_visits: behind it.
        reference_s: seconds of the reference kernel at its best when this was written.
    """

    name: str
    graph: Graph
    number: int
    latency_p50_s: float
    spread: float
    num_visits: int
    reference_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTimes:
    """Networks that were measured on one device under one runtime, in one or several passes.

    Attributes:
        times: with the reference as fast as it ever was in this file, in the file's order.
        failures: reason by name, of networks that could not be run.
    """

    header: TableHeader
    times: tuple[NetworkTime, ...] = ()
    failures: Mapping[str, str]

    @property
    def graphs(self) -> dict[str, Graph]:
        """Networks by name, in the order in which they were first measured."""
        found: dict[str, Graph] = {}
        for time in self.times:
            found.setdefault(time.name, time.graph)
        return found

    @property
    def passes(self) -> tuple[int, ...]:
        """Numbers of the passes that there are."""
        return tuple(sorted({time.number for time in self.times}))

    def of_pass(self, number: int) -> dict[str, NetworkTime]:
        """What one pass found, by name; of a network that stands twice, the last."""
        return {time.name: time for time in self.times if time.number == number}

    def mean_seconds(self, passes: Collection[int] | None = None) -> dict[str, float]:
        """Geometric mean over passes, None for all, by name, of the networks that were measured in any of them."""
        found: dict[str, list[float]] = {}
        for time in self.times:
            if passes is None or time.number in passes:
                found.setdefault(time.name, []).append(time.latency_p50_s)
        return {name: geometric_mean(seconds) for name, seconds in found.items()}

    def halves(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean seconds of the first, third, ... pass, and of the second, fourth, ...: each tells how far the other
        repeats."""
        return self.mean_seconds(self.passes[::2]), self.mean_seconds(self.passes[1::2])

    @staticmethod
    def read(path: str | Path) -> "NetworkTimes":
        """Read a file.

        Raises:
            ValueError: another format or version, or a malformed line (file and line are named).
        """
        path = Path(path)
        header, records = under_header(read_records(path), FORMAT, VERSION, path, "these are no times of networks")
        times: list[NetworkTime] = []
        failures: dict[str, str] = {}
        known: dict[str, Graph] = {}
        for where, record in records.items():
            if "failed" in record:
                keys = ("network", "number", "failed")
                check_keys(record, keys, keys, where)
                name = check_type(record["network"], str, f"{where}: network")
                failures[name] = check_type(record["failed"], str, f"{where}: failed")
                continue
            time = _time(record, where)
            if time.graph != known.setdefault(time.name, time.graph):
                raise ValueError(f"{where}: {time.name!r} is another network than on an earlier line")
            times.append(time)
        best_s = min((time.reference_s for time in times), default=0.0)
        return NetworkTimes(
            header=header, times=tuple(_with_reference(time, best_s) for time in times), failures=failures
        )

    @staticmethod
    def open(path: str | Path, header: TableHeader) -> "NetworkTimes":
        """The file at `path` to append to: begun with `header` where there is none, else checked to be its own.

        Raises:
            ValueError: the file was measured otherwise; every field but the date must agree.
        """
        path = Path(path)
        begin(path, header, FORMAT, VERSION)
        found = NetworkTimes.read(path)
        check_same(found.header, header, path)
        return found


def append_time(path: Path, time: NetworkTime) -> None:
    """Add one line to a file and see it onto the disk."""
    append_records(
        path,
        [
            {
                "network": time.name,
                "number": time.number,
                "latency_p50_s": time.latency_p50_s,
                "spread": time.spread,
                "num_visits": time.num_visits,
                "reference_s": time.reference_s,
                **graph_record(time.graph),
            }
        ],
    )


def append_failure(path: Path, name: str, number: int, reason: str) -> None:
    """Say why a network has no time."""
    append_records(path, [{"network": name, "number": number, "failed": reason}])


# ------------------------------------------------------------------------------------------------------------ private


def _with_reference(time: NetworkTime, reference_s: float) -> NetworkTime:
    """What was measured in units of the reference, in seconds at another best of it."""
    return replace(time, latency_p50_s=time.latency_p50_s * reference_s / time.reference_s, reference_s=reference_s)


def _time(record: Mapping[str, object], where: str) -> NetworkTime:
    numbers = ("latency_p50_s", "spread", "reference_s")
    counts = ("number", "num_visits")
    keys = ("network", *numbers, *counts, "nodes", "outputs")
    check_keys(record, keys, keys, where)
    name = check_type(record["network"], str, f"{where}: network")
    values = {key: float(check_type(record[key], (int, float), f"{where}: {key}")) for key in numbers}
    if not 0.0 < values["latency_p50_s"] < float("inf") or not values["spread"] >= 0.0 or not values["reference_s"] > 0:
        raise ValueError(f"{where}: seconds must be positive and spread at least 0, found {values}")
    return NetworkTime(
        name=name,
        graph=graph_from_record(record, where, name),
        number=check_type(record["number"], int, f"{where}: number"),
        num_visits=check_type(record["num_visits"], int, f"{where}: num_visits"),
        latency_p50_s=values["latency_p50_s"],
        spread=values["spread"],
        reference_s=values["reference_s"],
    )
