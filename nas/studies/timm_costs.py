"""What published networks cost by this project's own count, kept in a file as soon as each is traced."""

import hashlib
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock

from nas.benchmark.processes import run_all
from nas.studies.timm_data import Published
from predictors.device import Device
from predictors.graph import Graph
from predictors.json_lines import append_records, read_records
from predictors.operators import Attention, Conv2d, Linear, MatMul

LIMIT_S = 60.0
"""How long a network may take to be traced and predicted."""

ATTENTION, DEPTHWISE, PLAIN, OTHER = "attention", "depthwise CNN", "plain CNN", "no attention, few convolutions"
FAMILIES = (PLAIN, DEPTHWISE, ATTENTION, OTHER)
FEWEST_WINDOWS = 0.15
"""Share of windows larger than 1x1 among convolutions and linear layers below which a network is no CNN."""
FEWEST_DEPTHWISE = 1 / 3
"""Share of depthwise ones among those windows below which a CNN is a plain one: filters that blur are depthwise too."""

_CHUNK = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedCosts:
    """Of one image at the batch of the benchmark.

    Attributes:
        question: of devices and calibration, `question_of`; costs of another question are not these.
        failed: why there are no costs; empty where there are.
        num_layers: convolutions and linear layers. num_windows: convolutions larger than 1x1; num_depthwise: of those.
        num_products: of activations by activations, as attention has them.
        traffic_bytes: that all kernels move after fusion, weights shared by the images of a batch.
        roofline_s: sum over the kernels of max(flops / peak, bytes / bandwidth).
        transferred_s: predicted from the data sheet, with what kernels reach on other devices.
        calibrated_s: predicted by the device as refitted to a few whole networks.
    """

    question: str
    network: str
    batch: int
    failed: str = ""
    num_layers: int = 0
    num_windows: int = 0
    num_depthwise: int = 0
    num_products: int = 0
    macs: float = 0.0
    num_params: int = 0
    traffic_bytes: float = 0.0
    arithmetic_intensity: float = 0.0
    roofline_s: float = 0.0
    transferred_s: float = 0.0
    calibrated_s: float = 0.0

    @property
    def family(self) -> str:
        """Which of `FAMILIES`. Attention: it multiplies activations by activations. Else a CNN, mostly of depthwise
        windows or not, unless hardly any of its layers are windows."""
        if self.num_products:
            return ATTENTION
        if self.num_depthwise and self.num_depthwise >= FEWEST_DEPTHWISE * self.num_windows:
            return DEPTHWISE
        return PLAIN if self.num_windows >= FEWEST_WINDOWS * self.num_layers else OTHER


def traced_costs(
    benchmark: str, networks: Sequence[Published], few: Sequence[Published], device: Device, path: Path, jobs: int = 1
) -> dict[str, TracedCosts]:
    """By `Published.text`; what the file does not have is traced and added to it, the cheapest first.

    Args:
        few: of the networks, those that the device is calibrated with.
        jobs: processes.
    """
    question = question_of(benchmark, few, device)
    known = _read(path, question)
    missing = sorted((each for each in networks if each.text not in known), key=lambda each: each.activations)
    if missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        calibrated = calibrated_with(few, device)
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        run_all([partial(trace_all, chunk, question, device, calibrated, path) for chunk in chunks], jobs)
        known = _read(path, question)
    return {each.text: known[each.text] for each in networks}


def question_of(benchmark: str, few: Sequence[Published], device: Device) -> str:
    """A short text that differs where the benchmark, its device, what calibrates it or our version does."""
    text = repr((benchmark, few, device, version("ridgeline-nas")))
    return f"{benchmark}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def calibrated_with(few: Sequence[Published], device: Device) -> Device:
    """The device refitted to what a few networks took."""
    from predictors.calibration import calibrate

    measured = [(trace_network(each), each.latency_s * each.batch) for each in few]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that such networks are unlike those that the device's numbers come from
        return calibrate(device, measured, runtime=device.runtime, tables=())


def trace_all(networks: Sequence[Published], question: str, device: Device, calibrated: Device, path: Path) -> None:
    """Trace networks one after the other, each added to the file at once; those that cannot be, with the reason."""
    from predictors.latency import LatencyPredictor

    predictors = [LatencyPredictor(each, ()) for each in (device, calibrated)]
    for network in networks:
        costs = costs_of(network, question, *predictors)
        with FileLock(path.with_name(f".{path.name}.lock")):
            append_records(path, [asdict(costs)])


def costs_of(network: Published, question: str, transferred: Any, calibrated: Any) -> TracedCosts:
    """Trace a network and predict it; one that fails or takes more than `LIMIT_S` says so."""
    from predictors.roofline import roofline

    try:
        with time_limit(LIMIT_S):
            graph = trace_network(network)
            prediction, refitted = transferred.predict(graph), calibrated.predict(graph)
    except (
        Exception,
        TooLongError,
    ) as error:  # whatever a network's own code raises: it is noted, and the next one goes on
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return TracedCosts(question=question, network=network.text, batch=network.batch, failed=reason)
    device, dtype, batch = prediction.device, prediction.dtype, network.batch
    return TracedCosts(
        question=question,
        network=network.text,
        batch=batch,
        **layer_counts(graph),
        macs=graph.macs / batch,
        num_params=graph.num_params,
        traffic_bytes=prediction.traffic_bytes / batch,
        arithmetic_intensity=prediction.arithmetic_intensity,
        roofline_s=sum(roofline(each.cost, device, dtype).latency_s for each in prediction.estimates) / batch,
        transferred_s=prediction.latency_s / batch,
        calibrated_s=refitted.latency_s / batch,
    )


def trace_network(network: Published) -> Graph:
    """The network at its resolution and batch."""
    _import_timm()
    from predictors.named_modules import timm_network

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what networks' own code is warned of
        return timm_network(network.text, batch=network.batch)


def layer_counts(graph: Graph) -> dict[str, Any]:
    """What `TracedCosts` tells families by."""
    operators = [node.operator for node in graph.nodes]
    layers = [each for each in operators if isinstance(each, Conv2d | Linear)]
    windows = [each for each in layers if isinstance(each, Conv2d) and max(each.kernel) > 1]
    return {
        "num_layers": len(layers),
        "num_windows": len(windows),
        "num_depthwise": sum(each.is_depthwise for each in windows),
        "num_products": sum(isinstance(each, Attention | MatMul) for each in operators),
    }


class TooLongError(BaseException):
    """A network took too long. No Exception, so that no network's own code takes it for one of its errors."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLongError in what runs longer; for the main thread of a process."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------ private

_kept: list[Any] = []
"""A library's schemas vanish with it."""


def _read(path: Path, question: str) -> Mapping[str, TracedCosts]:
    if not path.is_file():
        return {}
    records = [record for record in read_records(path) if record.get("question") == question]
    try:
        return {str(record["network"]): TracedCosts(**record) for record in records}  # type: ignore[arg-type]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: no costs of this version: {error}; remove the file, or choose another") from None


def _import_timm() -> None:
    """timm wants torchvision's transforms; a torchvision built for CUDA lacks its operators beside a torch that is not,
    and their schemas are enough."""
    import torch

    if _kept or find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except RuntimeError:
        schemas = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _kept.append(schemas)
        for name in ("nms", "qnms"):
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            schemas.define(signature)  # type: ignore[no-untyped-call]
