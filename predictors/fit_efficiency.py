r"""Aggregate public kernel measurements into the class efficiencies of a device file.

    python -m predictors.fit_efficiency qualcomm/logs/mace_*.log qualcomm/logs/mxnet_*.log --device mobile_gpu

reads the tuning logs of https://github.com/octoml/qualcomm (Apache-2.0; the folder `logs` is an Adreno 660), reports
how well networks that were not fitted are predicted, and prints the `efficiency` section of the device file; with
`--write FILE` it replaces that section, between its two marker comments.

    python -m predictors.fit_efficiency --device v100 --conv-table float32 V100/conv_data.out \
        --conv-table int8 V100/conv_data.out.int8

does the same from the tables of convolutions of https://github.com/alibaba/lightweight-neural-architecture-search
(folder latency/op_profiler, Apache-2.0; TensorRT). They name no networks, so a fifth of the shapes is left out at a
time. Only their kernels of batch 1 are fitted: that is what networks are deployed at here, and larger batches are
predicted nearly as well from them (float32 19 % median error instead of 18 %) as smaller ones from all (25 % instead of
24 %, with greater outliers).

Of each shape the fastest kernel counts, whatever its layout and algorithm: a tuned runtime takes that one. Winograd
convolutions do fewer multiplications than are counted, so they may reach a greater share of the peak than direct ones.
Kernels that add up in a wider dtype than their data's are a mode of their own, without a dtype here, and are left out.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from predictors.autotvm import TunedKernel, read_tuned_kernels
from predictors.cost import Cost, kernel_cost
from predictors.device import ClassEfficiency, Device, load_device
from predictors.fusion import Kernel
from predictors.operators import Conv2d
from predictors.roofline import class_latency_s, roofline
from predictors.tinynas import read_conv_table

BEGIN, END = "# begin of predictors.fit_efficiency", "# end of predictors.fit_efficiency"
MIN_KERNELS = 8
"""A class with fewer kernels gets one share for all terms: there is too little to tell them apart."""
MANY_KERNELS = 500
"""A window of dense convolutions with this many kernels gets a class of its own."""

LEAST_READ_SHARE = 0.12
"""Where windows are large, reading looks slow: what is read is read again. A tensor that a fused addition reads must
still cost less than the addition by itself: 1 / 0.12 < 2 / 0.26 + 1 / 0.79, from `unmeasured.UNKNOWN_EFFICIENCY`."""

_ITERATIONS = 100
_MAX_KERNELS = 1000
_FLOOR = 0.05
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The fastest measurement of one shape in one network."""

    kernel: Kernel
    cost: Cost
    latency_s: float
    network: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Errors on networks that were left out of the fit; `errors` are ln(measured / predicted), by class."""

    median_error: float
    errors: Mapping[str, tuple[float, ...]]
    network_errors: Mapping[str, float]


def observations(kernels: Iterable[TunedKernel], device: Device, dtype: str) -> tuple[Observation, ...]:
    """Fastest kernel of each shape of each network, with the cost that the device's channel alignment gives it."""
    best: dict[tuple[str, Kernel], TunedKernel] = {}
    for tuned in kernels:
        if tuned.kernel.dtype != dtype or tuned.accumulator != dtype:
            continue
        key = tuned.network, tuned.kernel
        if key not in best or tuned.latency_s < best[key].latency_s:
            best[key] = tuned
    return tuple(
        Observation(
            kernel=tuned.kernel,
            cost=kernel_cost(tuned.kernel, device.channel_alignment),
            latency_s=tuned.latency_s,
            network=tuned.network,
        )
        for tuned in best.values()
    )


def efficiency_classes(kernel: Kernel, windows: Collection[str] = ()) -> tuple[str, ...]:
    """Classes that a kernel is fitted in, the most specific first.

    Chosen by the error on networks left out: 1x1 convolutions by themselves, since mobile networks are made of them;
    all dense convolutions together, so that rare windows (1x7, 5x5) have a class; depthwise ones by window, and
    together, so that windows which nobody measured have a class too; linear layers. A class of 3x3 convolutions gains
    nothing on few kernels (Adreno 660: float16 11.3 instead of 11.4 %, float32 14.2 instead of 12.1 %) and gives small
    ones 0.1 to 0.3 ms each; on thousands it does (V100, batch 1: float32 23.7 instead of 27.4 %).

    Args:
        kernel: any.
        windows: further classes such as 'conv2d_3x3' that have enough kernels, from `frequent_windows`.
    """
    if not isinstance(kernel.anchor, Conv2d):
        return (kernel.kind,)
    _, sized, general = kernel.classes
    return (sized, general) if kernel.anchor.is_depthwise or sized in ("conv2d_1x1", *windows) else (general,)


def frequent_windows(found: Iterable[Observation]) -> frozenset[str]:
    """Classes by window of convolutions with at least `MANY_KERNELS` kernels."""
    counts = Counter(each.kernel.classes[1] for each in found if isinstance(each.kernel.anchor, Conv2d))
    return frozenset(name for name, count in counts.items() if count >= MANY_KERNELS)


def fit(found: Sequence[Observation], device: Device, source: str = "fit") -> dict[str, ClassEfficiency]:
    """Shares of the peaks by class, each at most 1, that minimise the sum of |ln(measured / predicted)|."""
    classes: dict[str, list[Observation]] = {}
    windows = frequent_windows(found)
    for each in fastest(found):
        for name in efficiency_classes(each.kernel, windows):
            classes.setdefault(name, []).append(each)
    return {name: _fit_class(members, device, source) for name, members in sorted(classes.items())}


def fastest(found: Iterable[Observation]) -> list[Observation]:
    """The fastest measurement of each shape over all networks."""
    best: dict[Kernel, Observation] = {}
    for each in found:
        if each.kernel not in best or each.latency_s < best[each.kernel].latency_s:
            best[each.kernel] = each
    return list(best.values())


def leave_one_network_out(
    found: Sequence[Observation], learn: Callable[[Sequence[Observation]], Callable[[Observation], float | None]]
) -> Report:
    """Errors of predicting each network from all others; shapes that both have do not help.

    Args:
        found: observations of at least two networks.
        learn: makes a predictor of seconds from observations; the predictor answers None for a class it has not seen.
    """
    errors: dict[str, list[float]] = {}
    network_errors = {}
    windows = frequent_windows(found)
    for network in sorted({each.network for each in found}):
        held_out = [each for each in found if each.network == network]
        shapes = {each.kernel for each in held_out}
        predict = learn([each for each in found if each.kernel not in shapes])
        predicted = [(each, seconds) for each in held_out if (seconds := predict(each)) is not None]
        for each, seconds in predicted:
            name = efficiency_classes(each.kernel, windows)[0]
            errors.setdefault(name, []).append(float(np.log(each.latency_s / seconds)))
        measured_s = sum(each.latency_s for each, _ in predicted)
        network_errors[network] = sum(seconds for _, seconds in predicted) / measured_s - 1.0
    flat = [abs(np.expm1(-error)) for members in errors.values() for error in members]
    return Report(
        median_error=median(flat),
        errors={name: tuple(members) for name, members in errors.items()},
        network_errors=network_errors,
    )


def class_model(device: Device) -> Callable[[Sequence[Observation]], Callable[[Observation], float | None]]:
    """The model that is written into device files."""

    def learn(found: Sequence[Observation]) -> Callable[[Observation], float | None]:
        fitted = fit(found, device)

        def predict(each: Observation) -> float | None:
            for name in each.kernel.classes:
                if name in fitted:
                    return class_latency_s(each.cost, device, fitted[name], each.kernel.dtype)
            return None

        return predict

    return learn


def proportional_model(
    work: Callable[[Observation], float],
) -> Callable[[Sequence[Observation]], Callable[[Observation], float | None]]:
    """A baseline: seconds in proportion to some measure of work, one factor for all kernels."""

    def learn(found: Sequence[Observation]) -> Callable[[Observation], float | None]:
        factor = median(each.latency_s / work(each) for each in fastest(found))
        return lambda each: factor * work(each)

    return learn


def extrapolation_error(found: Sequence[Observation], device: Device) -> float:
    """Median error on the half of the kernels with more MACs, predicted from the other half."""
    by_size = sorted(fastest(found), key=lambda each: each.cost.macs)
    predict = class_model(device)(by_size[: len(by_size) // 2])
    larger = by_size[len(by_size) // 2 :]
    return median(abs(seconds / each.latency_s - 1.0) for each in larger if (seconds := predict(each)) is not None)


def efficiency_yaml(fitted: Mapping[str, Mapping[str, ClassEfficiency]]) -> str:
    """The `efficiency` section of a device file, by dtype and class, between its markers."""
    sources = list(dict.fromkeys(each.source for classes in fitted.values() for each in classes.values()))
    lines, named = [BEGIN, "efficiency:"], set[str]()
    for dtype, classes in fitted.items():
        lines.append(f"  {dtype}:")
        for name, each in classes.items():
            anchor = f"fit{sources.index(each.source)}"
            source = f"*{anchor}" if anchor in named else f'&{anchor} "{each.source}"'
            named.add(anchor)
            numbers = {"compute": each.compute, "read": each.read, "write": each.write, "fixed_s": each.fixed_s}
            values = [f"{key}: {_number(value)}" for key, value in numbers.items() if value]
            lines.append(f"    {name}:")
            values += [f"spread: {max(each.spread, 0.01):.2f}", f"num_kernels: {each.num_kernels}"]
            lines.append(f"      {{{', '.join(values)},")
            lines.append(f"       source: {source}}}")
    return "\n".join([*lines, END, ""])


def replace_section(text: str, section: str, where: str) -> str:
    """The text with what stands between the markers, them included, replaced.

    Raises:
        ValueError: the text does not have each marker once, the beginning first.
    """
    before, begin, rest = text.partition(BEGIN + "\n")
    old, end, after = rest.partition(END + "\n")
    if not begin or not end or BEGIN in old or BEGIN in after:
        raise ValueError(f"{where}: expected one line {BEGIN!r} and below it one line {END!r}")
    return before + section + after


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: read logs, report errors, print or write the section. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m predictors.fit_efficiency", description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="*", type=Path, help="AutoTVM logs (*.log), or a table of them (*.csv)")
    parser.add_argument(
        "--conv-table", nargs=2, action="append", default=[], metavar=("DTYPE", "FILE"), help="TinyNAS table"
    )
    parser.add_argument("--batch", type=int, default=1, help="which kernels of the TinyNAS tables are fitted")
    parser.add_argument("--device", default="mobile_gpu", help="whose peaks and bandwidth the shares refer to")
    parser.add_argument("--only-device", help="keep the rows of a table whose device column contains this")
    parser.add_argument("--origin", help="where the measurements come from, and their licence")
    parser.add_argument("--write", type=Path, help="device file whose section is replaced")
    options = parser.parse_args(arguments)
    try:
        device = load_device(options.device)
        kernels = [each for log in options.logs for each in read_tuned_kernels(log, options.only_device)]
        for dtype, table in options.conv_table:
            kernels += read_conv_table(Path(table), dtype, options.batch)
        origin = options.origin or (TINYNAS_ORIGIN if options.conv_table else ORIGIN)
        section = efficiency_yaml(fit_device(kernels, device, origin, report=print))
        if options.write:
            text = options.write.read_text(encoding="utf-8")
            options.write.write_text(replace_section(text, section, str(options.write)), encoding="utf-8")
            print(f"wrote the section into {options.write}")
        else:
            print(section, end="")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


ORIGIN = (
    "aggregated by predictors.fit_efficiency from the AutoTVM logs of github.com/octoml/qualcomm, folder logs "
    "(Apache-2.0; Realme GT 5G, 2022); fastest schedule of each shape"
)
TINYNAS_ORIGIN = (
    "aggregated by predictors.fit_efficiency from github.com/alibaba/lightweight-neural-architecture-search, "
    "latency/op_profiler/V100 (Apache-2.0; TensorRT, 2022); batch 1; at most 1000 kernels of each class, sampled"
)


def fit_device(
    kernels: Sequence[TunedKernel], device: Device, origin: str, report: Callable[[str], None]
) -> dict[str, dict[str, ClassEfficiency]]:
    """Efficiencies by dtype and class, their spread taken on networks left out; the report goes line by line."""

    def bare_roofline(each: Observation) -> float:
        return roofline(each.cost, device, each.kernel.dtype).latency_s

    fitted = {}
    for dtype in device.dtypes:
        found = observations(kernels, device, dtype)
        if len({each.network for each in found}) < 2:
            continue
        left_out = leave_one_network_out(found, class_model(device))
        baselines = {
            "class efficiencies": left_out,
            "roofline, one efficiency": leave_one_network_out(found, proportional_model(bare_roofline)),
            "proportional to MACs": leave_one_network_out(
                found, proportional_model(lambda each: each.kernel.anchor.macs)
            ),
            "bare roofline": leave_one_network_out(found, lambda _: bare_roofline),
        }
        report(f"{dtype}: {len(fastest(found))} shapes; each network predicted from the others")
        for name, errors in baselines.items():
            networks = ", ".join(f"{network} {error:+.0%}" for network, error in errors.network_errors.items())
            report(f"  {name:25} median error {errors.median_error:.1%}; sums of kernels: {networks}")
        report(f"  larger half of the kernels from the smaller: median error {extrapolation_error(found, device):.1%}")
        fitted[dtype] = with_spread(fit(found, device, origin), left_out)
    if not fitted:
        raise ValueError(f"no kernels of at least two networks in a dtype of device {device.name!r}: {device.dtypes}")
    return fitted


# ------------------------------------------------------------------------------------------------------------ private


def with_spread(fitted: Mapping[str, ClassEfficiency], left_out: Report) -> dict[str, ClassEfficiency]:
    """A class that no network left out tested gets the greatest spread of the others, and says so."""
    spreads = {name: float(np.sqrt(np.mean(np.square(members)))) for name, members in left_out.errors.items()}
    greatest = max(spreads.values())
    return {
        name: ClassEfficiency(
            compute=each.compute, read=each.read, write=each.write, fixed_s=each.fixed_s, num_kernels=each.num_kernels,
            spread=spreads.get(name, greatest),
            source=each.source if name in spreads else each.source + "; spread of the worst other class",
        )
        for name, each in fitted.items()
    }  # fmt: skip


def _fit_class(members: Sequence[Observation], device: Device, source: str) -> ClassEfficiency:
    """Terms over measured seconds, fitted to 1; the weights turn squares into |ln|, which outliers pull less.

    Of very many kernels a fixed random thousand is fitted: four numbers need no more.
    """
    if len(members) > _MAX_KERNELS:
        chosen = np.random.default_rng(0).choice(len(members), _MAX_KERNELS, replace=False)
        members = [members[index] for index in chosen]
    terms_KT = np.array([_terms_s(each, device) / each.latency_s for each in members])
    least_T = np.array([1.0, 1.0, 1.0, 0.0])
    if len(members) < MIN_KERNELS:
        factor = max(1.0, 1.0 / float(np.median(terms_KT[:, :3].sum(1))))
        factors_T = factor * least_T
    else:
        factors_T = _robust_factors(terms_KT, terms_KT, least_T)
        if factors_T[1] > 1.0 / LEAST_READ_SHARE:
            least_T = np.array([1.0, 1.0 / LEAST_READ_SHARE, 1.0, 0.0])
            factors_T = _robust_factors(terms_KT, terms_KT * [1.0, 0.0, 1.0, 1.0], least_T)
    compute, read, write, fixed_us = (float(factor) for factor in factors_T)
    return ClassEfficiency(
        compute=1.0 / compute, read=1.0 / read, write=1.0 / write, fixed_s=fixed_us * 1e-6,
        spread=1.0, num_kernels=len(members), source=source,
    )  # fmt: skip


def _robust_factors(
    terms_KT: NDArray[np.float64], free_KT: NDArray[np.float64], least_T: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Factors of at least `least_T`, the same where `free_KT` is 0, that bring the terms' sums near 1."""
    weights_K, factors_T = np.ones(len(terms_KT)), least_T
    for _ in range(_ITERATIONS):
        factors_T = least_T + _non_negative(free_KT, 1.0 - terms_KT @ least_T, weights_K)
        ratio_K = terms_KT @ factors_T
        weights_K = np.maximum(np.abs(np.log(ratio_K)), _FLOOR) / np.maximum((ratio_K - 1.0) ** 2, _FLOOR**2)
    return factors_T


def _terms_s(each: Observation, device: Device) -> NDArray[np.float64]:
    """Seconds at full peaks for arithmetic, reading and writing, and a microsecond."""
    bandwidth = device.bandwidth_for(each.cost.traffic_bytes)
    return np.array(
        [
            each.cost.flops / device.peak_flops(each.kernel.dtype),
            (each.cost.read_bytes + each.cost.weight_bytes) / bandwidth,
            each.cost.write_bytes / bandwidth,
            1e-6,
        ]
    )


def _non_negative(
    terms_KT: NDArray[np.float64], target_K: NDArray[np.float64], weights_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares with factors >= 0: with four terms, the best of all subsets is found by trying them.

    Of equals the first counts. Arithmetic stands before writing: where all windows are 3x3 the two are proportional,
    and what could be either is counted as arithmetic, so that larger windows cost more.
    """
    roots_K = np.sqrt(weights_K)
    best_T = np.zeros(terms_KT.shape[1])
    least = float((weights_K * target_K**2).sum())
    for size in range(1, len(best_T) + 1):
        for subset in combinations(range(len(best_T)), size):
            columns = list(subset)
            solved = np.linalg.lstsq(terms_KT[:, columns] * roots_K[:, None], target_K * roots_K, rcond=None)[0]
            loss = float((weights_K * (terms_KT[:, columns] @ solved - target_K) ** 2).sum())
            if (solved >= 0.0).all() and loss < least * (1.0 - _TIE):
                least = loss
                best_T = np.zeros_like(best_T)
                best_T[columns] = solved
    return best_T


def _number(value: float) -> str:
    """Three significant digits, as YAML reads a float: 1.85e-05 rather than 1e-05."""
    text = f"{value:.3g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


if __name__ == "__main__":
    sys.exit(main())
