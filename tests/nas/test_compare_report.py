"""What a comparison's report says: claims only where the numbers allow them, tables that read back, pages that are
whole."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from math import exp, nan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_comparison import made_up, sweep_of
from rich.console import Console

from nas.compare.records import Chosen, Comparison, Estimate, Sweep, Versus
from nas.compare.report import headline, print_comparison, write_devices, write_report, yardstick_line
from nas.compare.report.curves import (
    accuracy_bands,
    band_window,
    front_curves,
    latency_bands,
    log_ticks,
    spread,
    steps_of,
)
from nas.compare.report.devices import read_devices
from nas.compare.report.page import page
from nas.compare.report.pictures import pictures_of
from nas.compare.report.sentences import (
    front_sentence,
    limit_ratios,
    limit_sentences,
    not_claimed,
    sentence_of,
    sweep_sentence,
    unknown_sentence,
    why_sentences,
)
from nas.compare.report.tables import csv_text, front_rows, rows_of
from nas.compare.report.verdict import Verdict, verdict_of
from nas.compare.report.wording import change_text, number_text, percent_text, points_change_text, signed_percent_text

SIX = ("flops_only", "memory_aware", "latency_only", "params_only", "traffic_only", "random")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return made_up()


@pytest.fixture(scope="module")
def six() -> Comparison:
    return made_up(SIX)


@pytest.fixture(scope="module")
def single() -> Comparison:
    return made_up(SIX[:3], 1, with_limits=False, with_sweep=False, with_whys=False)


@pytest.fixture(scope="module")
def apart() -> Comparison:
    """flops_only errs so much more that no accuracy is common."""
    chosen = made_up(num_seeds=6).chosen
    worse = {
        "flops_only": tuple(
            replace(each, losses_F2=each.losses_F2 + np.array([0.3, 0.0])) for each in chosen["flops_only"]
        )
    }
    return made_up(num_seeds=6, chosen={**chosen, **worse})


def with_versus(comparison: Comparison, **changes: object) -> Comparison:
    """The comparison of memory_aware with some of its figures replaced."""
    versus = replace(comparison.versus["memory_aware"], **changes)  # type: ignore[arg-type]
    return replace(comparison, versus={"memory_aware": versus})


def versus_of(comparison: Comparison) -> Versus:
    return comparison.versus["memory_aware"]


def ratio(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def html_of(comparison: Comparison) -> str:
    return page(comparison, command="python -m nas.compare hw=mobile_gpu", config_text="seed: 0\n")


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# ------------------------------------------------------------------------------------------------------------- claims


def claim_of(comparison: Comparison, headline_ratio: Estimate, along: Estimate, p_value: float) -> Verdict:
    found = with_versus(comparison, headline_ratio=headline_ratio, latency_ratio=along, latency_p_holm=p_value)
    return verdict_of(versus_of(found), found)


FASTER, SLOWER, UNSURE = ratio(0.89, 0.85, 0.93), ratio(1.12, 1.05, 1.2), ratio(0.97, 0.93, 1.02)


def test_a_difference_is_claimed_where_interval_and_rank_test_both_say_so(comparison: Comparison) -> None:
    assert claim_of(comparison, FASTER, FASTER, 0.01) is Verdict.FASTER
    assert claim_of(comparison, SLOWER, SLOWER, 0.01) is Verdict.SLOWER


@pytest.mark.parametrize(
    ("headline_ratio", "along", "p_value"),
    [(UNSURE, FASTER, 0.01), (FASTER, FASTER, 0.05), (FASTER, FASTER, nan), (FASTER, SLOWER, 0.01)],
    ids=["interval", "rank_test", "nothing_to_rank", "two_ways"],
)
def test_no_difference_is_claimed_where_either_does_not(
    comparison: Comparison, headline_ratio: Estimate, along: Estimate, p_value: float
) -> None:
    assert claim_of(comparison, headline_ratio, along, p_value) is Verdict.NO_DIFFERENCE


def test_the_headline_is_one_sentence_with_device_accuracy_and_interval(comparison: Comparison) -> None:
    found = with_versus(
        comparison, headline_error=0.245, headline_ratio=FASTER, latency_ratio=FASTER, latency_p_holm=0.004
    )
    assert headline(found) == (
        "On mobile_gpu, at 75.5 % top-1, memory_aware search finds networks 11 % (7 to 15 %) faster than flops_only "
        "search."
    )


def test_the_headline_says_slower_where_it_is(comparison: Comparison) -> None:
    found = with_versus(
        comparison, headline_error=0.25, headline_ratio=SLOWER, latency_ratio=SLOWER, latency_p_holm=0.004
    )
    assert headline(found).endswith(
        "at 75 % top-1, memory_aware search finds networks 12 % (5 to 20 %) slower than flops_only search."
    )


def test_without_a_claim_the_sentence_says_what_was_found_and_why_that_is_not_enough(comparison: Comparison) -> None:
    found = with_versus(
        comparison, headline_error=0.245, headline_ratio=UNSURE, latency_ratio=UNSURE, latency_p_holm=0.31
    )
    assert headline(found) == (
        "On mobile_gpu, at 75.5 % top-1, no clear difference was found between memory_aware and flops_only search: "
        "over 10 seeds memory_aware's networks were 3 % faster (7 % faster to 2 % slower), but the interval includes "
        "no difference and the rank test of the whole front gives p = 0.31."
    )


def test_two_searches_that_chose_the_same_do_not_differ() -> None:
    chosen = made_up(num_seeds=6).chosen["flops_only"]
    same = tuple(replace(each, strategy="memory_aware") for each in chosen)
    found = made_up(num_seeds=6, chosen={"flops_only": chosen, "memory_aware": same})
    assert verdict_of(versus_of(found), found) is Verdict.NO_DIFFERENCE
    assert "memory_aware's networks were just as fast, but the interval includes no difference" in headline(found)


def test_too_few_seeds_are_said_with_how_many_are_needed(single: Comparison) -> None:
    # 2 * 0.5 ** 7 * 2 = 0.03, and with 6 seeds 0.06.
    assert verdict_of(versus_of(single), single) is Verdict.TOO_FEW_SEEDS
    assert "nothing can be claimed" in headline(single)
    assert "1 seed cannot tell a difference from chance: at least 7 are needed for 2 comparisons" in headline(single)
    assert "(" not in headline(single), "one seed has no interval"


def test_strategies_without_an_accuracy_in_common_are_not_compared(apart: Comparison) -> None:
    assert headline(apart) == (
        "On mobile_gpu, memory_aware and flops_only search cannot be compared: no top-1 is reached by the fronts of "
        "all seeds of both, so their latencies cannot be held against each other at equal accuracy."
    )
    assert front_sentence(versus_of(apart), apart).startswith("At equal latency their top-1 is ")


def test_the_headline_is_of_memory_aware_else_of_the_first_other(six: Comparison) -> None:
    assert "memory_aware" in headline(six)
    without = {name: each for name, each in six.versus.items() if name != "memory_aware"}
    assert "latency_only" in headline(replace(six, versus=without))
    assert headline(replace(six, versus={})).startswith("On mobile_gpu, only flops_only was searched by")


def test_every_claim_of_the_page_is_that_of_its_verdict(six: Comparison) -> None:
    for versus in six.versus.values():
        sentence, verdict = sentence_of(versus, six), verdict_of(versus, six)
        claims = re.search(r" search finds networks .* (faster|slower) than flops_only search\.$", sentence)
        assert (claims.group(1) if claims else "") == (verdict.value if verdict.value in ("faster", "slower") else "")


def test_the_first_line_says_what_latency_is_and_whether_it_was_measured(comparison: Comparison) -> None:
    assert yardstick_line(comparison).startswith(
        "Judged by latency predicted for mobile_gpu (TVM with OpenCL, float16)."
    )
    assert "No latency here was measured" in yardstick_line(comparison)
    measured = replace(comparison, is_measured=True, yardstick_text="latency measured on raspi4 (412 networks)")
    assert yardstick_line(measured) == "Judged by latency measured on raspi4 (412 networks)."
    assert html_of(measured).partition("</h1>\n")[2].startswith(f"<p>{yardstick_line(measured)}</p>")


def test_what_is_not_claimed_says_why(single: Comparison, six: Comparison) -> None:
    text = " ".join(not_claimed(single))
    for expected in ("memory_aware differs from flops_only", "at least two seeds", "predictions", "unlimited budget",
                     "bandwidth was not swept"):  # fmt: skip
        assert expected in text
    claimed = [each for each in six.versus.values() if verdict_of(each, six) in (Verdict.FASTER, Verdict.SLOWER)]
    assert claimed, "the made-up strategies differ"
    assert not any(f"That {each.strategy} differs" in text for each in claimed for text in not_claimed(six))


def test_networks_whose_latency_is_not_known_are_counted() -> None:
    # 2 strategies, 6 seeds, 14 networks that are known and 3 that are not.
    found = made_up(num_seeds=6, unknown=3)
    assert "36 of the 204 chosen networks is not known (18 by flops_only, 18 by memory_aware)" in unknown_sentence(
        found
    )
    assert unknown_sentence(made_up(num_seeds=6)) == ""


# ------------------------------------------------------------------------------------------------------------ wording


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (ratio(0.972, 0.9612, 0.9801), "97.2 % (96.1 to 98.0 %)"),
        (ratio(0.9, nan, nan), "90 %"),
        (ratio(0.0, 0.0, 0.0), "0 %"),
        (ratio(0.01169, 0.000000001, 0.03367), "1 % (0 to 3 %)"),
        (ratio(-0.00001, -0.2, 0.2), "0 % (-20 to 20 %)"),
        (ratio(0.05, 0.003, 0.2), "5.0 % (0.3 to 20.0 %)"),
        (ratio(nan, nan, nan), "not known"),
    ],
)
def test_figures_have_the_digits_that_their_interval_allows_and_no_negative_zero(
    estimate: Estimate, expected: str
) -> None:
    assert percent_text(estimate) == expected


@given(st.floats(-0.5, 2.0), st.floats(0.0, 0.3), st.floats(0.0, 0.3))
def test_no_figure_is_a_negative_zero_and_no_bound_that_excludes_no_difference_reads_0(
    change: float, below: float, above: float
) -> None:
    estimate = ratio(1.0 + change, 1.0 + change - below, 1.0 + change + above)
    difference = ratio(change, change - below, change + above)
    for text in (
        signed_percent_text(estimate),
        change_text(estimate, "faster", "slower", "as fast"),
        points_change_text(difference, "lower", "higher", "the same"),
        number_text(difference),
    ):
        assert not re.search(r"-0(\.0+)?(?![\d.])", text), text
    if abs(change) - max(below, above) > 1e-4:
        assert not re.search(r"\(0(\.0+)? | to 0(\.0+)? %", change_text(estimate, "less", "more", "as much"))


# ------------------------------------------------------------------------------------------------- why, limits, sweep


def with_intensity(comparison: Comparison, ours: float, theirs: float) -> Comparison:
    whys = {
        name: replace(comparison.whys[name], intensity=ratio(value, 0.99 * value, 1.01 * value))
        for name, value in (("memory_aware", ours), ("flops_only", theirs))
    }
    return replace(comparison, whys=whys)


@pytest.mark.parametrize(
    ("latency", "p_value", "ours", "theirs", "expected"),
    [
        (
            FASTER,
            0.01,
            24.0,
            20.0,
            "They are faster at equal top-1 and do more work for each byte: the two go together",
        ),
        (FASTER, 0.01, 20.0, 24.0, "They are faster at equal top-1 although they do less work for each byte"),
        (SLOWER, 0.01, 24.0, 20.0, "They are slower at equal top-1 although they do more work for each byte"),
        (
            SLOWER,
            0.01,
            20.0,
            24.0,
            "They are slower at equal top-1 and do less work for each byte: the two go together",
        ),
        (FASTER, 0.01, 20.1, 20.0, "They are faster at equal top-1 with as much work for each byte"),
        (UNSURE, 0.60, 24.0, 20.0, "They do more work for each byte, yet no difference in latency is claimed"),
    ],
)
def test_the_mechanism_is_what_the_numbers_say(
    comparison: Comparison, latency: Estimate, p_value: float, ours: float, theirs: float, expected: str
) -> None:
    found = with_versus(comparison, headline_ratio=latency, latency_ratio=latency, latency_p_holm=p_value)
    assert why_sentences(with_intensity(found, ours, theirs))[-1].startswith(expected)


def test_where_the_time_goes_is_told_with_the_share_that_macs_pace(comparison: Comparison) -> None:
    shares = {"compute": 0.62, "memory": 0.25, "launch": 0.0, "overhead": 0.13}
    whys = {name: replace(why, bound_shares=shares) for name, why in comparison.whys.items()}
    assert why_sentences(replace(comparison, whys=whys))[0] == (
        "The networks that flops_only chose spend 62 % of their time in compute-bound kernels, 25 % in memory-bound "
        "kernels and 13 % between kernels. MACs, which it looked at, set the pace of 62 % of the time, the larger part."
    )


@pytest.mark.parametrize(
    ("ridge_point", "expected"),
    [(40.0, "both below the ridge point of 40.0"), (10.0, "both above the ridge point of 10.0"),
     (22.0, "flops_only's below and memory_aware's above the ridge point of 22.0")],
)  # fmt: skip
def test_intensities_are_told_beside_the_ridge_point(comparison: Comparison, ridge_point: float, expected: str) -> None:
    found = replace(with_intensity(comparison, 24.0, 20.0), ridge_point=ridge_point)
    text = why_sentences(found)[1]
    assert "do 20 % more work for each byte that they move (24.0 against 20.0 FLOP/byte)" in text
    assert expected in text


def test_a_limit_is_told_as_the_price_of_its_objective(comparison: Comparison) -> None:
    # All networks of the best known front, each a quarter slower: ln 1.25 along the whole front.
    best = comparison.best
    limit = Chosen(strategy="flops_only", seed=0, archs=best.archs, losses_F2=best.losses_B2 * [1.0, 1.25])
    found = replace(comparison, limits={"flops_only": limit})
    assert limit_ratios(found)["flops_only"] == pytest.approx(1.25)
    assert limit_sentences(found) == [
        "With an unlimited budget, choosing by MACs alone (flops_only) finds networks that take 25 % more time than "
        "the best known front's at equal top-1, on average along it."
    ]
    as_good = replace(comparison, limits={"flops_only": replace(limit, losses_F2=best.losses_B2)})
    assert "that are as fast as the best known front's" in limit_sentences(as_good)[0]


def sweep_with(ratios: Mapping[float, float], pays_from: float | None) -> Sweep:
    sweep = sweep_of()
    points = tuple(
        replace(sweep.points[at], ridge_point=ridge, latency_ratio=value)
        for at, (ridge, value) in enumerate(ratios.items())
    )
    return replace(sweep, points=points, own=points[1], pays_from=pays_from)


@pytest.mark.parametrize(
    ("ratios", "pays_from", "expected"),
    [
        (
            {5.0: 0.99, 10.0: 0.97, 20.0: 0.9},
            17.2,
            "at least 5.0 % of the time from a ridge point of 17.2 FLOP/byte on.",
        ),
        ({5.0: 0.9, 10.0: 0.9, 20.0: 0.8}, None, "saves at least 5.0 % at all ridge points from 5.00 to 20.0"),
        ({5.0: 0.99, 10.0: 1.02, 20.0: 0.98}, None, "saves 5.0 % at none of the ridge points from 5.00 to 20.0"),
        (
            {5.0: 0.9, 10.0: 0.92, 20.0: 0.98},
            None,
            "at least 5.0 % up to a ridge point of 10.0 FLOP/byte, and not beyond",
        ),
        ({5.0: 0.99, 10.0: 0.92, 20.0: 0.98}, None, "at least 5.0 % at ridge points of 10.0 FLOP/byte, and not at"),
    ],
)
def test_the_sweep_says_from_where_on_it_pays_or_that_it_does_not(
    comparison: Comparison, ratios: Mapping[float, float], pays_from: float | None, expected: str
) -> None:
    sentence = sweep_sentence(replace(comparison, sweep=sweep_with(ratios, pays_from)))
    assert expected in sentence
    assert "mobile_gpu itself has 10.0 FLOP/byte, where networks chosen by latency take " in sentence


# ------------------------------------------------------------------------------------------------------------- tables


def test_compare_csv_has_a_row_a_strategy_and_reads_back(six: Comparison) -> None:
    rows = read(csv_text(rows_of(six)))
    assert [row["strategy"] for row in rows] == list(SIX)
    row, versus = rows[1], six.versus["memory_aware"]
    assert versus.latency_ratio is not None
    assert versus.headline_error is not None
    expected = {
        "latency_vs_baseline_percent": 100 * (versus.latency_ratio.value - 1),
        "latency_vs_baseline_low_percent": 100 * (versus.latency_ratio.low - 1),
        "accuracy_vs_baseline_points": -100 * versus.error_difference.value,
        "accuracy_vs_baseline_low_points": -100 * versus.error_difference.high,
        "headline_accuracy_percent": 100 * (1 - versus.headline_error),
        "latency_p_holm": versus.latency_p_holm,
        "hypervolume_percent": 100 * six.standings["memory_aware"].hypervolume.value,
        "search_s": 21.4 + 4.5,
        "memory_percent": 100 * six.whys["memory_aware"].bound_shares["memory"],
        "ridge_point_flop_per_byte": 40.4,
    }
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
    assert row["claim"] == verdict_of(versus, six).value
    assert row["sentence"] == sentence_of(versus, six)


def test_the_baseline_has_no_difference_and_an_unknown_figure_is_empty(single: Comparison) -> None:
    rows = read(csv_text(rows_of(single)))
    assert rows[0]["claim"] == rows[0]["latency_vs_baseline_percent"] == ""
    assert rows[1]["latency_p_holm"] == rows[1]["hypervolume_low_percent"] == rows[1]["macs_m"] == ""
    assert "nan" not in csv_text(rows_of(single))


def test_fronts_csv_has_every_chosen_network_with_its_knobs_and_those_of_limits_and_the_best(
    comparison: Comparison,
) -> None:
    rows = read(csv_text(front_rows(comparison)))
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "chosen": 2 * 10 * 14,
        "unlimited budget": 30,
        "best known": 30,
    }
    of_seed = [row for row in rows if (row["strategy"], row["seed"]) == ("memory_aware", "3")]
    chosen = comparison.chosen["memory_aware"][3]
    order = np.argsort(chosen.losses_F2[:, 1])
    assert [int(row["depth"]) for row in of_seed] == [chosen.archs[at]["depth"] for at in order]
    assert {row["width"] for row in of_seed} == {"4"}
    assert [float(row["latency_ms"]) for row in of_seed] == pytest.approx(1e3 * chosen.losses_F2[order, 1], rel=1e-5)
    assert [float(row["error_percent"]) for row in of_seed] == pytest.approx(100 * chosen.losses_F2[order, 0], rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- pictures


def test_a_staircase_drops_what_a_faster_network_beats() -> None:
    steps = steps_of(np.array([[0.2, 3e-3], [0.3, 1e-3], [0.35, 2e-3], [0.2, 4e-3]]))
    assert steps.x.tolist() == pytest.approx([1.0, 3.0])
    assert steps.y.tolist() == pytest.approx([70.0, 80.0])


def test_the_median_front_runs_within_its_band(six: Comparison) -> None:
    for curves in front_curves(six).values():
        at = np.searchsorted(curves.median.x, curves.x_band, side="right") - 1
        median = curves.median.y[at]
        assert (curves.low <= median).all()
        assert (median <= curves.high).all()


def test_latency_along_the_front_is_drawn_in_per_cent_by_increasing_accuracy(comparison: Comparison) -> None:
    curve, band = versus_of(comparison).latency, latency_bands(comparison)["memory_aware"]
    assert curve is not None
    assert (np.diff(band.x) > 0).all()
    most_accurate = int(np.argmin(curve.places_P))
    assert band.x[-1] == pytest.approx(100 * (1 - curve.places_P[most_accurate]))
    assert band.y[-1] == pytest.approx(100 * (exp(curve.estimates[most_accurate].value) - 1))


def test_lines_without_an_interval_are_within_their_picture(single: Comparison) -> None:
    bands = latency_bands(single)
    low, high = band_window(bands)
    assert all(low <= value <= high for band in bands.values() for value in band.y)


def test_accuracy_along_the_front_is_drawn_in_points_by_milliseconds(comparison: Comparison) -> None:
    curve, band = versus_of(comparison).error, accuracy_bands(comparison)["memory_aware"]
    assert band.x == pytest.approx(1e3 * curve.places_P)
    assert band.y[7] == pytest.approx(-100 * curve.estimates[7].value), "a larger error is a lower accuracy"
    assert (band.low <= band.high).all()


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_never_overlap_and_keep_their_order(values: list[float]) -> None:
    places = spread(values, 3.0, 100.0)
    order = sorted(range(len(values)), key=lambda at: places[at])
    assert all(places[b] - places[a] > 3.0 - 1e-6 for a, b in pairwise(order))
    assert [values[at] for at in order] == sorted(values)
    assert max(places) <= 100.0 + 1e-9


@given(st.floats(-6, 6), st.floats(0.01, 4))
def test_every_logarithmic_axis_has_a_few_ticks(start: float, decades: float) -> None:
    ticks = log_ticks(10**start, 10 ** (start + decades))
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 13


def test_pictures_are_only_drawn_of_what_is_there(six: Comparison, single: Comparison, apart: Comparison) -> None:
    everything = ["fronts.png", "hypervolume.png", "latency_at_equal_accuracy.png", "accuracy_at_equal_latency.png",
                  "why.png", "sweep.png"]  # fmt: skip
    assert list(pictures_of(six)) == everything
    assert list(pictures_of(single)) == everything[:4]
    assert "latency_at_equal_accuracy.png" not in pictures_of(apart)


# -------------------------------------------------------------------------------------------------------------- pages


class Whole(HTMLParser):
    """Collects what a page would fetch, and complains about tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name == "src" or (tag == "link" and name == "href")]
        if tag not in ("meta", "link", "br", "i"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "i":
            assert self.open.pop() == tag


def check_whole(html: str) -> None:
    parser = Whole()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert [each for each in parser.fetched if not each.startswith("data:")] == []
    assert "default-src 'none'" in html
    assert "nan" not in re.sub(r"<script.*?</script>", "", html, flags=re.S).lower().replace("nanosecond", "")


def test_the_page_is_whole_and_fetches_nothing(six: Comparison, single: Comparison, apart: Comparison) -> None:
    for each in (six, single, apart):
        check_whole(html_of(each))


def test_a_search_none_of_whose_networks_is_known_is_reported_as_such(tmp_path: Path) -> None:
    chosen = made_up(num_seeds=2, with_whys=False).chosen
    empty = tuple(
        replace(each, archs=(), losses_F2=np.empty((0, 2)), num_unknown=14) for each in chosen["memory_aware"]
    )
    for theirs in ((empty[0], chosen["memory_aware"][1]), empty):
        found = made_up(num_seeds=2, with_whys=False, chosen={**chosen, "memory_aware": theirs})
        check_whole(html_of(found))
        assert "cannot be compared" in headline(found)
        assert "nan" not in csv_text(rows_of(found))
        for picture in pictures_of(found).values():
            picture(found)
        print_comparison(found, tmp_path, Console(file=io.StringIO()))


def test_names_of_the_users_are_text_wherever_they_stand() -> None:
    name = "<script>alert(1)</script> & $x$"
    found = made_up(
        ("flops_only", "<b>mine</b>"), 2, title=name, judged="<i>top</i>", yardstick_text=f"latency of {name}"
    )
    html = html_of(found)
    check_whole(html)
    for raw in ("<script>alert", "<b>mine", "<i>top"):
        assert raw not in html.replace("\\u003c", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x$" in html


def test_a_run_leaves_page_tables_and_pictures_and_devices_make_one_table(
    single: Comparison, apart: Comparison, tmp_path: Path
) -> None:
    other = replace(apart, title="v100, batch 32", ridge_point=12.0)
    write_report(single, tmp_path / "mobile gpu", command="python -m nas.compare hw=<x>", config_text="seed: <0>\n")
    write_report(other, tmp_path / "v100", command="", config_text="")
    assert {path.name for path in (tmp_path / "mobile gpu").iterdir()} == {
        "report.html", "compare.csv", "fronts.csv", *pictures_of(single)
    }  # fmt: skip
    html = (tmp_path / "mobile gpu" / "report.html").read_text(encoding="utf-8")
    assert "hw=&lt;x&gt;" in html
    assert "seed: &lt;0&gt;" in html

    old = tmp_path / "older"
    old.mkdir()
    (old / "compare.csv").write_text("strategy\nflops_only\n", encoding="utf-8")
    write_devices(tmp_path)
    devices, others = read_devices(tmp_path)
    assert [device.folder for device in devices] == ["v100", "mobile gpu"], "by ridge point"
    assert others == ["older"]
    rows = read((tmp_path / "compare.csv").read_text(encoding="utf-8"))
    assert [row["title"] for row in rows] == ["v100, batch 32", "mobile_gpu"]
    assert [row["memory_aware_claim"] for row in rows] == ["no accuracy in common", "too few seeds to tell"]
    assert rows[0]["latency_only_latency_vs_baseline_percent"] == ""
    ratio_of_other = single.versus["latency_only"].latency_ratio
    assert ratio_of_other is not None
    assert float(rows[1]["latency_only_latency_vs_baseline_percent"]) == pytest.approx(
        100 * (ratio_of_other.value - 1), rel=1e-5
    )
    page_of_all = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_whole(page_of_all)
    assert 'href="mobile%20gpu/report.html"' in page_of_all
    assert "another version wrote them: older" in page_of_all
    assert (tmp_path / "devices.png").stat().st_size > 1000


def test_no_device_leaves_no_page(tmp_path: Path) -> None:
    write_devices(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_terminal_says_the_same(six: Comparison, tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_comparison(six, tmp_path, console)
    lines = console.export_text().splitlines()
    assert lines[0] == yardstick_line(six)
    assert lines[1] == headline(six)
    assert str(tmp_path / "report.html") in lines[-2]
    assert all(any(line.startswith(name) for line in lines) for name in SIX)
