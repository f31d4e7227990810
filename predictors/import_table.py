"""Others' measurements as a lookup table: what a runtime's own tool said on a device where Python never ran.

    python -m predictors.import_table logs/*.txt --format tflite --manifest models/manifest.json \\
        --device my_phone --runtime litert --runtime-version 2.16 --dtype float32 --threads 4 --out hw

Everything is read and matched before the first line is written. docs/bring_your_device.md goes through it.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from math import sqrt
from pathlib import Path

import numpy as np

from predictors.autotvm import TunedKernel, read_tuned_kernels
from predictors.cost import BYTES_PER_ELEMENT, kernel_cost
from predictors.device import Device, available_devices, load_device
from predictors.fusion import Kernel, Runtime, fuse, load_runtime
from predictors.imports import LAYER_READERS
from predictors.imports.kernel_csv import read_kernel_csv
from predictors.imports.layers import seconds, with_absorbed
from predictors.imports.manifest import ExportedModel, read_manifest
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable, Measurement, TableHeader, append_measurement
from predictors.matching import Seconds, Unmatched, kernel_times
from predictors.roofline import roofline

FORMATS = (*LAYER_READERS, "autotvm", "csv")

DEFAULT_SPREAD = 0.05
"""Relative deviation of a time that came alone: tools that report one mean or median leave out how it scatters."""

MAX_UNOWNED_SHARE = 0.25
"""Of a network's time; with more of it in layers that no kernel owns, it is not known what the rest belongs to."""

_MAX_FLOPS, _MAX_S = 1e16, 1e4
_FASTEST, _SLOWEST = 0.2, 1000.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one log says of a kernel in one place.

    Attributes:
        seconds_R: its times, one for each run that the log tells apart.
        num_runs: runs behind these times.
        spread: relative standard deviation where the log says it.
        resolution_s: the last digit of the log.
    """

    kernel: Kernel
    seconds_R: Seconds
    num_runs: int
    spread: float | None = None
    resolution_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Samples of some logs, and what a person should know of how they were matched."""

    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_layer_log(path: Path, log_format: str, model: ExportedModel, runtime: Runtime, dtype: str) -> Readings:
    """Times of a model's kernels from a log of its layers.

    Raises:
        ValueError: the log is malformed or another model's, gives no kernel a time of its own, or has more than
            `MAX_UNOWNED_SHARE` of its time in layers that no kernel owns.
    """
    kernels = fuse(model.graph, runtime, dtype)
    layers = LAYER_READERS[log_format](path, model, kernels)
    nodes, absorbed = with_absorbed(kernels, layers.nodes)
    try:
        times = kernel_times(kernels, nodes, layers.seconds_RL)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; its layers are called {list(layers.names[:3])}, not 'n1_conv2d' as in exported models"
        ) from None
    total_s = float(layers.seconds_RL.sum())
    if total_s == 0.0:
        raise ValueError(f"{path}: all of its times are 0")
    unowned = float(layers.seconds_RL[:, list(times.unowned)].sum()) / total_s
    names = [layers.names[index] for index in times.unowned]
    if unowned > MAX_UNOWNED_SHARE:
        raise ValueError(
            f"{path}: {unowned:.0%} of the time ran in layers that name no kernel, so it is not known whose it is: "
            f"{_listed(names)}"
        )
    groups = [_described(group, [kernels[index].kernel for index in group.kernels]) for group in times.unmatched]
    if not times.seconds_R:
        raise ValueError(f"{path}: no kernel has a time of its own; one layer runs {_listed(groups)}")
    own = sum(float(seconds_R.sum()) for seconds_R in times.seconds_R.values()) / total_s
    notes = [
        f"{path.name}: {len(times.seconds_R)} of {len(kernels)} kernels of {model.name}, {own:.1%} of "
        f"{total_s / len(layers.seconds_RL) * 1e3:.4g} ms"
    ]
    if names:
        notes.append(f"  {unowned:.1%} in layers that run no kernel, counted with the next: {_listed(names)}")
    if groups:
        notes.append(f"  {1.0 - own:.1%} in layers of several kernels, which cannot be told apart: {_listed(groups)}")
    if absorbed:
        notes.append(
            f"  {len(absorbed)} kernels are named by no layer; if {runtime.name} fuses them on this device, say so "
            "under `fusion` in the device file and import again"
        )
    samples = tuple(
        Sample(
            kernel=kernels[index].kernel,
            seconds_R=seconds_R,
            num_runs=layers.num_samples,
            resolution_s=layers.resolution_s,
        )
        for index, seconds_R in times.seconds_R.items()
    )
    return Readings(samples=samples, notes=tuple(notes))


def measurements(samples: Iterable[Sample]) -> dict[Kernel, Measurement]:
    """Median time of each kernel over logs and places, with its spread; kernels that took 0 s are left out.

    The spread is the standard deviation between logs and places, or where there is one between its runs, over the root
    of their number. A few can agree by chance, so a deviation counts as at least the median of all kernels. What comes
    alone has `DEFAULT_SPREAD`, unless its log says better. The log's last digit adds resolution / sqrt(12).
    """
    found: dict[Kernel, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.kernel, []).append(sample)
    values = {kernel: _values(each) for kernel, each in found.items()}
    values = {kernel: each for kernel, each in values.items() if np.median(each) > 0.0}
    deviations = [_deviation(each) for each in values.values() if len(each) > 1]
    typical = float(np.median(deviations)) if deviations else 0.0
    result = {}
    for kernel, each in values.items():
        latency_s = float(np.median(each))
        own = found[kernel]
        if len(own) == 1 and own[0].spread is not None:
            spread = own[0].spread
        elif len(each) == 1 or max(_deviation(each), typical) == 0.0:
            spread = DEFAULT_SPREAD
        else:
            spread = max(_deviation(each), typical) / sqrt(len(each))
        rounding = max(sample.resolution_s for sample in own) / sqrt(12.0) / latency_s
        result[kernel] = Measurement(
            latency_p50_s=latency_s,
            spread=sqrt(spread**2 + rounding**2),
            num_runs=sum(sample.num_runs for sample in own),
        )
    return result


def check_plausible(found: Mapping[Kernel, Measurement], device: Device | None) -> None:
    """Raise ValueError where the times cannot be: usually seconds, milliseconds and microseconds were mixed up.

    Args:
        found: what was measured.
        device: where its file exists; its roofline then bounds the sum of all times.
    """
    for kernel, measurement in found.items():
        if measurement.latency_p50_s > _MAX_S:
            raise ValueError(
                f"{kernel.text} would take {measurement.latency_p50_s:.3g} s; is the unit of the times right?"
            )
        rate = kernel_cost(kernel).flops / measurement.latency_p50_s
        if rate > _MAX_FLOPS:
            raise ValueError(
                f"{kernel.text} in {measurement.latency_p50_s:.3g} s would be {rate:.1e} FLOP/s, more than any device "
                "has; is the unit of the times right?"
            )
    if device is None:
        return
    measured_s = sum(measurement.latency_p50_s for measurement in found.values())
    least_s = sum(
        roofline(kernel_cost(kernel, device.channel_alignment), device, kernel.dtype).latency_s for kernel in found
    )
    if not _FASTEST < measured_s / least_s < _SLOWEST:
        raise ValueError(
            f"the kernels take {measured_s:.3g} s together, the peaks of device {device.name!r} allow "
            f"{least_s:.3g} s; is the unit of the times right, and are the peaks those of as many threads?"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(
        prog="python -m predictors.import_table", description="Turn what runtimes' own tools print into a lookup table."
    )
    parser.add_argument("files", type=Path, nargs="+", help="logs; several of one model are combined")
    parser.add_argument("--format", choices=FORMATS, required=True, help="of the logs")
    parser.add_argument("--device", required=True, help="name of the device that they come from")
    parser.add_argument("--runtime", required=True, help="runtime whose fusion rules hold, of configs/runtime")
    parser.add_argument("--runtime-version", required=True, help="of the runtime on the device")
    parser.add_argument("--dtype", required=True, help="that the networks were computed in")
    parser.add_argument("--threads", type=int, required=True, help="that they were computed with; 1 on a GPU")
    parser.add_argument("--manifest", type=Path, help="of the exported models; for the logs of layers")
    parser.add_argument(
        "--model", help="that the logs time; by default the one whose name a log's file name begins with"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the table; ./hw is where devices are looked for"
    )
    options = parser.parse_args(arguments)
    try:
        print(_run(options))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _run(options: argparse.Namespace) -> str:
    """Read, match and check everything, then append it to the table; what to tell the user."""
    for what, name in (("--device", options.device), ("--runtime", options.runtime)):
        _check_name(what, name)
    if options.dtype not in BYTES_PER_ELEMENT:
        raise ValueError(f"unknown dtype {options.dtype!r}; known are {sorted(BYTES_PER_ELEMENT)}")
    if options.threads < 1:
        raise ValueError(f"threads must be at least 1, found {options.threads}")
    runtime = load_runtime(options.runtime)
    _check_name("the runtime's name", runtime.name)
    device = None
    if options.device in available_devices():
        predictor = LatencyPredictor(load_device(options.device), (), dtype=options.dtype, runtime=options.runtime)
        device, runtime = predictor.device, predictor.runtime
    readings = [_read(path, options, runtime) for path in options.files]
    samples = [sample for reading in readings for sample in reading.samples]
    found = measurements(samples)
    if not found:
        raise ValueError(f"all {len(samples)} times are 0, shorter than the log's last digit")
    check_plausible(found, device)

    path = options.out / f"{options.device}-{runtime.name}-{options.dtype}.jsonl"
    header = TableHeader(
        device=options.device, runtime=runtime.name, runtime_version=options.runtime_version, dtype=options.dtype,
        threads=options.threads, date=date.today().isoformat(), reference_kernel="none, imported",
    )  # fmt: skip
    before = LookupTable.open(path, header).entries
    for kernel, measurement in found.items():
        append_measurement(path, kernel, measurement)

    lines = [note for reading in readings for note in reading.notes]
    if too_short := {sample.kernel for sample in samples} - found.keys():
        lines.append(f"{len(too_short)} kernels took 0 s, less than the log's last digit, and were left out")
    replaced = len(found.keys() & before.keys())
    lines += [
        f"imported {len(found)} kernels from {len(samples)} times into {path}"
        + (f"; {replaced} of them replace older entries" if replaced else ""),
        f"in the device file, {options.device}.yaml beside it:" if device is None else "in the device file:",
        f"  name: {options.device}",
        f"  runtime: {runtime.name}",
        f"  dtype: {options.dtype}",
        f"  tables: [{path.name}]",
    ]
    return "\n".join(lines)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{what} must be a plain name, as it becomes part of a file's, found {name!r}")


def _read(path: Path, options: argparse.Namespace, runtime: Runtime) -> Readings:
    if options.format in LAYER_READERS:
        if options.manifest is None:
            raise ValueError(f"format {options.format!r} times layers of exported models; name theirs with --manifest")
        model = _model_of(path, read_manifest(options.manifest), options.model)
        return read_layer_log(path, options.format, model, runtime, options.dtype)
    if options.format == "autotvm":
        return _from_autotvm(path, options.dtype)
    samples = [
        Sample(kernel=row.kernel, seconds_R=np.array([row.latency_s]), num_runs=row.num_runs, spread=row.spread)
        for row in read_kernel_csv(path, options.dtype)
    ]
    return Readings(samples=tuple(samples), notes=(f"{path.name}: {len(samples)} rows",))


def _model_of(path: Path, models: Mapping[str, ExportedModel], asked: str | None) -> ExportedModel:
    if asked is not None:
        if asked not in models:
            raise ValueError(f"the manifest has no model {asked!r}; it has {sorted(models)}")
        return models[asked]
    if len(models) == 1:
        return next(iter(models.values()))
    fitting = [name for name in models if path.name.startswith(name)]
    if not fitting:
        raise ValueError(f"{path}: its name begins with none of {sorted(models)}; say with --model what it times")
    return models[max(fitting, key=len)]


def _from_autotvm(path: Path, dtype: str) -> Readings:
    """The best configuration of each kernel: a tuned runtime takes that one."""
    best: dict[Kernel, TunedKernel] = {}
    records = read_tuned_kernels(path)
    for tuned in records:
        if tuned.kernel.dtype != dtype:
            raise ValueError(f"{path}: it holds kernels in {tuned.kernel.dtype}, asked for {dtype!r}")
        seconds(tuned.latency_s, 1.0, f"{path}: task {tuned.task!r}")
        if tuned.kernel not in best or tuned.latency_s < best[tuned.kernel].latency_s:
            best[tuned.kernel] = tuned
    if not best:
        raise ValueError(f"{path}: it holds no kernel that ran")
    samples = tuple(
        Sample(kernel=kernel, seconds_R=np.array([tuned.latency_s]), num_runs=1) for kernel, tuned in best.items()
    )
    return Readings(
        samples=samples, notes=(f"{path.name}: {len(best)} kernels at their best of {len(records)} records",)
    )


def _values(samples: Sequence[Sample]) -> Seconds:
    """What scatters: the medians of several logs and places, or the runs of one."""
    if len(samples) == 1:
        return samples[0].seconds_R
    return np.array([np.median(sample.seconds_R) for sample in samples])


def _deviation(values: Seconds) -> float:
    return float(np.std(values, ddof=1) / np.median(values)) if len(values) > 1 else 0.0


def _described(group: Unmatched, kernels: Sequence[Kernel]) -> str:
    names = ["+".join(operator.variant for operator in (kernel.anchor, *kernel.fused)) for kernel in kernels]
    if len(names) == 1:
        return f"{names[0]}, which no layer ran"
    return " | ".join(names[:6]) + (f" | {len(names) - 6} more" if len(names) > 6 else "")


def _listed(names: Sequence[str], most: int = 4) -> str:
    counts = Counter(names)
    shown = [name if count == 1 else f"{name} ({count} times)" for name, count in counts.most_common(most)]
    return "; ".join(shown) + (f"; and {len(counts) - most} more" if len(counts) > most else "")


if __name__ == "__main__":
    sys.exit(main())
