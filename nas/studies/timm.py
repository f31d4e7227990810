"""Published networks with measured latency: which cost picks those of the true front?

About a thousand networks of timm, their ImageNet top-1 and what an image took on an RTX 3090 and an i9-10940X, measured
by timm's authors. For each cost that is known without the device at hand, MACs or a predicted latency, the front of
error against that cost is what its user would choose from; measured latency says what it is worth.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from nas.compare.records import Floats
from nas.compare.statistics import SIGNIFICANCE
from nas.studies.document import ByHand, Cell, Part, Picture, Table, cell_text, write_study
from nas.studies.timm_costs import FAMILIES, TracedCosts, traced_costs
from nas.studies.timm_data import Published, read_networks
from nas.studies.timm_devices import BENCHMARKS, Benchmark
from nas.studies.timm_judging import Judged, judge
from nas.studies.timm_picture import Panel, picture

TITLE = "Published networks: which cost picks the true front?"
SEED = 0
"""Of the draws of networks, and of those that calibrate."""
NUM_RESAMPLES = 1000
NUM_CALIBRATING = 10
SAME = 0.02
FEWEST = 40
"""Networks of a family that say anything about it."""

MACS, PARAMS, ACTIVATIONS, TRAFFIC, INTENSITY = "MACs", "parameters", "activations", "traffic", "intensity"
ROOFLINE, TRANSFERRED, CALIBRATED = "bare roofline", "predicted latency", "calibrated prediction"
SHOWN = (MACS, PARAMS, TRAFFIC, CALIBRATED)

DATA, COSTS, DOCS = Path("../shared/data"), Path("outputs/studies/timm_costs.jsonl"), Path("docs/studies")


_PICKED_HEADINGS = {
    "precision": "precision", "recall": "recall", "price": "price", "price_ratio": f"price / {MACS}'", "price_p": "p",
}  # fmt: skip
_PICKED_FORMATS = {"precision": ".0%", "recall": ".0%", "price": ".2f", "price_ratio": ".2f", "price_p": ".3f"}
"""Of the columns on what a cost picks, in two tables."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measured:
    """Networks on one device that are judged, and how many were left by each step.

    Attributes:
        families_N: of `FAMILIES`.
        costs: by name, less is better.
        in1k_errors_N: of weights trained on ImageNet-1k alone, nan where there are none.
        failures: networks that could not be traced, by reason.
        same_macs: share of the networks whose MACs are within `SAME` of timm's own count.
    """

    benchmark: Benchmark
    errors_N: Floats
    in1k_errors_N: Floats
    seconds_N: Floats
    families_N: Sequence[str]
    costs: Mapping[str, Floats]
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    same_macs: float


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's options."""
    parser = subparsers.add_parser("timm", help="published networks with measured latency: which cost picks the best?")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of timm_bench (default: %(default)s)")
    parser.add_argument("--networks", type=int, metavar="N", help="so many, drawn at random; default: all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that trace (default: %(default)s)")
    parser.add_argument("--costs", type=Path, default=COSTS, help="what is traced is kept here (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the document (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, console: Console) -> None:
    """Trace what is not traced yet, judge, print, and write the document.

    Raises:
        ValueError: fewer networks than say anything, no processes, or no data.
    """
    if options.networks is not None and options.networks < FEWEST:
        raise ValueError(f"--networks must be at least {FEWEST}, found {options.networks}")
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, found {options.jobs}")
    measured = [
        read_measured(each, options.data, options.costs, options.networks, options.jobs) for each in BENCHMARKS.values()
    ]
    judged = [judge(each.errors_N, each.seconds_N, each.costs, MACS, NUM_RESAMPLES, SEED) for each in measured]
    parts = parts_of(measured, judged)
    for part in parts:
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False)
        elif isinstance(part, Table):
            console.print(_plain_table(part), highlight=False, markup=False, soft_wrap=True)
    path = write_study("timm", TITLE, options.command, (SEED,), parts, options.docs, packages=("timm", "torch"))
    console.print(f"wrote {path}; what was traced is in {options.costs}", highlight=False)


def read_measured(
    benchmark: Benchmark, data: Path, costs: Path, num_networks: int | None = None, jobs: int = 1
) -> Measured:
    """The networks of a benchmark with their costs, without those that calibrate the device."""
    networks, counts = read_networks(data, benchmark.file)
    order = [networks[place] for place in np.random.default_rng(SEED).permutation(len(networks))]
    few, asked = order[:NUM_CALIBRATING], order[NUM_CALIBRATING:][:num_networks]
    traced = traced_costs(benchmark.name, asked, few, benchmark.device(), costs, jobs)
    kept = [each for each in asked if not traced[each.text].failed]
    reasons = [found.failed for each in asked if (found := traced[each.text]).failed]
    found_macs = np.array([traced[each.text].macs for each in kept])
    return Measured(
        benchmark=benchmark,
        errors_N=np.array([each.error for each in kept]),
        in1k_errors_N=np.array([each.in1k_error for each in kept]),
        seconds_N=np.array([each.latency_s for each in kept]),
        families_N=[traced[each.text].family for each in kept],
        costs=_costs(kept, [traced[each.text] for each in kept]),
        counts={**counts, f"asked for, beside {NUM_CALIBRATING} that calibrate": len(asked), "traced": len(kept)},
        failures={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        same_macs=float(np.mean(np.abs(found_macs / [each.macs for each in kept] - 1) <= SAME)),
    )


def parts_of(measured: Sequence[Measured], judged: Sequence[Sequence[Judged]]) -> list[Part]:
    """The document: sentences, tables and the picture."""
    panels = [
        Panel(
            title=f"On {each.benchmark.title}",
            errors_N=each.errors_N,
            seconds_N=each.seconds_N,
            costs=each.costs,
            judged=of_each,
            shown=SHOWN,
        )
        for each, of_each in zip(measured, judged)
    ]
    sentences = [sentence for each, found in zip(measured, judged) for sentence in sentences_of(each, found)]
    return [
        _INTRODUCTION,
        "\n".join(f"* {sentence}" for sentence in sentences),
        ByHand(name="what it means"),
        Picture(
            name="fronts",
            caption="Above: every published network, the true front, and what the networks that a cost picks really "
            "reach. Below: how much longer those take than the true front at equal accuracy",
            figure=picture(panels),
        ),
        "## Costs",
        Table(
            name="costs",
            caption="The price is the geometric mean of seconds over the true front's, at the accuracy of each of the "
            "true front's networks. Intervals, 95 %: how much a figure would differ had other networks of the kind "
            f"been published, by {NUM_RESAMPLES} draws of as many networks with replacement (moved to the figure of "
            "all: a draw has fewer different networks, which flatters every cost). "
            f"p: against {MACS}, by the same draws, after Holm",
            rows=[_row(each, found) for each, of_each in zip(measured, judged) for found in of_each],
            headings={
                "device": "on",
                "cost": "cost",
                "spearman": "Spearman",
                "spearman_p": "p",
                "kendall": "Kendall",
                "picked": "picked",
                **_PICKED_HEADINGS,
            },
            formats={
                "spearman": ".3f",
                "kendall": ".3f",
                "spearman_p": ".3f",
                **_PICKED_FORMATS,
            },
        ),
        "## Families",
        Table(
            name="families",
            caption=f"The same among networks of one kind, at least {FEWEST}; p after Holm within the family",
            rows=[_family_row(*row) for row in _judged_families(measured)],
            headings={
                "device": "on",
                "family": "family",
                "networks": "networks",
                "cost": "cost",
                "spearman": "Spearman",
                "spearman_gain": f"- {MACS}'",
                "spearman_p": "p",
                "price": "price",
            },
            formats={"spearman": ".3f", "spearman_gain": "+.3f", "spearman_p": ".3f", "price": ".2f"},
        ),
        "## Weights trained on ImageNet-1k alone",
        Table(
            name="in1k",
            caption="Other images make some architectures more accurate than others, whatever they cost. The same with "
            "the best weights that have seen ImageNet-1k alone, as far as their tags say, and networks that have such",
            rows=[_in1k_row(*row) for row in _judged_in1k(measured)],
            headings={
                "device": "on",
                "networks": "networks",
                "cost": "cost",
                **_PICKED_HEADINGS,
            },
            formats=_PICKED_FORMATS,
        ),
        "## Predictions",
        Table(
            name="predictions",
            caption="Of predicted seconds an image against measured ones: the median of their ratio, and of how far "
            "they are off",
            rows=[row for each in measured for row in _prediction_rows(each)],
            headings={"device": "on", "cost": "prediction", "ratio": "median ratio", "error": "median error"},
            formats={"ratio": ".2f", "error": ".0%"},
        ),
        "## Networks",
        Table(
            name="networks",
            caption=f"How many are left by each step; of how many our MACs are within {SAME:.0%} of timm's own count",
            rows=[{"device": each.benchmark.name, **each.counts, "MACs": each.same_macs} for each in measured],
            formats={"MACs": ".0%"},
        ),
        *([_failures(measured)] if any(each.failures for each in measured) else []),
        "## Devices",
        "\n".join(_device_lines()),
    ]


def sentences_of(measured: Measured, judged: Sequence[Judged]) -> list[str]:
    """What a manager reads of one device: the cost that picks best, and traffic and predictions beside MACs."""
    by_cost = {each.cost: each for each in judged}
    best = min(judged, key=lambda each: each.price.value)
    macs = by_cost[MACS]
    found = [
        f"On {measured.benchmark.title}, of {len(measured.errors_N):,} published networks those picked by {best.cost} "
        f"take {cell_text(best.price, '.2f')} times as long as the true front at equal accuracy, those picked by "
        f"{MACS} {cell_text(macs.price, '.2f')} times."
    ]
    for cost in (TRAFFIC, TRANSFERRED, CALIBRATED):
        found.append(_beside_macs(by_cost[cost], measured.benchmark.title))
    found.append(_ranks_sentence(by_cost[ACTIVATIONS], macs, measured.benchmark.title))
    return found


# ------------------------------------------------------------------------------------------------------------ private

_INTRODUCTION = f"""
Whoever cannot measure chooses among published networks by a cost that is known: the front of ImageNet error against
MACs, parameters, traffic or a predicted latency. The true front is that of error against the latency that timm's
authors measured. How much of it does each cost pick, and how much slower are its networks at equal accuracy?

A network is an architecture at a resolution, with the accuracy of the best weights that are published for it at that
resolution, whatever they were trained on. MACs, parameters, traffic (bytes that all kernels move, after fusion, of an
image at the batch of the measurement), intensity (more is better), the bare roofline and the predictions are this
project's, of the traced network; activations are as timm counts them. "{TRANSFERRED}" knows the device's data sheet and
what kernels reach on other devices; "{CALIBRATED}" has been refitted to {NUM_CALIBRATING} of the networks, drawn at
random, which are left out of everything below. Where a network could not be traced all costs do without it.
"""


def _costs(networks: Sequence[Published], traced: Sequence[TracedCosts]) -> dict[str, Floats]:
    return {
        MACS: np.array([each.macs for each in traced]),
        PARAMS: np.array([each.num_params for each in traced], dtype=np.float64),
        ACTIVATIONS: np.array([each.activations for each in networks]),
        TRAFFIC: np.array([each.traffic_bytes for each in traced]),
        INTENSITY: -np.array([each.arithmetic_intensity for each in traced]),
        ROOFLINE: np.array([each.roofline_s for each in traced]),
        TRANSFERRED: np.array([each.transferred_s for each in traced]),
        CALIBRATED: np.array([each.calibrated_s for each in traced]),
    }


def _beside_macs(judged: Judged, title: str) -> str:
    """A difference is only claimed where the interval excludes none and the test after Holm does."""
    ratio = judged.price_ratio
    low, high = sorted([1 - ratio.low, 1 - ratio.high])
    if judged.price_p < SIGNIFICANCE and not ratio.low <= 1 <= ratio.high:
        faster = ratio.value < 1
        size = abs(1 - ratio.value)
        ends = (low, high) if faster else (-high, -low)
        return (
            f"On {title}, networks picked by {judged.cost} take {size:.0%} ({ends[0]:.0%} to {ends[1]:.0%}) "
            f"{'less' if faster else 'more'} time at equal accuracy than those picked by {MACS} "
            f"(p = {judged.price_p:.3f})."
        )
    return (
        f"On {title}, no difference was found between networks picked by {judged.cost} and by {MACS}: the former take "
        f"{cell_text(ratio, '.2f')} times as long at equal accuracy (p = {judged.price_p:.3f})."
    )


def _ranks_sentence(activations: Judged, macs: Judged, title: str) -> str:
    gain = activations.spearman_gain
    known = activations.spearman_p < SIGNIFICANCE and not gain.low <= 0 <= gain.high
    what = "more like" if gain.value > 0 else "less like"
    verdict = f"ranks networks {what} activations than" if known else "ranks networks neither more like activations nor"
    return (
        f"Latency measured on {title} {verdict} like {MACS}: Spearman {cell_text(activations.spearman, '.3f')} against "
        f"{cell_text(macs.spearman, '.3f')}, difference {cell_text(gain, '+.3f')} (p = {activations.spearman_p:.3f})."
    )


def _row(measured: Measured, judged: Judged) -> dict[str, Cell]:
    return {
        "device": measured.benchmark.name,
        "cost": judged.cost,
        "spearman": judged.spearman,
        "spearman_gain": judged.spearman_gain,
        "spearman_p": judged.spearman_p,
        "kendall": judged.kendall,
        "picked": judged.num_picked,
        "precision": judged.precision,
        "recall": judged.recall,
        "price": judged.price,
        "price_ratio": judged.price_ratio,
        "price_p": judged.price_p,
    }


def _judged_families(measured: Sequence[Measured]) -> Iterator[tuple[Measured, str, int, Judged]]:
    for each in measured:
        for family in FAMILIES:
            chosen = np.flatnonzero([name == family for name in each.families_N])
            if len(chosen) >= FEWEST:
                costs = {cost: values_N[chosen] for cost, values_N in each.costs.items()}
                for found in judge(each.errors_N[chosen], each.seconds_N[chosen], costs, MACS, NUM_RESAMPLES, SEED):
                    yield each, family, len(chosen), found


def _family_row(measured: Measured, family: str, number: int, judged: Judged) -> dict[str, Cell]:
    row = _row(measured, judged)
    return {"device": row.pop("device"), "family": family, "networks": number, **row}


def _judged_in1k(measured: Sequence[Measured]) -> Iterator[tuple[Measured, int, Judged]]:
    for each in measured:
        chosen = np.flatnonzero(~np.isnan(each.in1k_errors_N))
        if len(chosen) >= FEWEST:
            costs = {cost: values_N[chosen] for cost, values_N in each.costs.items()}
            for found in judge(each.in1k_errors_N[chosen], each.seconds_N[chosen], costs, MACS, NUM_RESAMPLES, SEED):
                yield each, len(chosen), found


def _in1k_row(measured: Measured, number: int, judged: Judged) -> dict[str, Cell]:
    row = _row(measured, judged)
    return {"device": row.pop("device"), "networks": number, **row}


def _prediction_rows(measured: Measured) -> Iterator[dict[str, Cell]]:
    for cost in (ROOFLINE, TRANSFERRED, CALIBRATED):
        ratios_N = measured.costs[cost] / measured.seconds_N
        yield {
            "device": measured.benchmark.name,
            "cost": cost,
            "ratio": float(np.median(ratios_N)),
            "error": float(np.median(np.abs(ratios_N - 1))),
        }


def _failures(measured: Sequence[Measured]) -> Table:
    return Table(
        name="failures",
        caption="Networks that could not be traced",
        rows=[
            {"device": each.benchmark.name, "reason": reason, "networks": number}
            for each in measured
            for reason, number in each.failures.items()
        ],
    )


def _device_lines() -> Iterator[str]:
    """Every number of the data sheets with its source; efficiencies are many and come from one."""
    for device in {each.name: each for each in (benchmark.device() for benchmark in BENCHMARKS.values())}.values():
        yield f"* {device.description}, {device.runtime}, {device.dtype}:"
        for name, source in device.sources().items():
            if not name.startswith("efficiency"):
                yield f"    * {name}: {source}"
        if device.efficiency:
            yield "    * efficiencies of kernel classes: those of cpu_x86 under torch_eager, measured by this project"
        if device.compute_units:
            yield "    * efficiencies of kernel classes: what kernels reach on other GPUs, `predictors.transfer`"


def _plain_table(table: Table) -> str:
    """Columns aligned for a terminal."""
    headings = table.headings or {column: column for column in table.rows[0]}
    cells = [list(headings.values())]
    cells += [[cell_text(row.get(key), table.formats.get(key, "")) for key in headings] for row in table.rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(headings))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells)
