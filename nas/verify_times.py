"""Seconds of a front's networks: measured on this machine, or read from a CSV of times taken elsewhere.

Measured by the means of `predictors.measure`: every network built several times, visited in random order in passes that
lie apart, in units of a reference that runs before and after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import torch

from nas.export import ONNX_FILE
from nas.files import write_text
from nas.run_folder import Run, chosen_of
from predictors.device import Device
from predictors.export_models import export_models
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.lookup_table import TableHeader
from predictors.measure.backend import RUNTIMES, open_backend, queues
from predictors.measure.clock import REFERENCE_KERNELS, Clock, keep_freed_memory
from predictors.measure.device_file import processor_name
from predictors.measure.networks import Repeats, measure_networks
from predictors.measure.rounds import Effort, visit_all
from predictors.measure.session import INSTANCES, Settings
from predictors.network_times import NetworkTimes
from predictors.validation.networks import timed_rows

FORMATS = {"litert": "tflite", "ncnn": "ncnn"}
"""What a runtime reads; all others take ONNX."""

_TOOLS = {
    "tflite": "benchmark_model --graph=NAME.tflite --num_threads=1 --use_xnnpack=true (prints microseconds)",
    "ncnn": "benchncnn 50 1 2 -1 0 param=NAME.param shape=[...] (prints milliseconds)",
    "onnx": "trtexec --onnx=NAME.onnx (prints milliseconds), or ONNX Runtime on the device",
}
_SHEET = "times.csv"
_NOTHING = "nothing was measured"

_BUSY = 0.5
"""Of `Clock.drift`: on a shared machine that is otherwise idle the reference is 35 % slower than at its best."""
_FASTER = 0.9


class ElsewhereError(ValueError):
    """The device is not this machine, or its runtime is not here; the message says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSeconds:
    """Of one network.

    Attributes:
        spread: relative standard deviation; None where nobody said.
        exported_s: seconds of the ONNX file that the search exported; None where there is none, or another runtime.
    """

    seconds: float
    spread: float | None = None
    exported_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """How to measure here.

    Attributes:
        settings: precision, budget, seed.
        passes, instances: as of `predictors.measure.networks.Repeats`; None takes as many instances as are usual.
        threads: None takes those of the device's tables, else one.
        here: this machine is the device, although the device's file does not say so.
        again: measure anew what has been measured before; the old times are kept beside.
    """

    settings: Settings = field(default_factory=Settings)
    passes: int = 2
    instances: int | None = None
    threads: int | None = None
    here: bool = False
    again: bool = False


def measure_here(
    run: Run, predictor: LatencyPredictor, graphs: Mapping[str, Graph], measuring: Measuring
) -> tuple[dict[str, NetworkSeconds], list[str]]:
    """Seconds of networks on this machine, and what to be careful about. Killed, the next call goes on from there.

    What is measured is the network as the device's tables were: built from its graph. The ONNX files that the search
    has exported are timed beside, under ONNX Runtime on a processor.

    Args:
        predictor: of the device and the runtime to measure under.
        graphs: by name.

    Raises:
        ElsewhereError: this machine is not the device, or its runtime cannot be measured.
        ValueError: the runtime is not installed, or can run none of the networks.
    """
    return measure_graphs(
        run.folder / "verify", predictor, graphs, measuring, exported=lambda: _exported_files(run, graphs)
    )


def measure_graphs(
    folder: Path,
    predictor: LatencyPredictor,
    graphs: Mapping[str, Graph],
    measuring: Measuring,
    *,
    exported: Callable[[], Mapping[str, tuple[Path, list[int]]]] = dict,
) -> tuple[dict[str, NetworkSeconds], list[str]]:
    """What `measure_here` does, for networks of no run; their times are kept in the folder.

    Args:
        exported: ONNX files by the names of graphs, and the shape of the input of each, to be timed beside.
    """
    device = predictor.device
    runtime, processor = _runnable(predictor)
    if not measuring.here:
        _check_here(device, processor)
    threads = measuring.threads or next((table.header.threads for table in predictor.tables), 1)
    backend = open_backend(runtime, threads=threads, dtype=predictor.dtype, processor=processor)
    header = TableHeader(
        device=device.name,
        runtime=backend.name,
        runtime_version=backend.version,
        dtype=backend.dtype,
        threads=threads,
        date=date.today().isoformat(),
        reference_kernel=REFERENCE_KERNELS[processor],
        options=backend.options,
    )
    path = folder / f"{device.name}-{backend.name}-{backend.dtype}.networks.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if measuring.again and path.exists():
        path.rename(path.with_name(f"{path.name}.until-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}"))
    NetworkTimes.open(path, header)
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clock = Clock(threads, processor, *([device.reference.value] if device.reference else []))
        instances = measuring.instances or (1 if queues(backend) else INSTANCES)
        repeats = Repeats(passes=measuring.passes, instances=instances)
        measure_networks(path, graphs, backend, clock, measuring.settings, repeats)
        exported_s = {}
        if backend.name == "onnxruntime" and processor == "cpu":
            exported_s = _exported_seconds(exported(), clock, measuring.settings, threads)
    finally:
        torch.set_num_threads(before)
    times = NetworkTimes.read(path)
    found = {}
    for name in graphs:
        if of_network := [each for each in times.times if each.name == name]:
            found[name] = NetworkSeconds(
                seconds=geometric_mean(each.latency_p50_s for each in of_network),
                spread=float(np.mean([each.spread for each in of_network])) / len(of_network) ** 0.5,
                exported_s=exported_s.get(name),
            )
    if not found:
        raise ValueError(f"{backend.name} can run none of the front's networks: {'; '.join(times.failures.values())}")
    return found, _notes(device, clock)


def why_elsewhere(predictor: LatencyPredictor) -> str | None:
    """Why this machine cannot measure what is predicted, as a sentence without its full stop; None if it can."""
    try:
        _, processor = _runnable(predictor)
    except ElsewhereError as error:
        return str(error).removeprefix(f"{_NOTHING}: ")
    return _elsewhere(predictor.device, processor)


def read_times(path: Path, names: Sequence[str]) -> dict[str, NetworkSeconds]:
    """Seconds by network, of a CSV with the columns `network` and one whose name is a unit, as `timed_rows` reads it.

    Networks that stand in several lines count with their median. Names may end in a model file's suffix.

    Raises:
        ValueError: no such file or columns, an unknown network, a time that is not positive; file and line are named.
    """
    if not path.is_file():
        raise ValueError(f"measured={path}: there is no such file")
    found: dict[str, list[float]] = {}
    for row in timed_rows(path):
        name = Path(row.network).name.partition(".")[0]
        if name not in names:
            few = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
            raise ValueError(f"{row.where}: {row.network!r} is no network of this front; it has {few}")
        if row.seconds is not None:
            found.setdefault(name, []).append(row.seconds)
    if not found:
        raise ValueError(f"{path}: has no times")
    return {name: NetworkSeconds(seconds=float(np.median(seconds))) for name, seconds in found.items()}


def write_models(graphs: Mapping[str, Graph], runtime: str, folder: Path) -> list[str]:
    """Write networks as models to be timed elsewhere, with a CSV for their times; what a folder has already stays.

    Weights are random: no runtime's time depends on them.

    Args:
        graphs: by name.
        runtime: that will run them.

    Returns:
        What to do with them, in lines.
    """
    model_format = FORMATS.get(runtime, "onnx")
    sheet = folder / _SHEET
    if not sheet.exists():
        export_models(graphs, model_format, folder)
        write_text(sheet, "network,milliseconds\n" + "".join(f"{name},\n" for name in graphs))
    return [
        f"{len(graphs)} networks of the front are written to {folder} as {model_format}. On the device:",
        f"  1. time each as a whole, with {_TOOLS[model_format]};",
        "     docs/bring_your_device.md goes through the tools",
        f"  2. write the times into {sheet}, whose column says the unit: milliseconds, seconds or microseconds",
        f"  3. the same command with measured={sheet}",
    ]


class ExportedRun:
    """An exported ONNX file in ONNX Runtime, with the options under which graphs are measured."""

    def __init__(self, path: Path, shape: Sequence[int], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).standard_normal(tuple(shape)).astype(np.float32)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("image", onnxruntime.OrtValue.ortvalue_from_numpy(image))
        self._binding.bind_output("logits")

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)


# ------------------------------------------------------------------------------------------------------------ private


def _runnable(predictor: LatencyPredictor) -> tuple[str, str]:
    """Name of the runtime to measure with, and its processor.

    Raises:
        ElsewhereError: no runtime of that name can be measured.
    """
    name = predictor.runtime.name.removesuffix("_cuda")
    if name not in RUNTIMES:
        raise ElsewhereError(
            f"{_NOTHING}: runtime {predictor.runtime.name!r} of device {predictor.device.name!r} cannot run "
            f"here; those that can be measured are {list(RUNTIMES)}"
        )
    processors = {str(table.header.options.get("processor", "cpu")) for table in predictor.tables}
    on_gpu = predictor.runtime.name.endswith("_cuda") or name == "tensorrt" or processors == {"cuda"}
    return name, "cuda" if on_gpu else "cpu"


def _check_here(device: Device, processor: str) -> None:
    """Raise ElsewhereError unless the device's own file says that it was measured on this machine's processor."""
    if why := _elsewhere(device, processor):
        raise ElsewhereError(
            f"{_NOTHING}: {why}; give measured=times.csv, or hw=host to predict for and measure this machine, or "
            "here=true if this machine is the device"
        )


def _elsewhere(device: Device, processor: str) -> str | None:
    machine = processor_name()
    if processor == "cuda":
        if not torch.cuda.is_available():
            return f"device {device.name!r} is a GPU, and this machine has none"
        machine = torch.cuda.get_device_name()
    said = device.reference.source if device.reference else ""
    if f", {machine}," in said:
        return None
    measured = f"was measured elsewhere ({said})" if said else "was not measured on this machine"
    return f"device {device.name!r} ({device.description}) {measured}, and this machine is {machine}"


def _notes(device: Device, clock: Clock) -> list[str]:
    """Whether this machine was busy, and whether it is as fast as when the device was measured."""
    notes = []
    if clock.drift > _BUSY:
        notes.append(
            f"the machine was busy: its reference ran {clock.drift:.0%} slower than its best in the mean; measure "
            "again when it is not (again=true)"
        )
    if device.reference is not None and clock.reference_s < _FASTER * device.reference.value:
        notes.append(
            f"the reference takes {1e3 * clock.reference_s:.2f} ms here, {1e3 * device.reference.value:.2f} ms by the "
            "device's file: this is another machine, or runs faster than it did then"
        )
    return notes


def _exported_files(run: Run, graphs: Mapping[str, Graph]) -> dict[str, tuple[Path, list[int]]]:
    """ONNX files that the search has exported, and the shape that each takes, of networks that are measured."""
    found = {}
    try:
        for role, description in chosen_of(run).items():
            path = run.folder / "subnets" / role / ONNX_FILE
            name = f"network_{description['number']:04d}"
            if path.is_file() and name in graphs:
                found[name] = path, description["input_shape"]
    except (ValueError, KeyError):
        return {}  # none are needed
    return found


def _exported_seconds(
    files: Mapping[str, tuple[Path, list[int]]], clock: Clock, settings: Settings, threads: int
) -> dict[str, float]:
    """Seconds of exported files, each built several times."""
    runs = [(name, ExportedRun(*each, threads)) for name, each in files.items() for _ in range(INSTANCES)]
    rng = np.random.default_rng(settings.seed)
    visits = visit_all([each for _, each in runs], clock, rng, Effort(precision=settings.precision, max_visits=4))
    levels: dict[str, list[float]] = {}
    for (name, _), each in zip(runs, visits):
        levels.setdefault(name, []).extend(each.levels().tolist())
    return {name: float(np.median(found)) * clock.reference_s for name, found in levels.items()}
