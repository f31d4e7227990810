"""A device's rates, refitted from a handful of whole networks that were measured on it.

Without tables two models are fitted: rates by class and extent (`predictors.regimes`, `predictors.extent_rates`), and
class efficiencies (`predictors.class_terms`, `predictors.rates`). The former take what the device's file says as one
regime among others, the latter are regularised to it, or to what other devices reach. Networks that are left out
decide. With tables only what the runtime does between the kernels is fitted.
The runtime's semantics (what fuses, whether dead branches run) are chosen by the evidence of the regimes, or by how
well class efficiencies predict networks that are left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from math import exp, isfinite, log
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import numpy as np

from predictors.class_prior import ClassPrior, read_class_prior
from predictors.class_terms import (
    FIXED_UNIT_S,
    FLOAT,
    NETWORK,
    Term,
    all_terms,
    extended,
    fitted_class,
    float_factor,
    is_weighted,
    prior_from_device,
    term_amounts,
    term_matrix,
)
from predictors.correction import correct
from predictors.cost import kernel_cost
from predictors.device import ANY_CLASS, ClassEfficiency, Device, Quantity
from predictors.device_sheet import device_sheet, sheet_classes
from predictors.extent_rates import extent_rates
from predictors.fitted_rates import FittedRates
from predictors.fusion import FusionRule, Kernel, Runtime, fuse, load_runtime
from predictors.graph import Graph
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable
from predictors.paths import shipped
from predictors.rates import Array, RatePrior, Rates, choose_rows, fit_rates, leave_one_out
from predictors.regimes import choose_by_evidence, fit_mixture, kernel_work, leave_networks_out
from predictors.roofline import roofline
from predictors.unmeasured import UNKNOWN_EFFICIENCY

MIN_NETWORKS = 3

_SLIP = 100.0
"""Measured over estimated seconds from which on another unit is likelier than a slow device."""
_FASTER_THAN_ROOFLINE = 10.0
_CONTRADICTION = 1.1
_MARGIN = 2.0
"""A runtime other than the device's own must be so much more likely, as a logarithm, to be chosen."""
_PRIOR_ODDS = 1000.0
"""How much likelier networks that are left out must be without a prior than with it for the prior to be dropped."""
_MISFIT = 4.0
"""Mean square of errors over expected ones from which on a prior is said to be doubtful: on ncnn's runs it warns of the
one device that it harmed most, and of 3 in 52 others."""
_FREEDOM = 4.0
"""Degrees of freedom of Student-t errors."""
_SPREAD_STRENGTH = 6.0
"""What the expected deviation counts for against that of the networks left out, in networks."""
_TAILS = 1.2
"""Errors have longer tails than a normal distribution: chosen, on the runs of ncnn, so that 68 % lie within one."""


class MeasuredNetwork(NamedTuple):
    """A whole network and its seconds. `dtype`: that it ran in, None for the one that `calibrate` is given."""

    graph: Graph
    latency_s: float
    dtype: str | None = None


def calibrate(
    device: Device,
    measured: Sequence[MeasuredNetwork | tuple[Graph, float] | tuple[Graph, float, str | None]],
    *,
    dtype: str | None = None,
    runtime: Runtime | str | None = None,
    tables: Sequence[LookupTable] | None = None,
    prior: ClassPrior | str | Path | None = None,
) -> Device:
    """The device with its numbers refitted to measured whole networks; it predicts at once and can be saved.

    Without tables: rates by class and extent of the output (`predictors.regimes`), or one share of the peaks for each
    class where that predicts networks that are left out much better, as with networks of all sorts; with a prior the
    latter. With tables what `predictors.correction.correct` fits. No number is negative, so that more work never takes
    less time. `network_spread` is the deviation of ln(measured / predicted) that networks have beside what their
    kernels err.

    Args:
        measured: at least three different networks with their seconds, and their dtype where they differ in it.
        dtype: of the networks that do not say theirs; None takes the device's usual one.
        runtime: whose fusion rules hold; None tries those of the device and of all known runtimes.
        tables: measured kernels; None takes the device's own, an empty sequence none.
        prior: what other devices reach, as such or as the name or path of its file (`predictors.read_class_prior`);
            None regularises to the device's own file. It is not used, with a warning, where networks that are left out
            are far likelier without it, and with tables.

    Raises:
        ValueError: fewer than three networks, a time that is not positive, times that are in another unit, a prior that
            knows no networks of a dtype.
    """
    if isinstance(prior, str | Path):
        prior = read_class_prior(prior)
    networks = [_network(each, dtype or device.dtype) for each in measured]
    _check_networks(networks)
    candidates = _candidates(device, runtime)
    _check_units(device, candidates[0], networks)
    dtypes = sorted({network.dtype for network in networks})
    if any(LatencyPredictor(device, tables, dtype=each, runtime=candidates[0]).tables for each in dtypes):
        if len(dtypes) > 1:
            raise ValueError(f"with tables a calibration is for one dtype, found {dtypes}")
        if prior is not None:
            _warn(f"the prior of {prior.source} is not used: tables hold measured kernels of device {device.name!r}")
        pairs = [(network.graph, network.latency_s) for network in networks]
        return correct(device, pairs, dtype=dtypes[0], runtime=candidates[0].name, tables=tables)
    candidates = _distinct(candidates, networks)
    if prior is None:
        by_regimes, by_class = _by_regimes(device, candidates, networks), _by_class(device, candidates, networks, None)
        return _best([by_regimes, by_class], _MARGIN).device
    found = _best([_by_class(device, candidates, networks, each) for each in (prior, None)], log(_PRIOR_ODDS))
    if found.prior is None:
        _warn(
            f"the prior of {prior.source} makes networks that are left out less likely than none does: it is not used"
        )
    elif found.misfit > _MISFIT:
        _warn(
            f"networks that are left out lie {found.misfit**0.5:.1f} times as far off as the prior of {prior.source} "
            "lets expect: this device may be unlike those; compare with no prior"
        )
    return found.device


def choose_networks(
    device: Device,
    graphs: Sequence[Graph],
    count: int = 5,
    *,
    dtypes: Sequence[str] | None = None,
    runtime: Runtime | str | None = None,
    prior: ClassPrior | str | Path | None = None,
) -> list[int]:
    """Which networks to measure for a calibration: indices, the most telling first.

    Greedy: each leaves the least expected deviation of all networks' predictions; nothing is measured for that. With a
    `prior`, that of `calibrate`, deviations are those of the devices that it was learned from.
    """
    if isinstance(prior, str | Path):
        prior = read_class_prior(prior)
    names = dtypes or [device.dtype] * len(graphs)
    chosen = _candidates(device, runtime or device.runtime)[0]
    amounts = [term_amounts(graph, device, chosen, dtype) for graph, dtype in zip(graphs, names)]
    terms = all_terms(amounts)
    return choose_rows(term_matrix(amounts, terms), _prior(device, terms, prior, names[0]), count)


# ------------------------------------------------------------------------------------------------------------ private


class _Network(NamedTuple):
    graph: Graph
    latency_s: float
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A device as fitted, and of its networks, each predicted from the others, the ln(likelihood) and the mean square
    of what they are off over what was expected."""

    device: Device
    evidence: float
    misfit: float
    prior: ClassPrior | None = None


def _network(each: Sequence[object], dtype: str) -> _Network:
    graph, latency_s, own = (*each, None)[:3]
    if not isinstance(graph, Graph):
        raise ValueError(f"measured: expected (graph, seconds), found {graph!r}")
    return _Network(graph, latency_s, str(own or dtype))  # type: ignore[arg-type]


def _check_networks(networks: Sequence[_Network]) -> None:
    for index, network in enumerate(networks):
        seconds = network.latency_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float | np.floating) or not isfinite(seconds):
            raise ValueError(f"{_name(networks, index)}: a time is a finite number of seconds, found {seconds!r}")
        if seconds <= 0.0:
            hint = "; 0 is what a clock shows that is too coarse, or a failed run" if seconds == 0.0 else ""
            raise ValueError(f"{_name(networks, index)}: a time must be positive, found {seconds!r} s{hint}")
    times: dict[tuple[Graph, str], list[float]] = {}
    for network in networks:
        times.setdefault((network.graph, network.dtype), []).append(network.latency_s)
    if len(times) < MIN_NETWORKS:
        repeated = f" ({len(networks)} times in all)" if len(networks) > len(times) else ""
        raise ValueError(
            f"calibration needs at least {MIN_NETWORKS} different networks, found {len(times)}{repeated}; "
            "ten are better"
        )
    for (graph, _), found in times.items():
        if max(found) > _CONTRADICTION * min(found):
            warn(
                f"network {graph.name!r} was measured several times, and its times contradict each other: "
                f"{', '.join(f'{each:.4g} s' for each in sorted(found))}; all of them count",
                UserWarning,
                stacklevel=3,
            )


def _check_units(device: Device, runtime: Runtime, networks: Sequence[_Network]) -> None:
    """Times in another unit are a thousandfold off; a median over networks tells which."""
    roofs, plain = [], []
    for network in networks:
        costs = [
            kernel_cost(node.kernel, device.channel_alignment) for node in fuse(network.graph, runtime, network.dtype)
        ]
        roofs.append(sum(roofline(cost, device, network.dtype).latency_s for cost in costs))
        plain.append(
            LatencyPredictor(device, [], dtype=network.dtype, runtime=runtime).predict(network.graph).latency_s
        )
    measured_N = np.array([network.latency_s for network in networks])
    slower_N, faster_N = measured_N / np.array(plain), np.array(roofs) / measured_N
    slower, faster = float(np.median(slower_N)), float(np.median(faster_N))
    if slower > _SLIP:
        raise ValueError(
            f"the measured times are {slower:.0f} times what device {device.name!r} is expected to take; they "
            "are to be in seconds: are these milliseconds (divide by 1000), or is this the file of another device?"
        )
    if faster > _FASTER_THAN_ROOFLINE:
        raise ValueError(
            f"the measured times are {faster:.0f} times shorter than the peaks of device {device.name!r} allow; "
            "they are to be in seconds: were they divided by 1000 twice, or is this the file of another device?"
        )
    for index, ratio in enumerate(slower_N / slower):
        if not 1.0 / _SLIP < ratio < _SLIP:
            raise ValueError(
                f"{_name(networks, index)}: {measured_N[index]:.4g} s is {max(ratio, 1.0 / ratio):.0f} times "
                f"{'more' if ratio > 1.0 else 'less'} than the other times let expect: is it in another unit than they?"
            )


def _name(networks: Sequence[_Network], index: int) -> str:
    return f"measured network {index} {networks[index].graph.name!r}"


def _candidates(device: Device, runtime: Runtime | str | None) -> list[Runtime]:
    """Runtimes to try, the device's own first."""
    if isinstance(runtime, Runtime):
        return [runtime]
    own = load_runtime(runtime or device.runtime)
    if (rules := device.in_runtime(own.name).fusion) is not None:
        own = replace(own, rules=rules)
    if runtime is not None:
        return [own]
    return [own, *(load_runtime(name) for name in _runtime_names() if name != own.name)]


def _runtime_names() -> list[str]:
    return sorted(file.stem for file in shipped("runtime").glob("*.yaml"))


def _distinct(candidates: Sequence[Runtime], networks: Sequence[_Network]) -> list[Runtime]:
    """Runtimes that run other kernels than those before them."""
    found: dict[tuple[tuple[Kernel, ...], ...], Runtime] = {}
    for runtime in candidates:
        kernels = tuple(
            tuple(node.kernel for node in fuse(network.graph, runtime, network.dtype)) for network in networks
        )
        found.setdefault(kernels, runtime)
    return list(found.values())


def _best(fits: Sequence[_Fit], margin: float = 0.0) -> _Fit:
    """That which predicts left-out networks best; the first one has the benefit of the doubt."""
    best = max(fits, key=lambda fit: fit.evidence)
    return best if best.evidence > fits[0].evidence + margin else fits[0]


def _by_class(
    device: Device, candidates: Sequence[Runtime], networks: Sequence[_Network], prior: ClassPrior | None
) -> _Fit:
    """Class rates, under the runtime that predicts left-out networks best."""
    return _best([_fit_classes(device, candidate, networks, prior) for candidate in candidates], _MARGIN)


def _fit_classes(
    device: Device,
    runtime: Runtime,
    networks: Sequence[_Network],
    prior: ClassPrior | None,
) -> _Fit:
    base = device.in_runtime(_named(device, runtime))
    count = len(networks)
    source = f"calibrated on {count} whole networks, {date.today().isoformat()}"
    measured_N = np.array([network.latency_s for network in networks])
    dtypes = sorted({network.dtype for network in networks})
    amounts = [term_amounts(network.graph, base, runtime, network.dtype) for network in networks]
    known = prior.terms if prior else ()
    terms = all_terms([*amounts, dict.fromkeys((term for term in known if _has_peak(base, term)), 0.0)])
    amounts_NT = term_matrix(amounts, terms)
    rates_prior = _prior(base, terms, prior, dtypes[0])
    rates = fit_rates(amounts_NT, measured_N, rates_prior)
    residual_N, expected_N = leave_one_out(amounts_NT, measured_N, rates_prior)
    spread = _spread(residual_N, rates.log_std(amounts_NT), expected_N)
    source = f"{source}; regularised to {prior.source if prior else 'the numbers before'}"
    counts = _class_counts(networks, runtime)
    numbers = _Numbers(
        efficiency=_efficiencies(terms, rates, dtypes, counts, source),
        fitted={},
        network_overhead=Quantity(value=_rate(terms, rates, NETWORK) * FIXED_UNIT_S, source=source),
        network_spread=Quantity(value=spread, source=source),
    )
    return _Fit(
        device=_refitted(device, runtime, numbers),
        evidence=_evidence(residual_N, expected_N),
        misfit=_misfit(residual_N, expected_N),
        prior=prior,
    )


class _Numbers(NamedTuple):
    efficiency: dict[str, dict[str, ClassEfficiency]]
    fitted: dict[str, FittedRates]
    network_overhead: Quantity
    network_spread: Quantity


def _refitted(device: Device, runtime: Runtime, numbers: _Numbers) -> Device:
    """The device under that runtime with these numbers in place of all that they make void."""
    name = _named(device, runtime)
    base = device.in_runtime(name)
    dtypes = {*numbers.efficiency, *numbers.fitted}
    return replace(
        base,
        runtime=name,
        runtimes={other: each for other, each in base.runtimes.items() if other != name},
        efficiency={**{key: each for key, each in base.efficiency.items() if key not in dtypes}, **numbers.efficiency},
        fitted={**{key: each for key, each in base.fitted.items() if key not in dtypes}, **numbers.fitted},
        network_overhead=numbers.network_overhead,
        kernel_overhead=None,
        host_launch=None,
        host_launch_of={},
        in_network=None,
        network_spread=numbers.network_spread,
        fusion=_own_rules(runtime, name),
        tables=(),
    )


def _named(device: Device, runtime: Runtime) -> str:
    """Name under which the device keeps what was measured under a runtime."""
    return runtime.name if runtime.name in _runtime_names() else device.runtime


def _by_regimes(device: Device, candidates: Sequence[Runtime], networks: Sequence[_Network]) -> _Fit:
    """Rates by class and extent, under the runtime that has the largest evidence."""
    measured_s_N = np.array([network.latency_s for network in networks])
    source = f"calibrated on {len(networks)} whole networks, {date.today().isoformat()}"
    found = []
    for runtime in candidates:
        base = device.in_runtime(_named(device, runtime))
        kernels, counts_NK = _count(networks, runtime)
        work = kernel_work(kernels, base.channel_alignment)
        sheet = device_sheet(base, kernels, UNKNOWN_EFFICIENCY)
        more = [(dtype, name) for dtype in set(work.dtypes) for name in sheet_classes(base, dtype)]
        found.append((fit_mixture(work, counts_NK, measured_s_N, [sheet]), more))
    chosen = choose_by_evidence([mixture.log_evidence for mixture, _ in found])
    (mixture, more), runtime = found[chosen], candidates[chosen]
    residual_N, expected_N = leave_networks_out(mixture)
    fit = extent_rates(mixture, source, more)
    numbers = _Numbers(
        efficiency={},
        fitted=fit.rates,
        network_overhead=Quantity(value=fit.overhead_s, source=source),
        network_spread=Quantity(value=mixture.noise, source=source),
    )
    return _Fit(
        device=_refitted(device, runtime, numbers),
        evidence=_evidence(residual_N, expected_N),
        misfit=_misfit(residual_N, expected_N),
    )


def _count(networks: Sequence[_Network], runtime: Runtime) -> tuple[tuple[Kernel, ...], Array]:
    """All kernels of the networks, and how often each runs each, (N, K)."""
    index: dict[Kernel, int] = {}
    found = [
        [index.setdefault(node.kernel, len(index)) for node in fuse(network.graph, runtime, network.dtype)]
        for network in networks
    ]
    return tuple(index), np.array([np.bincount(row, minlength=len(index)) for row in found], dtype=np.float64)


def _own_rules(runtime: Runtime, name: str) -> tuple[FusionRule, ...] | None:
    """Rules that the device must carry because the file of that runtime has others."""
    return None if load_runtime(name).rules == runtime.rules else runtime.rules


def _prior(device: Device, terms: Sequence[Term], prior: ClassPrior | None, dtype: str) -> RatePrior:
    if prior is None:
        return prior_from_device(device, terms, UNKNOWN_EFFICIENCY, dtype)
    known = {term.dtype for term in prior.terms}
    if unknown := {term.dtype for term in terms if term.resource == "compute"} - known:
        raise ValueError(
            f"the prior of {prior.source} knows networks in {sorted(known - {FLOAT, ''})}, not in {sorted(unknown)}"
        )
    return extended(prior.rates, prior.terms, terms)


def _has_peak(device: Device, term: Term) -> bool:
    return term.dtype in (FLOAT, "") or term.dtype in device.peaks


def _rate(terms: Sequence[Term], rates: Rates, term: Term) -> float:
    return exp(rates.log_T[terms.index(term)])


def _spread(residual_N: Array, fitted_N: Array, expected_N: Array) -> float:
    """Deviation of networks to come: what the fit expects, scaled by how far networks left out really were off."""
    scale = (_SPREAD_STRENGTH + float(((residual_N / expected_N) ** 2).sum())) / (_SPREAD_STRENGTH + len(residual_N))
    return _TAILS * float(np.sqrt(scale * np.mean(fitted_N**2)))


def _evidence(residual_N: Array, expected_N: Array) -> float:
    """ln(likelihood) of the networks, each predicted from the others, under Student-t errors: one that is far off does
    not decide alone."""
    distance_N = residual_N / expected_N
    return float(-0.5 * (_FREEDOM + 1.0) * np.log1p(distance_N**2 / _FREEDOM).sum() - np.log(expected_N).sum())


def _misfit(residual_N: Array, expected_N: Array) -> float:
    return float(np.mean((residual_N / expected_N) ** 2))


def _warn(message: str) -> None:
    warn(message, UserWarning, stacklevel=3)


def _class_counts(networks: Iterable[_Network], runtime: Runtime) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for network in networks:
        for node in fuse(network.graph, runtime, network.dtype):
            key = (network.dtype if is_weighted(node.kernel) else FLOAT, fitted_class(node.kernel))
            found[key] = found.get(key, 0) + 1
    return found


def _efficiencies(
    terms: Sequence[Term], rates: Rates, dtypes: Sequence[str], counts: dict[tuple[str, str], int], source: str
) -> dict[str, dict[str, ClassEfficiency]]:
    """The fitted rates as a device file gives them; classes that no network had come from the prior and the others."""
    log_rate = dict(zip(terms, rates.log_T.tolist()))
    std = dict(zip(terms, np.sqrt(np.diag(rates.covariance_TT)).tolist()))
    every = sorted({*dtypes, *(term.dtype for term in terms if term.dtype not in (FLOAT, ""))})
    found: dict[str, dict[str, ClassEfficiency]] = {}
    for dtype in every:
        classes: dict[str, ClassEfficiency] = {}
        for own, name in sorted({(term.dtype, term.kernel_class) for term in terms if term.dtype in (dtype, FLOAT)}):
            compute, moved, count = (Term(own, name, "compute"), Term(own, name, "bytes"), Term(own, name, "kernels"))
            known = [std[each] for each in (compute, moved, count) if each in std]
            share = exp(-log_rate[moved]) / (float_factor(dtype) if own == FLOAT else 1.0)
            classes[name] = ClassEfficiency(
                compute=exp(-log_rate[compute]) if compute in log_rate else share,
                read=share,
                write=share,
                fixed_s=exp(log_rate[count]) * FIXED_UNIT_S,
                spread=max(rates.noise, (min if (own, name) in counts else max)(known)),
                num_kernels=counts.get((own, name), 0),
                source=source,
            )
        if ANY_CLASS not in classes:
            classes[ANY_CLASS] = _any_class(list(classes.values()), source)
        found[dtype] = classes
    return found


def _any_class(classes: Sequence[ClassEfficiency], source: str) -> ClassEfficiency:
    """For a class that neither the networks nor the prior have: the geometric mean of the others."""

    def mean(name: str) -> float:
        return exp(sum(log(getattr(each, name)) for each in classes) / len(classes))

    return ClassEfficiency(
        compute=mean("compute"),
        read=mean("read"),
        write=mean("write"),
        fixed_s=mean("fixed_s"),
        spread=UNKNOWN_EFFICIENCY.spread,
        source=f"{source}; mean of the other classes",
    )
