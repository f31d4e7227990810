"""Comparisons on several devices as one document: answers first, then tables of a row a device."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nas.compare.records import Comparison, Estimate, Why
from nas.compare.report import headline, write_report
from nas.compare.report.devices import devices_picture, read_devices
from nas.compare.report.pictures import fronts_picture
from nas.compare.report.sentences import (
    limit_ratios,
    other_versus,
    sentence_of,
    sweep_sentence,
    unknown_sentence,
    yardstick_line,
)
from nas.compare.report.tables import rows_of
from nas.compare.report.verdict import Verdict, verdict_of
from nas.compare.report.wording import accuracy_text, number_text, p_text, signed_percent_text
from nas.studies.document import ByHand, Cell, Data, Part, Picture, Table

_NOT_KNOWN = "-"
_MOST_FRONTS = 6
"""Pictures; those of more devices lie in their reports."""
_CLAIMED = (Verdict.FASTER, Verdict.SLOWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Comparisons that were made alike, a device each.

    Attributes:
        name: of its folder and its files.
        title: how was searched, for a heading.
        folder: of the folders of its devices.
    """

    name: str
    title: str
    folder: Path
    comparisons: tuple[Comparison, ...]


def add_options(parser: argparse.ArgumentParser, name: str, num_trials: int, num_seeds: int = 10) -> None:
    """What every study of searches can be told."""
    parser.add_argument("--seeds", type=int, default=num_seeds, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=num_trials, help="evaluations a search (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes that search (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/studies") / name, help="of finished searches (default: %(default)s)"
    )
    parser.add_argument(
        "--docs", type=Path, default=Path("docs/studies"), help="where the document goes (default: %(default)s)"
    )


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for numbers that are none."""
    for name in ("seeds", "trials", "jobs"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, found {getattr(options, name)}")


def compared(
    name: str,
    title: str,
    folder: Path,
    compare: Sequence[tuple[str, Callable[[Path], Comparison]]],
    console: Console,
    command: str,
) -> Route:
    """Compare on each device, in a folder of its own, where its report is left; killed, the same call goes on.

    Args:
        compare: names of folders, and what compares there.
    """
    comparisons = []
    for device, run in compare:
        begin_s = time.perf_counter()
        comparison = run(folder / device)
        write_report(comparison, folder / device, command=command, config_text="")
        console.print(
            f"{headline(comparison)} ({time.perf_counter() - begin_s:.0f} s)", highlight=False, soft_wrap=True
        )
        comparisons.append(comparison)
    return Route(name=name, title=title, folder=folder, comparisons=tuple(comparisons))


def parts_of(routes: Sequence[Route], begin_s: float, jobs: int) -> list[Part]:
    """The whole document behind its introduction.

    Args:
        begin_s: reading of `time.perf_counter` when the study began.
    """
    first = routes[0]
    parts: list[Part] = ["## Answers", *(text for route in routes for text in _answers(route))]
    parts += [ByHand(name="what follows"), _took(routes, time.perf_counter() - begin_s, jobs)]
    for route in routes:
        parts += [f"## {route.title}", *_tables(route, is_first=route is first)]
    if picture := _devices_part(first):
        parts += ["## All devices", picture]
    parts += ["## Why", *_why(first), "## Fronts", *map(_fronts, first.comparisons[:_MOST_FRONTS])]
    rows = [row for route in routes for each in route.comparisons for row in rows_of(each)]
    return [*parts, Data(name="compare", caption="All figures, a row for each strategy and device.", rows=rows)]


def counted_sentence(route: Route, strategy: str) -> str:
    """On how many devices a strategy was found to be faster, slower, or neither.

    'On 2 of 3 devices latency_only search finds faster networks than flops_only search at equal accuracy; no difference
    was found on 1 (v100).'
    """
    by_verdict: dict[Verdict, list[str]] = {}
    for comparison in route.comparisons:
        by_verdict.setdefault(verdict_of(comparison.versus[strategy], comparison), []).append(comparison.title)
    baseline, num = route.comparisons[0].baseline, len(route.comparisons)
    faster = by_verdict.pop(Verdict.FASTER, [])
    where = f" ({'; '.join(faster)})" if 0 < len(faster) < num else ""
    others = "".join(f"; {each.value} on {len(on)} ({'; '.join(on)})" for each, on in by_verdict.items())
    devices = f"{num} device{'s' if num > 1 else ''}"
    return (
        f"{route.title}: on {len(faster)} of {devices} {strategy} search finds faster networks than {baseline} search "
        f"at equal accuracy{where}{others}."
    )


# ------------------------------------------------------------------------------------------------------------ private


def _answers(route: Route) -> Iterator[str]:
    others = dict.fromkeys(name for comparison in route.comparisons for name in comparison.versus)
    for name in ("memory_aware", "latency_only"):
        if name in others and len(route.comparisons) > 1:
            yield f"**{counted_sentence(route, name)}**"
    yield "\n".join(f"* {headline(comparison)}" for comparison in route.comparisons)


def _took(routes: Sequence[Route], seconds: float, jobs: int) -> str:
    searches = [
        each.standings[strategy.name].seconds.value * len(each.seeds)
        for route in routes
        for each in route.comparisons
        for strategy in each.strategies
    ]
    number = sum(len(each.seeds) * len(each.strategies) for route in routes for each in route.comparisons)
    return (
        f"This run took {seconds / 60.0:.1f} minutes with {jobs} process{'es' if jobs > 1 else ''} that search; the "
        f"{number} searches, some perhaps from earlier runs, took {sum(searches) / 60.0:.1f} minutes of one core."
    )


def _tables(route: Route, *, is_first: bool) -> Iterator[Part]:
    """What an unlimited budget would choose is the same for all routes, so it stands in the first."""
    comparisons = route.comparisons
    first = comparisons[0]
    if any(each.is_measured or unknown_sentence(each) for each in comparisons):
        yield "\n".join(f"* {yardstick_line(each)} {unknown_sentence(each)}".rstrip() for each in comparisons)
    strategies = list(dict.fromkeys(name for each in comparisons for name in each.versus))
    yield Table(
        name="",
        caption=f"Time of a strategy's networks beside {first.baseline}'s at equal {first.judged}, the mean along the "
        "whole front with its interval of 95 %; less than 0 is faster. Bold is claimed: the interval at the headline's "
        "accuracy excludes 0, and p of the rank test over seeds is below 0.05 after Holm's correction.",
        rows=[
            {
                "device": each.title,
                "from": _reach(each, "memory_aware" if "memory_aware" in each.versus else strategies[0]),
                **{name: _latency_cell(each, name) for name in strategies},
            }
            for each in comparisons
        ],
    )
    yield Table(
        name="",
        caption="Hypervolume of what was chosen, % of the best known front's.",
        rows=[
            {"device": each.title, **{n: number_text(s.hypervolume, 100.0) for n, s in each.standings.items()}}
            for each in comparisons
        ],
    )
    if is_first and (limits := [each for each in comparisons if each.limits]):
        names = list(dict.fromkeys(name for each in limits for name in each.limits))
        yield Table(
            name="",
            caption="What the objective itself costs: time of what an unlimited budget would choose by it, beside the "
            f"best known front's at equal {first.judged}. No seeds and no noise of a search.",
            rows=[{"device": each.title, **_limit_cells(each, names)} for each in limits],
        )
    sentences = [f"* {sentence_of(v, each)}" for each in comparisons for v in other_versus(each)]
    yield ("<details><summary>The other strategies, pair by pair</summary>\n\n" + "\n".join(sentences) + "\n</details>")


def _latency_cell(comparison: Comparison, strategy: str) -> str:
    versus = comparison.versus.get(strategy)
    if versus is None or versus.latency_ratio is None:
        return _NOT_KNOWN
    text = f"{signed_percent_text(versus.latency_ratio)}, p = {p_text(versus.latency_p_holm)}"
    return f"**{text}**" if verdict_of(versus, comparison) in _CLAIMED else text


def _reach(comparison: Comparison, strategy: str) -> str:
    """The accuracies along which was compared."""
    versus = comparison.versus[strategy]
    if versus.latency is None:
        return _NOT_KNOWN
    low, high = (100.0 * (1.0 - error) for error in (versus.latency.places_P.max(), versus.latency.places_P.min()))
    return f"{low:.1f} to {high:.1f} % {comparison.judged}"


def _limit_cells(comparison: Comparison, names: Sequence[str]) -> dict[str, Cell]:
    ratios = limit_ratios(comparison)
    nan = float("nan")
    return {
        name: signed_percent_text(Estimate(value=ratios[name], low=nan, high=nan)) if name in ratios else None
        for name in names
    }


def _devices_part(route: Route) -> Picture | None:
    names = {each.title for each in route.comparisons}
    devices = [each for each in read_devices(route.folder)[0] if each.any["title"] in names]
    if not devices:
        return None
    caption = f"Time beside {devices[0].any['baseline']}'s networks, by device; in brackets its ridge point"
    return Picture(name="devices", caption=caption, figure=devices_picture(devices))


def _why(route: Route) -> Iterator[Part]:
    yield Table(
        name="",
        caption="Where the networks' time goes, predicted kernel by kernel; means over what the seeds chose. The ridge "
        "point of the device stands behind its name, FLOP per byte.",
        rows=[
            {"device": f"{each.title} ({each.ridge_point:.1f})", "chosen by": strategy.name, **_why_cells(why)}
            for each in route.comparisons
            for strategy in each.strategies
            if (why := each.whys.get(strategy.name)) is not None
        ],
        formats={"MACs": ".3g", "traffic": ".3g", "kernels": ".0f", "intensity": ".1f"}
        | dict.fromkeys(("compute", "memory", "launch", "overhead", "depthwise"), ".0%"),
        headings={
            "device": "device", "chosen by": "chosen by", "compute": "compute-bound", "memory": "memory-bound",
            "launch": "launch-bound", "overhead": "between kernels", "intensity": "FLOP/byte", "MACs": "MACs, M",
            "traffic": "traffic, MB", "kernels": "kernels", "depthwise": "time in depthwise",
        },
    )  # fmt: skip
    sentences = [f"* {each.title}: {text}" for each in route.comparisons if (text := sweep_sentence(each))]
    if sentences:
        yield "Ridge points from which choosing by latency pays, found by sweeping each device's bandwidth:"
        yield "\n".join(sentences)


def _why_cells(why: Why) -> dict[str, Cell]:
    return {
        **{name: why.bound_shares.get(name, 0.0) for name in ("compute", "memory", "launch", "overhead")},
        "intensity": why.intensity.value,
        "MACs": why.macs.value / 1e6,
        "traffic": why.traffic_bytes.value / 1e6,
        "kernels": why.num_kernels.value,
        "depthwise": why.depthwise_time.value,
    }


def _fronts(comparison: Comparison) -> Picture:
    stem = "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in comparison.title)
    versus = comparison.versus.get("memory_aware")
    at = (
        ""
        if versus is None or versus.headline_error is None
        else accuracy_text(versus.headline_error, comparison.judged)
    )
    caption = f"{comparison.title}: what each strategy chose, its median and half of the seeds around it"
    return Picture(
        name=f"fronts-{stem}",
        caption=caption + (f"; the headline is at {at}" if at else ""),
        figure=fronts_picture(comparison),
    )
