"""What a kernel takes on a GPU that nobody measured, from what kernels take on GPUs that somebody did.

For each measured GPU a few numbers say which shares of its own peaks its kernels reach, by a model of what a GPU does:
tiles spread over compute units, inner loops that have to start up, operands that each row of tiles reads again, kernels
that queue behind the host. A new GPU is predicted as each of the measured ones would behave with the new one's peak,
bandwidth and compute units: the mean of their answers in log space is the estimate, and how far they disagree makes its
deviation. All members err together where the new GPU is unlike all of them, so deviations of its kernels are shared.

The numbers stand in `configs/prior/gpu.jsonl`; `predictors.fit_transfer` makes them.

Source: tiles, NVIDIA, "Matrix multiplication background user's guide", 2023; Winograd's convolution, Lavin, Gray, "Fast
algorithms for convolutional neural networks", CVPR 2016.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from math import hypot, inf, log, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.cost import Cost, bytes_per_element
from predictors.device import Device
from predictors.fusion import Kernel
from predictors.log_estimate import LogEstimate
from predictors.mapping import check_keys
from predictors.operators import Activation, Conv2d, Elementwise, Linear, MatMul, Normalization, Operator, Softmax
from predictors.paths import shipped
from predictors.roofline import roofline

Numbers = NDArray[np.float64] | float
"""One kernel or GPU, or N of them; arrays broadcast."""

RUNTIME, DTYPE = "torch_eager", "float32"
"""What the GPUs were measured under."""

ELSEWHERE_STD = 0.4
"""Further deviation of ln(seconds) for what was not measured: another runtime or dtype, windows but 3x3 at stride 1."""

FEW_GPUS = 1.3
"""The deviation among so few GPUs is itself uncertain: Student's t in place of the normal distribution makes intervals
of 68 % 1.2 times and of 95 % 1.6 times as wide for four of them; between the two."""

LAUNCH_STD = 0.35
"""Of ln(seconds) where launching decides: of five machines four agreed within 12 % and one took 1.5 times as long."""

TILES = ((128, 64), (64, 64), (128, 32), (32, 32))
SPLITS = (1, 2, 4, 8)
"""Tiles of a product that a library has kernels for, rows by columns; into how many parts it splits the inner loop."""

WINOGRAD_TILE, WINOGRAD_PRODUCTS = (32, 32), 16
"""Of F(2x2, 3x3): 2x2 outputs of a 3x3 window from 16 products in place of 36."""

USUAL_CACHE_BYTES = 75e3
"""Of the last cache, for each compute unit: median of the five measured GPUs."""

_SIMPLEST = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What of a GPU, or of N of them, the model looks at: FLOP/s, byte/s, compute units, bytes of the last cache."""

    peak: Numbers
    bandwidth: Numbers
    units: Numbers
    cache_bytes: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What of a kernel, or of N of them, the model looks at.

    Attributes:
        traffic_bytes: all that has to move once; `left_bytes` (rows x inner), `right_bytes` (inner x columns) and
            `write_bytes` (rows x columns) are what of it the product has.
        batch, rows, columns, inner: of the product that it is; 0 rows where it is none.
        winograd_rows, winograd_inner, winograd_bytes: of the 16 products of a Winograd convolution, and its transformed
            weights; 0 rows where there is none.
    """

    traffic_bytes: Numbers
    left_bytes: Numbers = 0.0
    right_bytes: Numbers = 0.0
    write_bytes: Numbers = 0.0
    batch: Numbers = 1.0
    rows: Numbers = 0.0
    columns: Numbers = 1.0
    inner: Numbers = 1.0
    winograd_rows: Numbers = 0.0
    winograd_inner: Numbers = 1.0
    winograd_bytes: Numbers = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How kernels of one class use one measured GPU, or several: all positive.

    Attributes:
        host_s: seconds between two launches; what the GPU does in them comes for free, since launches queue.
        start_s: seconds from launch to result of a kernel without work.
        memory: share of the bandwidth that is reached.
        compute: share of the peak that full tiles reach, by tile of `TILES`, when the inner loop is long.
        ramp: steps of the inner loop that starting and ending it costs.
        resident: tiles that a compute unit needs at a time to be busy.
        reread: share of what tiles read again that comes from memory, once operands are much larger than caches.
        kept: size of operands, in last caches, at which half of that does.
        winograd, winograd_ramp: as `compute` and `ramp`, of the products of a Winograd convolution.
        transform: share of the bandwidth that transforming its weights reaches.
    """

    host_s: Numbers
    start_s: Numbers
    memory: Numbers
    compute: tuple[Numbers, ...] = ()
    ramp: Numbers = 1.0
    resident: Numbers = 1.0
    reread: Numbers = 1.0
    kept: Numbers = 1.0
    winograd: Numbers = 1.0
    winograd_ramp: Numbers = 1.0
    transform: Numbers = 1.0


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of M measured GPUs.

    Attributes:
        gpus: their names.
        shares: by class, of the M together.
        scatter: by class, root mean square of ln(measured / modelled) on kernels that were not fitted.
        source: whose measurements they are.
    """

    gpus: tuple[str, ...]
    shares: Mapping[str, Shares]
    scatter: Mapping[str, float]
    source: str

    @cached_property
    def usual_start_s(self) -> NDArray[np.float64]:
        """What the launch itself takes, (M,): the start of the simplest kernel."""
        return np.asarray(self.shares[_SIMPLEST].start_s)

    def log_seconds(self, name: str, work: Work, gpu: Gpu) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of ln(seconds) over all but the slowest of the measured GPUs, and its deviation, for N kernels.

        std^2 = mean squared distance of all M from it * (M + 1) / (M - 1) * FEW_GPUS^2 + scatter^2 + (LAUNCH_STD *
        share of the time that launching takes)^2. The slowest is left out of the mean since GPUs fall behind their
        peaks for reasons of their own: a throttled card, a slow host, an old library.

        Args:
            name: of the class.
            work, gpu: N kernels and their GPUs, shape (N, 1), or numbers.
        """
        seconds_NM = kernel_s(self.shares[name], work, gpu)
        launching_s = np.maximum(self.shares[name].host_s, self.shares[name].start_s)
        launching_N = np.minimum(launching_s / seconds_NM, 1.0).mean(axis=-1)
        found_NM = np.sort(np.log(seconds_NM), axis=-1)
        num_gpus = found_NM.shape[-1]
        mean_N = found_NM[..., : max(num_gpus - 1, 1)].mean(axis=-1)
        between_N = ((found_NM - mean_N[..., None]) ** 2).mean(axis=-1) * (num_gpus + 1) / max(num_gpus - 1, 1)
        return mean_N, np.sqrt(FEW_GPUS**2 * between_N + self.scatter[name] ** 2 + (LAUNCH_STD * launching_N) ** 2)


def transferred(kernel: Kernel, cost: Cost, device: Device, prior: Prior | None = None) -> LogEstimate | None:
    """ln(efficiency) of a kernel on a GPU without measurements, and its deviation; None where nothing is known.

    Known are GPUs whose device gives `compute_units`, and kernels of the measured classes. Under another runtime than
    PyTorch the host does not hold the GPU up. A launch cost that the device gives takes the place of the measured ones.
    """
    name = class_of(kernel.anchor)
    if name is None or device.compute_units is None:
        return None
    prior = prior or shipped_prior()
    eager = device.runtime == RUNTIME
    gpu = gpu_of(device, kernel.dtype)
    mean, std = _launched(prior, device.launch_s, eager).log_seconds(name, work_of(kernel, cost), gpu)
    roofline_s = roofline(cost, device, kernel.dtype).latency_s
    return LogEstimate(log(roofline_s) - float(mean), hypot(float(std), _elsewhere_std(kernel, device)))


def unexplained_std(kernel: Kernel, device: Device, prior: Prior | None = None) -> float:
    """Deviation of ln(seconds) that a kernel of a measured class has even where its class on the GPU is known."""
    name = class_of(kernel.anchor)
    return hypot((prior or shipped_prior()).scatter[name], _elsewhere_std(kernel, device)) if name else inf


def gpu_of(device: Device, dtype: str) -> Gpu:
    """What the model looks at, of a device that gives `compute_units`; a usual cache where it gives none."""
    assert device.compute_units is not None
    units = device.compute_units.value
    return Gpu(
        peak=device.peak_flops(dtype),
        bandwidth=device.bandwidth,
        units=units,
        cache_bytes=device.cache.value if device.cache else USUAL_CACHE_BYTES * units,
    )


def kernel_s(shares: Shares, work: Work, gpu: Gpu) -> NDArray[np.float64]:
    """Seconds of kernels: max(host, start + the work at the shares of the peaks)."""
    busy = _product_s(shares, work, gpu) if shares.compute else work.traffic_bytes / (shares.memory * gpu.bandwidth)
    return np.asarray(np.maximum(shares.host_s, shares.start_s + busy))


def class_of(operator: Operator) -> str | None:
    """The measured class whose kernels are like this operator's, None where none are.

    Activations and a batch_norm that stands by itself read and write each element once, as the measured ReLU does.
    """
    match operator:
        case Linear():
            return "linear"
        case MatMul():
            return "matmul"
        case Conv2d():
            return "conv2d" if operator.groups == 1 else None
        case Elementwise():
            return "mul" if operator.function == "mul" else "add"
        case Activation():
            return "relu"
        case Softmax():
            return "softmax"
        case Normalization():
            return "relu" if operator.method == "batch_norm" else "layer_norm"
    return None


def work_of(kernel: Kernel, cost: Cost) -> Work:
    """What the model looks at, of a kernel whose anchor has a class."""
    anchor, size = kernel.anchor, float(bytes_per_element(kernel.dtype))
    traffic_bytes = float(cost.traffic_bytes)
    match anchor:
        case Linear():
            columns, inner = anchor.out_features, anchor.in_features
            batch, rows = 1, anchor.write_elements // columns
        case MatMul():
            rows, columns, inner = anchor.left[-2], anchor.right[-1], anchor.left[-1]
            batch = anchor.write_elements // (rows * columns)
        case Conv2d():
            return _convolution(anchor, traffic_bytes, size)
        case _:
            return Work(traffic_bytes=traffic_bytes)
    return Work(
        traffic_bytes=traffic_bytes,
        left_bytes=size * batch * rows * inner,
        right_bytes=size * batch * inner * columns,
        write_bytes=size * batch * rows * columns,
        batch=batch,
        rows=rows,
        columns=columns,
        inner=inner,
    )


def read_prior(path: Path) -> Prior:
    """A file that `write_prior` wrote.

    Raises:
        ValueError: a line that is none of it; it says file and line.
    """
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    header = check_keys(
        json.loads(first), ("source", "gpus", "scatter"), ("source", "gpus", "scatter"), f"{path}, line 1"
    )
    found: dict[str, dict[str, Shares]] = {}
    names = tuple(item.name for item in fields(Shares))
    for number, line in enumerate(lines, start=2):
        row = dict(check_keys(json.loads(line), ("class", "gpu", *names), ("class", "gpu"), f"{path}, line {number}"))
        kind, gpu = row.pop("class"), row.pop("gpu")
        found.setdefault(kind, {})[gpu] = Shares(**{**row, "compute": tuple(row.get("compute", ()))})
    gpus = tuple(header["gpus"])
    for kind, members in found.items():
        if set(members) != set(gpus):
            raise ValueError(f"{path}: class {kind!r} has GPUs {sorted(members)}; the header lists {sorted(gpus)}")
    return Prior(
        gpus=gpus,
        shares={kind: together(members[gpu] for gpu in gpus) for kind, members in found.items()},
        scatter=header["scatter"],
        source=header["source"],
    )


def write_prior(path: Path, prior: Prior) -> None:
    """JSON Lines: a header, then one line for each class and GPU; four digits."""
    lines: list[dict[str, object]] = [
        {"source": prior.source, "gpus": prior.gpus, "scatter": {k: _short(v) for k, v in prior.scatter.items()}}
    ]
    for kind, shares in prior.shares.items():
        for index, gpu in enumerate(prior.gpus):
            row = asdict(_member(shares, index))
            row = {item.name: row[item.name] for item in fields(Shares) if row[item.name] != item.default}
            lines.append({"class": kind, "gpu": gpu, **{key: _short(value) for key, value in row.items()}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def together(members: Iterable[Shares]) -> Shares:
    """The shares of several GPUs as one record of arrays, the GPUs along the last axis."""
    columns = {
        item.name: [getattr(each, item.name) for each in rows] for rows in [list(members)] for item in fields(Shares)
    }
    compute = tuple(np.array(values) for values in zip(*columns.pop("compute")))
    return Shares(compute=compute, **{name: np.array(values) for name, values in columns.items()})


@lru_cache(maxsize=1)
def shipped_prior() -> Prior:
    """The prior that comes with the package."""
    return read_prior(shipped("prior") / "gpu.jsonl")


# ------------------------------------------------------------------------------------------------------------ private


def _product_s(shares: Shares, work: Work, gpu: Gpu) -> Numbers:
    """Seconds of the fastest way to compute a product: tile, split of the inner loop, or Winograd's 16 products."""
    unit_flops, bandwidth = gpu.peak / gpu.units, shares.memory * gpu.bandwidth
    operands_bytes = work.left_bytes + work.right_bytes
    missed = shares.reread * operands_bytes / (operands_bytes + shares.kept * gpu.cache_bytes)
    best: Numbers = np.inf
    for (height, width), share in zip(TILES, shares.compute):
        tiles_down, tiles_across = np.ceil(work.rows / height), np.ceil(work.columns / width)
        again = missed * (work.right_bytes * (tiles_down - 1) + work.left_bytes * (tiles_across - 1))
        for split in SPLITS:
            per_unit = work.batch * tiles_down * tiles_across * split / gpu.units
            steps = work.inner / split + shares.ramp
            compute_s = (per_unit + shares.resident) * 2 * height * width * steps / (share * unit_flops)
            moved = work.traffic_bytes + again + (work.write_bytes * split if split > 1 else 0.0)
            best = np.minimum(best, np.hypot(compute_s, moved / bandwidth))
    height, width = WINOGRAD_TILE
    per_unit = np.ceil(work.winograd_rows / height) * np.ceil(work.columns / width) / gpu.units
    flops = WINOGRAD_PRODUCTS * 2 * height * width * (work.winograd_inner + shares.winograd_ramp)
    compute_s = (per_unit + shares.resident) * flops / (shares.winograd * unit_flops)
    transform_s = work.winograd_bytes / (shares.transform * gpu.bandwidth)
    winograd_s = np.hypot(compute_s, work.traffic_bytes / bandwidth) + transform_s
    return np.where(np.asarray(work.winograd_rows) > 0, np.minimum(best, winograd_s), best)


def _convolution(conv: Conv2d, traffic_bytes: float, size: float) -> Work:
    """A convolution as the product of its windows and its weights."""
    pixels, window = conv.height_out * conv.width_out, prod(conv.kernel)
    winograd = _has_winograd(conv)
    tiles = -(-conv.height_out // 2) * -(-conv.width_out // 2)
    return Work(
        traffic_bytes=traffic_bytes,
        left_bytes=size * conv.read_elements,
        right_bytes=size * conv.in_channels * window * conv.out_channels,
        write_bytes=size * conv.write_elements,
        rows=conv.batch * pixels,
        columns=conv.out_channels,
        inner=conv.in_channels * window,
        winograd_rows=conv.batch * tiles if winograd else 0,
        winograd_inner=conv.in_channels,
        winograd_bytes=size * WINOGRAD_PRODUCTS * conv.in_channels * conv.out_channels,
    )


def _has_winograd(conv: Conv2d) -> bool:
    return conv.kernel == (3, 3) and conv.stride == conv.dilation == (1, 1)


def _elsewhere_std(kernel: Kernel, device: Device) -> float:
    was_measured = device.runtime == RUNTIME and kernel.dtype == DTYPE and _was_measured(kernel.anchor)
    return 0.0 if was_measured else ELSEWHERE_STD


def _was_measured(operator: Operator) -> bool:
    match operator:
        case Conv2d():
            return _has_winograd(operator)
        case Elementwise():
            return operator.function in ("add", "mul")
        case Activation():
            return operator.function == "relu"
        case Normalization():
            return operator.method == "layer_norm"
    return True


def _launched(prior: Prior, launch_s: float, eager: bool) -> Prior:
    """The prior with what launching takes here: see `transferred`."""
    usual_s = prior.usual_start_s
    shares = {}
    for name, each in prior.shares.items():
        if eager:
            factor = launch_s / np.asarray(prior.shares[_SIMPLEST].host_s) if launch_s else 1.0
            shares[name] = replace(each, host_s=each.host_s * factor, start_s=each.start_s * factor)
        else:
            shares[name] = replace(each, host_s=0.0, start_s=np.full_like(usual_s, launch_s) if launch_s else usual_s)
    return replace(prior, shares=shares)


def _member(shares: Shares, index: int) -> Shares:
    values = {item.name: getattr(shares, item.name) for item in fields(Shares)}
    compute = tuple(float(np.asarray(each)[index]) for each in values.pop("compute"))
    return Shares(compute=compute, **{name: float(np.asarray(value)[index]) for name, value in values.items()})


def _short(value: object) -> object:
    if isinstance(value, tuple):
        return [_short(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
