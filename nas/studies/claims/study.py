"""The table of claims: what each says, how it is tested, what was found, and the document."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as Screen

from nas.compare.records import Estimate
from nas.studies.claims import MEASUREMENTS, convolutions, machines, networks
from nas.studies.claims.records import Measurements, read_measurements
from nas.studies.claims.verdicts import (
    CONFIRMED,
    FEWEST_DEVICES,
    MIXED,
    MOST,
    NOT_TESTABLE,
    REFUTED,
    UNDECIDED,
    Finding,
    Rule,
    by_device,
    overall,
)
from nas.studies.document import ByHand, Cell, Part, Table, cell_text, write_study


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim of the field.

    Attributes:
        text: what is said.
        figure: what is computed.
        rule: which values confirm and which refute it.
        from_tables: findings in what others measured; None where nothing there tells.
    """

    name: str
    text: str
    figure: str
    rule: Rule
    from_tables: Callable[[Path], list[Finding]] | None = None


CLAIMS = (
    Claim(
        name="macs_on_small",
        text="Devices with little compute (CPUs, small GPUs) are ruled by MACs",
        figure="rank correlation of latency with traffic less that with MACs",
        rule=networks.RULED_BY_MACS,
        from_tables=networks.ruled_by,
    ),
    Claim(
        name="traffic_on_large",
        text="Devices with much compute (GPUs) are ruled by traffic",
        figure="rank correlation of latency with traffic less that with MACs",
        rule=networks.RULED_BY_TRAFFIC,
        from_tables=networks.ruled_by,
    ),
    Claim(
        name="follows_ridge_point",
        text="The higher the ridge point, the more traffic rules",
        figure="rank correlation, over devices, of the ridge point with that difference",
        rule=networks.FOLLOWS_RIDGE,
        from_tables=networks.follows_ridge_point,
    ),
    Claim(
        name="intensity_at_equal_macs",
        text="At equal MACs the network of higher intensity is faster",
        figure="share of pairs, MACs within 2 %, in which it is",
        rule=networks.FASTER,
        from_tables=networks.intensity_at_equal_macs,
    ),
    Claim(
        name="padding",
        text=f"Channels are padded to multiples ({convolutions.ALIGNMENT} here): 23 cost what 24 cost",
        figure="elasticity of time with work below a multiple over that between multiples; 0 is padded",
        rule=convolutions.PADS,
        from_tables=convolutions.padding_of_tables,
    ),
    Claim(
        name="fusion_order",
        text="Conv->BN->ReLU fuses into one kernel, Conv->ReLU->BN does not",
        figure="seconds of the latter over those of the former",
        rule=machines.FUSES,
    ),
    Claim(
        name="fused_is_free",
        text="Elementwise operators that are fused are free",
        figure="share of their own seconds that remains",
        rule=machines.FREE,
    ),
    Claim(
        name="depth_at_equal_macs",
        text="At equal MACs small-and-deep pays more than large-and-shallow, on chains of layers",
        figure="seconds of 64 layers over those of 4, equal MACs",
        rule=machines.PAYS_MORE,
    ),
    Claim(
        name="kernels_at_equal_macs",
        text="At equal MACs the network of more kernels is slower",
        figure="share of pairs, MACs within 2 %, in which it is",
        rule=networks.FASTER,
        from_tables=networks.kernels_at_equal_macs,
    ),
    Claim(
        name="int8_by_traffic",
        text="Low precision gains by traffic more than by compute",
        figure="gain of memory-bound kernels over that of compute-bound ones",
        rule=convolutions.BY_TRAFFIC,
        from_tables=convolutions.int8_of_tables,
    ),
    Claim(
        name="quantising_around",
        text="Quantising and dequantising around each operator costs",
        figure="seconds with it over those with requantised outputs",
        rule=machines.COSTS,
    ),
    Claim(
        name="precision_change",
        text="Changes of precision between operators cost",
        figure="seconds of layers in turn in two precisions over the mean of all in one and all in the other",
        rule=machines.COSTS,
    ),
    Claim(
        name="bandwidth",
        text="Memory-bound operators reach the measured bandwidth when tensors are large",
        figure="share of it, median",
        rule=convolutions.REACHES,
        from_tables=convolutions.bandwidth_of_tables,
    ),
    Claim(
        name="common_windows",
        text="Common windows (1x1, 3x3) are specially optimised",
        figure="efficiency (of compute-bound ones FLOP/s) over that of 5x5 and 7x7, the same otherwise, median",
        rule=convolutions.OPTIMISED,
        from_tables=convolutions.common_windows_of_tables,
    ),
)


def run(options: argparse.Namespace, console: Console) -> None:
    """Test the claims, print the table, and write the document unless only some were asked for.

    Raises:
        ValueError: no such claim, no folder of tables, or a file that holds no measurements.
    """
    claims = chosen(options.only)
    if not options.data.is_dir():
        raise ValueError(f"no folder {options.data}; --data names the one with the tables that others measured")
    paths = options.measurements or [path for name in MEASUREMENTS if (path := options.docs / "data" / name).is_file()]
    measured = [read_measurements(path) for path in paths]
    found = findings(claims, options.data, measured)
    _show(console, claims, found, in_full=bool(options.only))
    if not options.only:
        parts = parts_of(claims, found, measured)
        path = write_study(
            "claims", "Claims about compute, traffic and latency", options.command, (), parts, options.docs
        )
        console.print(f"wrote {path}", highlight=False)


def chosen(names: Sequence[str] | None) -> tuple[Claim, ...]:
    """Claims by their names; None: all.

    Raises:
        ValueError: there is no such claim.
    """
    if names is None:
        return CLAIMS
    known = {claim.name: claim for claim in CLAIMS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown claims {unknown}; those that are tested are {list(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def findings(claims: Sequence[Claim], data: Path, measured: Sequence[Measurements]) -> dict[str, list[Finding]]:
    """Of each claim, by its name: what the tables say, then what each measured machine says."""
    wanted = {claim.name for claim in claims}
    tests = dict.fromkeys(claim.from_tables for claim in claims if claim.from_tables is not None)
    everything = [finding for test in tests for finding in test(data)]
    everything += [finding for each in measured for finding in machines.findings_of(each)]
    found: dict[str, list[Finding]] = {claim.name: [] for claim in claims}
    for finding in everything:
        if finding.claim in wanted:
            found[finding.claim].append(finding)
    return found


def parts_of(claims: Sequence[Claim], found: dict[str, list[Finding]], measured: Sequence[Measurements]) -> list[Part]:
    """The document."""
    verdicts = {claim.name: overall(found[claim.name]) for claim in claims}
    counts = ", ".join(
        f"{sum(each == verdict for each in verdicts.values())} {verdict}"
        for verdict in (CONFIRMED, REFUTED, MIXED, NOT_TESTABLE)
    )
    parts: list[Part] = [
        f"Of {len(claims)} claims: {counts}.",
        ByHand(name="what it means"),
        Table(
            name="claims",
            caption="The claims",
            rows=[_row(claim, found[claim.name]) for claim in claims],
            headings={
                "claim": "claim", "verdict": "verdict", "where": "by device", "told": "findings: confirmed / refuted / "
                "undecided", "median": "median figure (all lie within)", "figure": "the figure", "rule": "the rule",
            },
        ),
        f"""A finding is one device, or one runtime, dtype and size on it. Its verdict follows from its figure and its
interval of 95 % by the rule: a figure that is past the value that confirms, with an interval that does not reach the
value that refutes, and the other way round; else it is undecided. A device is undecided unless half of its findings
decide; it confirms or refutes a claim where at least {MOST:.0%} of those do, else it is mixed: they contradict each
other. The claim is confirmed or refuted where at least {MOST:.0%} of the devices that decide do so; with fewer than
{FEWEST_DEVICES} of them it is not testable.""",
    ]  # fmt: skip
    parts += [_machine_line(each) for each in measured]
    for claim in claims:
        if found[claim.name]:
            parts += [
                f"## {claim.text}",
                f"{claim.figure[0].upper()}{claim.figure[1:]}; {_rule_text(claim.rule)}.",
                Table(
                    name=claim.name,
                    rows=[_finding_row(each) for each in found[claim.name]],
                    headings={
                        "device": "device", "group": "what was measured", "figure": "figure", "num_values": "values",
                        "verdict": "verdict", "note": "",
                    },
                    formats={"figure": ".3g"},
                ),
            ]  # fmt: skip
    return parts


# ------------------------------------------------------------------------------------------------------------ private


def _row(claim: Claim, found: Sequence[Finding]) -> dict[str, Cell]:
    told = [finding for finding in found if finding.verdict != NOT_TESTABLE]
    return {
        "name": claim.name,
        "claim": claim.text,
        "verdict": overall(found),
        "devices": len(by_device(found)),
        "where": "; ".join(_where(by_device(found))),
        "told": " / ".join(
            str(sum(each.verdict == verdict for each in told)) for verdict in (CONFIRMED, REFUTED, UNDECIDED)
        ),
        "median": cell_text(_range_of(told), ".3g"),
        "figure": claim.figure,
        "rule": _rule_text(claim.rule),
    }


def _where(verdicts: Mapping[str, str]) -> Iterator[str]:
    for verdict in (CONFIRMED, REFUTED, MIXED, UNDECIDED):
        if devices := [device for device, each in verdicts.items() if each == verdict]:
            yield f"{verdict}: {', '.join(devices)}"


def _range_of(found: Sequence[Finding]) -> Estimate:
    """Median, least and greatest figure."""
    values_F = np.array([finding.figure.value for finding in found])
    if not len(values_F):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    return Estimate(value=float(np.median(values_F)), low=float(values_F.min()), high=float(values_F.max()))


def _rule_text(rule: Rule) -> str:
    """
    >>> _rule_text(Rule(confirmed=0.25, refuted=0.75))
    'at most 0.25 confirms, at least 0.75 refutes'
    """
    up, down = ("at least", "at most") if rule.confirmed > rule.refuted else ("at most", "at least")
    return f"{up} {rule.confirmed:g} confirms, {down} {rule.refuted:g} refutes"


def _finding_row(finding: Finding) -> dict[str, Cell]:
    return {
        "device": finding.device,
        "group": finding.group,
        "figure": finding.figure,
        "num_values": finding.num_values,
        "verdict": finding.verdict,
        "note": finding.note,
    }


def _machine_line(measured: Measurements) -> str:
    machine = measured.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    peaks = ", ".join(f"{name} {value / 1e12:.3g} TFLOP/s" for name, value in machine.peaks.items())
    rates = ", ".join(
        f"{value / 1e9:.0f} GB/s at {int(size) / 2**20:.0f} MiB" for size, value in machine.bandwidths.items()
    )
    return (
        f"* {machine.title}: {len(measured.records)} cases, {machine.num_visits} visits each, {machine.date}, "
        f"{versions}. "
        f"Measured: {peaks or 'no peaks'}; {rates or 'no bandwidths'}. "
        f"`python -m nas.studies.claims.measure --device {machine.processor} --out FILE`"
    )


def _show(console: Console, claims: Sequence[Claim], found: dict[str, list[Finding]], *, in_full: bool) -> None:
    screen = Screen(
        "claim", "verdict", "devices", "confirmed / refuted / undecided", "median figure (least to greatest)"
    )
    for claim in claims:
        row = _row(claim, found[claim.name])
        screen.add_row(claim.text, *(str(row[name]) for name in ("verdict", "devices", "told", "median")))
    console.print(screen)
    for claim in claims if in_full else ():
        screen = Screen("device", "what was measured", "figure", "values", "verdict", "", title=claim.figure)
        for each in found[claim.name]:
            screen.add_row(
                each.device, each.group, cell_text(each.figure, ".3g"), str(each.num_values), each.verdict, each.note
            )
        console.print(screen)
