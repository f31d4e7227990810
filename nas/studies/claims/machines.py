"""What the experiments of `nas.studies.claims.measure` say of the claims, by machine, runtime and dtype."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan, nan

import numpy as np

from nas.compare.records import Estimate
from nas.studies.claims import experiments
from nas.studies.claims.convolutions import (
    ALIGNMENT,
    BY_TRAFFIC,
    OPTIMISED,
    PADS,
    REACHES,
    elasticity_share,
    window_ratio,
)
from nas.studies.claims.experiments import ACCUMULATE, COPY
from nas.studies.claims.networks import FASTER
from nas.studies.claims.records import DEVICE, WALL, Machine, Measurements, Record
from nas.studies.claims.verdicts import Finding, Rule, median_of, share
from predictors.fusion import fuse, load_runtime

FUSES = Rule(confirmed=1.05, refuted=1.02)
"""Of the seconds of Conv->ReLU->BN over those of Conv->BN->ReLU."""
FREE = Rule(confirmed=0.25, refuted=0.75)
"""Of the share of an elementwise operator's own seconds that remains when it is fused."""
PAYS_MORE = Rule(confirmed=1.1, refuted=1.0)
"""Of the seconds of the deepest network over those of the shallowest, at equal MACs."""
COSTS = Rule(confirmed=1.05, refuted=1.02)
"""Of seconds with conversions over those without."""

_RULES = {"torch_compile": {"cuda": "torch_compile_cuda", "cpu": "torch_compile"}}
_HIGH = {"int8": "float32", "bfloat16": "float32", "float16": "float32"}
_DRAWS = 2000
_TIE = 0.05
"""Seconds of two convolutions that differ by less say nothing."""

_Step = tuple[str, str, tuple[str, ...]]
_STEPS: tuple[_Step, ...] = (
    ("conv", "conv_bn", ("bn",)), ("conv", "conv_relu", ("relu",)), ("conv_bn", "conv_bn_relu", ("relu",)),
    ("conv_relu", "conv_bn_relu", ("bn",)), ("conv_relu", "conv_relu_bn", ("bn",)),
    ("conv", "conv_hardswish", ("hardswish",)), ("conv", "conv_add_relu", ("add", "relu")),
)  # fmt: skip
"""Two chains, and what the longer one has more."""

Times = dict[str, Record]
"""Of one family, runtime, dtype and way of timing, by name."""


def findings_of(measurements: Measurements) -> list[Finding]:
    """All findings of one machine."""
    return [
        *_padding(measurements),
        *_fusion(measurements),
        *_depth(measurements),
        *_intensity(measurements),
        *_low_precision(measurements),
        *_precision_change(measurements),
        *_bandwidth(measurements),
        *_common(measurements),
    ]


# ------------------------------------------------------------------------------------------------------------ private


def _groups(
    measurements: Measurements, experiment: str, what: str = DEVICE
) -> Iterator[tuple[tuple[str, str], dict[str, Times]]]:
    """Runtime and dtype, and the records of each family by name."""
    found: dict[tuple[str, str], dict[str, Times]] = defaultdict(lambda: defaultdict(dict))
    for record in measurements.records:
        if record.experiment == experiment and record.what == what:
            found[record.runtime, record.dtype][record.family][record.name] = record
    yield from found.items()


def _finding(
    claim: str,
    measurements: Measurements,
    group: str,
    figure: Estimate,
    num_values: int,
    rule: Rule,
    note: str = "",
) -> Finding:
    return Finding(
        claim=claim,
        device=measurements.machine.title,
        group=group,
        figure=figure,
        num_values=num_values,
        verdict=rule.verdict(figure),
        note=note,
    )


def _propagated(function: Callable[..., float], records: Sequence[Record]) -> Estimate:
    """A function of the records' seconds, and its interval where each varies by its spread."""
    rng = np.random.default_rng(0)
    medians = [record.latency_p50_s for record in records]
    logs = [rng.normal(0.0, record.spread if np.isfinite(record.spread) else 0.0, _DRAWS) for record in records]
    drawn = [median * np.exp(log) for median, log in zip(medians, logs)]
    low, high = np.quantile([function(*seconds) for seconds in zip(*drawn)], (0.025, 0.975))
    return Estimate(value=function(*medians), low=float(low), high=float(high))


def _geometric(figures: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log(list(figures)))))


def _padding(measurements: Measurements) -> Iterator[Finding]:
    for (runtime, dtype), families in _groups(measurements, "padding"):
        within, aligned = [], []
        for times in families.values():
            by_channels = {int(name): record for name, record in times.items()}
            multiples = [channels for channels in by_channels if channels % ALIGNMENT == 0]
            for channels in by_channels:
                above = -(-channels // ALIGNMENT) * ALIGNMENT
                if channels != above and above in by_channels:
                    within.append(_logs(by_channels[channels], by_channels[above]))
            aligned += [
                _logs(by_channels[few], by_channels[many]) for few in multiples for many in multiples if few < many
            ]
        figure, note = elasticity_share(np.array(within).reshape(-1, 2), np.array(aligned).reshape(-1, 2))
        direct = [
            times["23"].latency_p50_s / times["24"].latency_p50_s
            for times in families.values()
            if "23" in times and "24" in times
        ]
        if direct:
            note += f"; 23 channels take {_geometric(direct):.2f} of what 24 take"
        yield _finding("padding", measurements, f"{runtime}, {dtype}", figure, len(within), PADS, note)


def _logs(few: Record, many: Record) -> tuple[float, float]:
    return float(np.log(few.macs / many.macs)), float(np.log(few.latency_p50_s / many.latency_p50_s))


def _fusion(measurements: Measurements) -> Iterator[Finding]:
    kernels = _fused_kernels(measurements.machine.processor)
    for (runtime, dtype), families in _groups(measurements, "fusion"):
        for family, times in families.items():
            group = f"{runtime}, {dtype}, {family}"
            if runtime != "torch_eager" and {"conv_relu_bn", "conv_bn_relu"} <= set(times):  # eager fuses nothing
                pair = times["conv_relu_bn"], times["conv_bn_relu"]
                figure = _propagated(lambda later, sooner: later / sooner, pair)
                counts = [kernels[runtime][name] for name in ("conv_bn_relu", "conv_relu_bn")]
                note = f"our rules say {counts[0]} and {counts[1]} kernels"
                yield _finding("fusion_order", measurements, group, figure, 2, FUSES, note)
            added = [
                step
                for step in _STEPS
                if kernels[runtime][step[0]] == kernels[runtime][step[1]] and {*step[:2], *step[2]} <= set(times)
            ]
            if added:
                yield _free(measurements, group, times, added)


def _free(measurements: Measurements, group: str, times: Times, added: Sequence[_Step]) -> Finding:
    """Of all that is added without a kernel of its own: seconds that are added over seconds that it takes alone."""

    def remains(*seconds: float) -> float:
        of = dict(zip(names, seconds))
        alone_s = sum(of[name] for *_, followers in added for name in followers)
        return sum(of[longer] - of[shorter] for shorter, longer, _ in added) / alone_s

    names = list(dict.fromkeys(name for shorter, longer, followers in added for name in (shorter, longer, *followers)))
    figure = _propagated(remains, [times[name] for name in names])
    note = ", ".join(
        f"{longer} takes {times[longer].latency_p50_s / times[shorter].latency_p50_s:.2f} of {shorter}"
        for shorter, longer, _ in added
    )
    return _finding("fused_is_free", measurements, group, figure, len(added), FREE, note)


def _fused_kernels(processor: str) -> dict[str, dict[str, int]]:
    """How many kernels each chain is by the rules of each runtime."""
    cases = {case.name: case.graph for case in experiments.fusion(1, (3,))}
    found: dict[str, dict[str, int]] = {}
    for runtime in ("onnxruntime", "openvino", "torch_eager", "torch_compile"):
        rules = load_runtime(_RULES.get(runtime, {}).get(processor, runtime))
        found[runtime] = {name: len(fuse(graph, rules, "float32")) for name, graph in cases.items()}
    return found


def _depth(measurements: Measurements) -> Iterator[Finding]:
    for what in (DEVICE, WALL):
        for (runtime, dtype), families in _groups(measurements, "depth", what):
            for family, times in families.items():
                ordered = sorted(times.values(), key=lambda record: record.facts["layers"])
                figure = _propagated(lambda deep, shallow: deep / shallow, (ordered[-1], ordered[0]))
                note = f"{ordered[-1].name} over {ordered[0].name}"
                group = f"{runtime}, {dtype}, {family}{_waits(what)}"
                yield _finding("depth_at_equal_macs", measurements, group, figure, len(ordered), PAYS_MORE, note)


def _intensity(measurements: Measurements) -> Iterator[Finding]:
    for what in (DEVICE, WALL):
        for (runtime, dtype), families in _groups(measurements, "equal_macs", what):
            for times in families.values():
                ordered = sorted(times.values(), key=lambda record: record.traffic_bytes)
                pairs = [(dense, sparse) for index, dense in enumerate(ordered) for sparse in ordered[index + 1 :]]
                told = [
                    dense.latency_p50_s < sparse.latency_p50_s
                    for dense, sparse in pairs
                    if abs(np.log(dense.latency_p50_s / sparse.latency_p50_s)) >= _TIE
                ]
                slower = ordered[-1].latency_p50_s / ordered[0].latency_p50_s
                yield _finding(
                    "intensity_at_equal_macs", measurements,
                    f"{runtime}, {dtype}, single convolutions{_waits(what)}", share(sum(told), len(told)), len(told),
                    FASTER, f"{ordered[-1].name} take {slower:.2g} times what {ordered[0].name} take",
                )  # fmt: skip


def _waits(what: str) -> str:
    return ", waited for" if what == WALL else ""


def _low_precision(measurements: Measurements) -> Iterator[Finding]:
    machine = measurements.machine
    found = dict(_groups(measurements, "low_precision"))
    bandwidth = machine.bandwidths[max(machine.bandwidths, key=int)] if machine.bandwidths else nan
    for (runtime, low), lows in found.items():
        for high in ("float32", "tf32", "float16"):
            if low in ("float32", "tf32") or high == low or (high == "float16" and low != "int8"):
                continue
            highs = found.get((runtime, high), {})
            ridge = machine.peaks.get(high, nan) / bandwidth
            if isnan(ridge):
                continue
            gains: dict[bool, list[tuple[Record, Record]]] = {True: [], False: []}
            for family, times in lows.items():
                if family in highs and "uniform" in times:
                    slow = highs[family]["uniform"]
                    is_memory = 2.0 * slow.macs / slow.traffic_bytes < ridge
                    gains[is_memory].append((slow, times["uniform"]))
            if not gains[True] and not gains[False]:
                continue
            group = f"{runtime}, {high} to {low}"
            figure, note = _gain_ratio(gains[True], gains[False])
            yield _finding(
                "int8_by_traffic", measurements, group, figure, len(gains[True]) + len(gains[False]), BY_TRAFFIC, note
            )
        for family, times in lows.items():
            if "through floats" in times:
                figure = _propagated(
                    lambda through, plain: through / plain, (times["through floats"], times["uniform"])
                )
                group = f"{runtime}, {low}, {family}"
                yield _finding("quantising_around", measurements, group, figure, 2, COSTS)


def _gain_ratio(
    memory: Sequence[tuple[Record, Record]], compute: Sequence[tuple[Record, Record]]
) -> tuple[Estimate, str]:
    """Gain of memory-bound kernels over that of compute-bound ones, geometric means."""
    if not memory or not compute:
        nothing = Estimate(value=nan, low=nan, high=nan)
        return nothing, f"{len(memory)} memory-bound and {len(compute)} compute-bound ones by the measured ridge point"
    pairs = [*memory, *compute]

    def gain_ratio(*seconds: float) -> float:
        gains = [seconds[2 * index] / seconds[2 * index + 1] for index in range(len(pairs))]
        return _geometric(gains[: len(memory)]) / _geometric(gains[len(memory) :])

    figure = _propagated(gain_ratio, [record for pair in pairs for record in pair])
    note = ", ".join(
        f"{slow.family} ({kind}) {slow.latency_p50_s / fast.latency_p50_s:.2f}"
        for kind, members in (("memory-bound", memory), ("compute-bound", compute))
        for slow, fast in members
    )
    return figure, f"gains: {note}"


def _precision_change(measurements: Measurements) -> Iterator[Finding]:
    for (runtime, low), families in _groups(measurements, "precision_change"):
        for family, times in families.items():
            if not {"mixed", "high", "low"} <= set(times):
                continue
            figure = _propagated(
                lambda mixed, high, low: 2.0 * mixed / (high + low), [times[name] for name in ("mixed", "high", "low")]
            )
            note = f"{_HIGH[low]} takes {times['high'].latency_p50_s / times['low'].latency_p50_s:.2f} times {low}"
            group = f"{runtime}, {_HIGH[low]} and {low} in turn, {family}"
            yield _finding("precision_change", measurements, group, figure, 3, COSTS, note)


def _bandwidth(measurements: Measurements) -> Iterator[Finding]:
    found = dict(_groups(measurements, "bandwidth"))
    for (runtime, dtype), families in found.items():
        if runtime == "passes":
            continue
        family = max(families, key=lambda each: next(iter(families[each].values())).facts["float32_bytes"])
        plain = found["passes", "float32"][family]
        reached = max(_rate(plain[COPY]), _rate(plain[ACCUMULATE]))
        shares = {name: _rate(record) / reached for name, record in families[family].items()}
        values_O = np.array(list(shares.values()))
        figure = median_of(values_O)
        note = ", ".join(f"{name} {each:.0%}" for name, each in shares.items())
        yield _finding(
            "bandwidth", measurements, f"{runtime}, {dtype}", figure, len(shares), REACHES,
            f"{note}; measured {reached / 1e9:.0f} GB/s",
        )  # fmt: skip


def _rate(record: Record) -> float:
    return record.traffic_bytes / record.latency_p50_s


def _common(measurements: Measurements) -> Iterator[Finding]:
    """Efficiencies instead of FLOP/s: the smaller windows may be bound by memory."""
    for (runtime, dtype), families in _groups(measurements, "common"):
        if dtype not in measurements.machine.peaks:
            continue
        efficiencies: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
        for family, times in families.items():
            for record in times.values():
                efficiency = _roofline_s(record, measurements.machine) / record.latency_p50_s
                efficiencies[family, record.facts["stride"]][record.facts["kernel"]] = efficiency
        figure, count, note = window_ratio(list(efficiencies.values()))
        yield _finding("common_windows", measurements, f"{runtime}, {dtype}", figure, count, OPTIMISED, note)


def _roofline_s(record: Record, machine: Machine) -> float:
    """With the bandwidth of the least working set that holds what moves."""
    sizes = sorted(map(int, machine.bandwidths))
    size = next((each for each in sizes if each >= record.traffic_bytes), sizes[-1])
    return max(2.0 * record.macs / machine.peaks[record.dtype], record.traffic_bytes / machine.bandwidths[str(size)])
