"""Whole networks with measured latencies: does MACs or traffic rank them, and which is faster at equal MACs?

HELP's tables (NAS-Bench-201, FBNet, OFA-MobileNetV3), the networks of ncnn's benchmark, and NeuSight's kernels.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from nas.compare.records import Estimate
from nas.studies.claims.verdicts import Finding, Floats, Rule, bootstrap, share
from predictors.cost import kernel_cost
from predictors.fusion import fuse, load_runtime
from predictors.graph import Graph
from predictors.neusight import read_operators
from predictors.validation import help_latency, ncnn
from search_spaces import load_space
from search_spaces.mobilenet_v3 import MobileNetV3Space

NUM_NETWORKS = 600
"""Of each of HELP's tables, drawn at random."""
FEWEST_NETWORKS = 15
_NUM_KERNELS = 1000
_ESTIMATES = ("eyeriss", "fpga")
"""Columns that nobody measured."""
_NOTHING = 1e-12
_OFA = "help_latency/ofa_latency_ms.csv.gz"
_SMALL, _LARGE = "little compute", "much compute"
_EQUAL = 0.02
"""MACs that differ by less count as equal; so do intensities and latencies that differ by less, and say nothing."""

RULED_BY_MACS = Rule(confirmed=0.0, refuted=0.02)
RULED_BY_TRAFFIC = Rule(confirmed=0.02, refuted=0.0)
"""Of the rank correlation with traffic less that with MACs."""
FOLLOWS_RIDGE = Rule(confirmed=0.5, refuted=0.0)
FASTER = Rule(confirmed=0.6, refuted=0.4)
"""Of the share of pairs in which the network of higher intensity is faster."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Table:
    """N things measured on one device.

    Attributes:
        kernels_N: that each of them launches; None where all launch one.
        ridge_point: FLOP per byte by the data sheet, nan where none is at hand.
    """

    device: str
    source: str
    compute: str
    macs_N: Floats
    traffic_bytes_N: Floats
    seconds_N: Floats
    kernels_N: Floats | None = None
    ridge_point: float = float("nan")


def ruled_by(data: Path) -> list[Finding]:
    """Correlation with traffic less that with MACs, by device: little compute asks for MACs, much for traffic.

    A run of ncnn has too few networks to say anything by itself: the figure is the mean over the runs.
    """
    found = []
    for source in dict.fromkeys(table.source for table in tables(data)):
        members = [table for table in tables(data) if table.source == source]
        if source.startswith("ncnn"):
            found.append(
                _ruled_finding(members[0], *_mean_difference(members), len(members), f"{len(members)} runs of {source}")
            )
        else:
            found += [
                _ruled_finding(table, *_difference(table), len(table.seconds_N), table.device) for table in members
            ]
    return found


def follows_ridge_point(data: Path) -> list[Finding]:
    """Rank correlation, over devices that measured the same things, of the ridge point with the same difference."""
    found = []
    known = [table for table in tables(data) if np.isfinite(table.ridge_point)]
    for source in dict.fromkeys(table.source for table in known):
        members = [table for table in known if table.source == source]
        if len({table.ridge_point for table in members}) < 4:
            continue
        ridges_N = np.array([table.ridge_point for table in members])
        differences_N = np.array([_difference(table, 0)[0].value for table in members])
        figure = bootstrap(partial(_spearman_of, ridges_N, differences_N), len(members))
        found.append(
            Finding(
                claim="follows_ridge_point",
                device=source,
                group=f"{len(members)} devices or batches",
                figure=figure,
                num_values=len(members),
                verdict=FOLLOWS_RIDGE.verdict(figure),
                note=", ".join(f"{each.device} {each.ridge_point:.0f}" for each in members),
            )
        )
    return found


def kernels_at_equal_macs(data: Path) -> list[Finding]:
    """Share of pairs of networks of equal MACs in which the one of more kernels is slower."""
    found = []
    for table in tables(data):
        if table.kernels_N is None:
            continue
        figure, count = _pairs(table, -table.kernels_N)
        if count >= FEWEST_NETWORKS:
            found.append(_pair_finding("kernels_at_equal_macs", table, figure, count))
    return found


def intensity_at_equal_macs(data: Path) -> list[Finding]:
    """Share of pairs of equal MACs in which the one of higher intensity is faster."""
    found = []
    for table in tables(data):
        figure, count = _pairs(table, np.log(table.macs_N / table.traffic_bytes_N))
        if count >= FEWEST_NETWORKS:
            found.append(_pair_finding("intensity_at_equal_macs", table, figure, count))
    return found


@lru_cache(maxsize=1)
def tables(data: Path) -> tuple[Table, ...]:
    """All tables; of HELP's only columns that were measured."""
    return (*_help_tables(data), *_ncnn_tables(data), *_neusight_tables(data))


# ------------------------------------------------------------------------------------------------------------ private


def _ruled_finding(table: Table, figure: Estimate, note: str, num_values: int, device: str) -> Finding:
    small = table.compute == _SMALL
    return Finding(
        claim="macs_on_small" if small else "traffic_on_large",
        device=device,
        group="whole networks" if table.source in device else table.source,
        figure=figure,
        num_values=num_values,
        verdict=(RULED_BY_MACS if small else RULED_BY_TRAFFIC).verdict(figure),
        note=note,
    )


def _pair_finding(claim: str, table: Table, figure: Estimate, num_pairs: int) -> Finding:
    return Finding(
        claim=claim,
        device=table.device,
        group=table.source,
        figure=figure,
        num_values=num_pairs,
        verdict=FASTER.verdict(figure),
    )


def _mean_difference(members: Sequence[Table]) -> tuple[Estimate, str]:
    differences_R = np.array([_difference(table, 0)[0].value for table in members])
    figure = bootstrap(lambda drawn: float(differences_R[drawn].mean()), len(members))
    return figure, f"closer to MACs on {int((differences_R < 0.0).sum())} of {len(members)}"


def _difference(table: Table, num_resamples: int = 200) -> tuple[Estimate, str]:
    def difference(drawn: NDArray[np.int64]) -> float:
        seconds_N = table.seconds_N[drawn]
        return _spearman(table.traffic_bytes_N[drawn], seconds_N) - _spearman(table.macs_N[drawn], seconds_N)

    everything = np.arange(len(table.seconds_N))
    with_macs = _spearman(table.macs_N, table.seconds_N)
    with_traffic = _spearman(table.traffic_bytes_N, table.seconds_N)
    note = f"MACs {with_macs:.3f}, traffic {with_traffic:.3f}; each with the other held: {_partials(table)}"
    if not num_resamples:
        value = difference(everything)
        return Estimate(value=value, low=float("nan"), high=float("nan")), note
    return bootstrap(difference, len(everything), num_resamples), note


def _spearman(x_N: Floats, y_N: Floats) -> float:
    ranks = rankdata(x_N), rankdata(y_N)
    if np.ptp(ranks[0]) == 0.0 or np.ptp(ranks[1]) == 0.0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _spearman_of(x_N: Floats, y_N: Floats, drawn: NDArray[np.int64]) -> float:
    return _spearman(x_N[drawn], y_N[drawn])


def _partials(table: Table) -> str:
    """Partial rank correlations of latency with MACs and with traffic."""
    macs_time = _spearman(table.macs_N, table.seconds_N)
    traffic_time = _spearman(table.traffic_bytes_N, table.seconds_N)
    both = float(spearmanr(table.macs_N, table.traffic_bytes_N).statistic)

    def partial(of: float, other: float) -> float:
        left = (1 - other**2) * (1 - both**2)  # nothing, where the other says it all
        return (of - other * both) / float(np.sqrt(left)) if left > _NOTHING else float("nan")

    return f"{partial(macs_time, traffic_time):.2f} and {partial(traffic_time, macs_time):.2f}"


def _pairs(table: Table, merit_N: Floats) -> tuple[Estimate, int]:
    """Share of pairs of equal MACs in which the one of more merit is faster, and their number.

    Each network is in one pair at most, so that pairs are independent. Pairs whose merits or seconds hardly differ say
    nothing.
    """
    order = np.random.default_rng(0).permutation(len(table.macs_N))
    order = order[np.argsort(table.macs_N[order], kind="stable")]
    first, second = order[0 : len(order) // 2 * 2 : 2], order[1::2]
    equal = np.abs(np.log(table.macs_N[first] / table.macs_N[second])) < _EQUAL
    better = merit_N[first] - merit_N[second]
    faster = np.log(table.seconds_N[second] / table.seconds_N[first])
    told = equal & (np.abs(better) >= _EQUAL) & (np.abs(faster) >= _EQUAL)
    return share(int((better[told] * faster[told] > 0.0).sum()), int(told.sum())), int(told.sum())


# HELP: three spaces on GPUs, CPUs and phones.


def _help_tables(data: Path) -> Iterator[Table]:
    spaces = [*help_latency.read_spaces(data, NUM_NETWORKS)]
    spaces.append(help_latency.read_space("OFA-MobileNetV3", data / _OFA, _ofa_graph, NUM_NETWORKS))
    for space in spaces:
        for index, device in enumerate(space.devices):
            if device in _ESTIMATES:
                continue
            batch = help_latency.batch_of(device)
            seconds_N = space.measured_s_ND[:, index]
            kept = seconds_N > 0.0
            runtime = help_latency.runtimes_of(device)[0]
            macs_N, traffic_N, kernels_N = _sums(space, runtime, batch)
            yield Table(
                device=_TITLES[device.removesuffix(f"_{batch}")],
                source=f"{space.name}, batch {batch}",
                compute=_LARGE if device.startswith(_GPUS) else _SMALL,
                macs_N=macs_N[kept],
                traffic_bytes_N=traffic_N[kept],
                seconds_N=seconds_N[kept],
                kernels_N=kernels_N[kept],
                ridge_point=next((ridge for name, ridge in _RIDGES.items() if device.startswith(name)), float("nan")),
            )


_RIDGES = {
    "1080ti": 11340 / 484,
    "2080ti": 13450 / 616,
    "v100": 14029 / 900,
    "titan_rtx": 16312 / 672,
    "raspi4": 48 / 12.8,
}
"""GFLOP/s in float32 over GB/s, by the makers' data sheets; of the others' threads or chips the source says nothing."""


_GPUS = ("1080ti", "2080ti", "v100", "titan")
_TITLES = {
    "1080ti": "GTX 1080 Ti", "2080ti": "RTX 2080 Ti", "v100": "V100", "titan_rtx": "Titan RTX",
    "gold_6226": "Xeon Gold 6226", "silver_4114": "Xeon Silver 4114", "pixel3": "Pixel 3", "raspi4": "Raspberry Pi 4",
    "samsung_a50": "Galaxy A50",
}  # fmt: skip


@cache
def _sums(space: help_latency.Space, runtime: str, batch: int) -> tuple[Floats, Floats, Floats]:
    runs = help_latency.count_runs(space, runtime, batch)
    costs = [kernel_cost(kernel) for kernel in runs.kernels]
    macs_N = runs.counts_NK @ np.array([cost.macs for cost in costs], dtype=np.float64)
    traffic_N = runs.counts_NK @ np.array([cost.traffic_bytes for cost in costs], dtype=np.float64)
    return macs_N, traffic_N, runs.counts_NK.sum(1)


@lru_cache(maxsize=16)
def _ofa_space(batch: int) -> MobileNetV3Space:
    space = load_space("mobilenet_v3")
    assert isinstance(space, MobileNetV3Space)
    return replace(space, resolutions=tuple(range(128, 225, 4)), batch=batch)


def _ofa_graph(text: str, batch: int, runtime: str) -> Graph:
    found = json.loads(text)
    arch = {"resolution": found["r"]}
    blocks = len(found["ks"]) // len(found["d"])
    for stage, layers in enumerate(found["d"]):
        arch[f"stage{stage + 1}_depth"] = layers
        for block in range(blocks):
            name = f"stage{stage + 1}_block{block + 1}"
            arch[f"{name}_kernel"] = found["ks"][stage * blocks + block]
            arch[f"{name}_expansion"] = found["e"][stage * blocks + block]
    return _ofa_space(batch).graph(arch)


# ncnn: networks of many kinds on phones, boards and PCs.


def _ncnn_tables(data: Path) -> Iterator[Table]:
    networks = {
        name: graph for name, (graph, dtype) in ncnn.read_networks(data / ncnn.FILES[1]).items() if dtype != "int8"
    }
    rules = load_runtime("ncnn")
    amounts = {}
    for name, graph in networks.items():
        costs = [kernel_cost(each.kernel) for each in fuse(graph, rules, "float32")]
        amounts[name] = (sum(cost.macs for cost in costs), sum(cost.traffic_bytes for cost in costs))
    for run in ncnn.read_runs(data / ncnn.FILES[0]):
        names = [name for name in run.seconds if name in networks]
        if len(names) < FEWEST_NETWORKS:
            continue
        yield Table(
            device=run.name,
            source="ncnn on CPUs" if run.device.name == "cpu" else "ncnn on small GPUs",
            compute=_SMALL,
            macs_N=np.array([amounts[name][0] for name in names], dtype=np.float64),
            traffic_bytes_N=np.array([amounts[name][1] for name in names], dtype=np.float64),
            seconds_N=np.array([run.seconds[name] for name in names]),
        )


# NeuSight: convolutions, linear layers and products on GPUs, the same on all of them.


def _neusight_tables(data: Path) -> Iterator[Table]:
    for name in ("conv2d", "linear", "matmul"):
        for gpu, measured in read_operators(data / "neusight_ops", name, _NUM_KERNELS).items():
            costs = [kernel_cost(kernel) for kernel in measured.kernels]
            yield Table(
                device=gpu,
                source=f"NeuSight, {name}",
                compute=_LARGE,
                macs_N=np.array([cost.macs for cost in costs], dtype=np.float64),
                traffic_bytes_N=np.array([cost.traffic_bytes for cost in costs], dtype=np.float64),
                seconds_N=measured.seconds_N,
                ridge_point=measured.device.peak_flops() / measured.device.memory[-1].bandwidth.value,
            )
