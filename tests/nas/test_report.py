"""What a person gets: right figures in the tables, a page that opens without an error, legible pictures."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from rich.console import Console
from search_results import finish, make_predictor, make_result
from torch import nn

from nas.export import describe
from nas.report import choose, print_summary, style, write_report
from nas.report.breakdown import (
    latency_text,
    metric_text,
    provenance_shares,
    relative_hypervolumes,
    roofs,
    shares,
    staircase,
    time_by_kind,
)
from nas.report.chosen import knee
from nas.report.figures import front_figure, kernels_figure, roofline_figure
from nas.report.page import page
from nas.report.pictures import front_picture, hypervolume_picture, kernels_picture, roofline_picture
from nas.report.table import candidates_csv, pareto_csv
from nas.result import Candidate, Ending, Failure, Judgement, SearchResult
from search_spaces import Arch

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    return make_result(40)


def with_points(result: SearchResult, points: list[tuple[float, float]]) -> SearchResult:
    """The result reduced to candidates at these (latency in ms, error in %), of which none is infeasible."""
    candidates = tuple(
        replace(each, metrics={**each.metrics, "latency_s": 1e-3 * latency_ms, "error": 0.01 * error_percent})
        for each, (latency_ms, error_percent) in zip(result.candidates, points)
    )
    return finish(replace(result, candidates=candidates, objectives=("error", "latency_s")))


def infeasible(result: SearchResult) -> SearchResult:
    candidates = tuple(replace(each, feasible=False) for each in result.candidates)
    return finish(replace(result, candidates=candidates, constraints={"latency_s": 1e-4}))


def html_of(result: SearchResult, **changes: str | bool) -> str:
    arguments = {
        "command": "python -m nas.search",
        "config_text": "seed: 7\n",
        "exported": False,
    }
    return page(result, choose(result), **{**arguments, **changes})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- tables


def test_pareto_csv_has_the_front_by_increasing_latency_with_units_in_the_columns(result: SearchResult) -> None:
    rows = list(csv.DictReader(io.StringIO(pareto_csv(result))))
    assert [int(row["number"]) for row in rows] == [result.candidates[index].number for index in result.front]
    assert [float(row["latency_ms"]) for row in rows] == sorted(float(row["latency_ms"]) for row in rows)
    candidate = result.candidates[result.front[0]]
    expected = {
        "accuracy_percent": 100 * (1 - candidate.metrics["error"]),
        "latency_ms": 1e3 * candidate.metrics["latency_s"],
        "latency_std_ms": 1e3 * candidate.latency_std_s,
        "traffic_mb": candidate.metrics["traffic_bytes"] / 1e6,
        "arithmetic_intensity_flop_per_byte": candidate.metrics["arithmetic_intensity"],
        "peak_memory_mb": candidate.metrics["peak_memory_bytes"] / 1e6,
        "macs_m": candidate.metrics["macs"] / 1e6,
        "params_m": candidate.metrics["num_params"] / 1e6,
    }
    assert {name: float(rows[0][name]) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert {knob: int(rows[0][knob]) for knob in result.space.choices} == candidate.arch


def test_candidates_csv_has_every_candidate_and_says_which_are_on_the_front(result: SearchResult) -> None:
    rows = list(csv.DictReader(io.StringIO(candidates_csv(result))))
    assert [int(row["number"]) for row in rows] == [each.number for each in result.candidates]
    assert {index for index, row in enumerate(rows) if row["on_front"] == "1"} == set(result.front)


def test_an_empty_front_still_has_a_header(result: SearchResult) -> None:
    assert len(pareto_csv(infeasible(result)).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- chosen


def test_knee_is_the_point_that_bulges_most_towards_the_ideal() -> None:
    # Scaled to [0, 1]^2: (0, 1), (1/9, 1/4), (4/9, 1/8), (1, 0); sums 1, 13/36, 41/72, 1.
    assert knee(np.array([(1.0, 10.0), (2.0, 4.0), (5.0, 3.0), (10.0, 2.0)]), 0, 3) == 1


def test_three_subnets_are_chosen_and_each_says_which_it_is(result: SearchResult) -> None:
    chosen = choose(with_points(result, [(10, 2), (2, 4), (1, 10), (5, 3), (9, 9)]))
    assert [(each.title, each.candidate.number) for each in chosen] == [
        ("most accurate", 0),
        ("knee", 1),
        ("fastest", 2),
    ]


def test_a_front_of_two_has_no_knee(result: SearchResult) -> None:
    assert [each.title for each in choose(with_points(result, [(1, 9), (2, 4), (3, 8)]))] == [
        "most accurate",
        "fastest",
    ]


def test_one_subnet_may_play_two_roles(result: SearchResult) -> None:
    (only,) = choose(with_points(result, [(1, 4), (2, 5)]))
    assert (only.title, only.name) == ("most accurate and fastest", "most_accurate")


def test_without_a_feasible_candidate_the_closest_is_chosen(result: SearchResult) -> None:
    (closest,) = choose(infeasible(result))
    assert closest.title == "nearest miss"
    assert closest.candidate.metrics["latency_s"] == min(each.metrics["latency_s"] for each in result.candidates)


def test_a_search_without_candidates_is_refused(result: SearchResult) -> None:
    with pytest.raises(ValueError, match="no finished candidate"):
        choose(replace(result, candidates=(), front=(), hypervolumes=()))


# ---------------------------------------------------------------------------------------------------------- breakdown


def test_staircase_keeps_what_nothing_beats_and_knows_that_more_intensity_is_better() -> None:
    points = [{"arithmetic_intensity": x, "error": y} for x, y in ((10.0, 0.3), (8.0, 0.2), (9.0, 0.4), (2.0, 0.1))]
    assert staircase(points, "arithmetic_intensity") == [points[0], points[1], points[3]]


def test_every_breakdown_adds_up_to_the_kernels_time(result: SearchResult) -> None:
    prediction = choose(result)[0].prediction
    kernels_s = sum(kernel.latency_s for kernel in prediction.kernels)
    by_kind = time_by_kind(prediction)
    assert sum(sum(seconds.values()) for seconds in by_kind.values()) == pytest.approx(kernels_s)
    assert kernels_s + prediction.overhead_s == pytest.approx(prediction.latency_s)
    totals = [sum(seconds.values()) for seconds in by_kind.values()]
    assert totals == sorted(totals, reverse=True)
    for parts in (shares(prediction.kernels, lambda each: each.bound), provenance_shares([prediction]).items()):
        assert sum(share for _, share in parts) == pytest.approx(1)


def test_latency_is_shown_with_two_digits_of_its_deviation() -> None:
    candidate = Candidate(number=0, arch={}, metrics={"latency_s": 5.6512e-3}, latency_std_s=0.0912e-3, feasible=True)
    assert latency_text(candidate) == "5.651 ± 0.091 ms"
    assert latency_text(replace(candidate, latency_std_s=2.9e-3)) == "5.7 ± 2.9 ms"
    assert latency_text(replace(candidate, latency_std_s=0.0)) == "5.65 ± 0.00 ms"


def test_every_level_of_memory_is_a_roof_that_ends_at_its_ridge_point() -> None:
    dram, cache = roofs(make_predictor().device, "float16")
    # 100 GFLOP/s over 10 and 40 GB/s.
    assert (dram.name, dram.ridge_point, cache.name, cache.ridge_point) == ("dram", 10.0, "L2", 2.5)
    assert (dram.attainable_flops(5.0), dram.attainable_flops(20.0)) == (50e9, 100e9)


def test_hypervolume_is_shown_relative_to_the_last_and_stays_zero_without_a_front(result: SearchResult) -> None:
    shown = relative_hypervolumes(result)
    assert shown[-1] == pytest.approx(100)
    assert shown == sorted(shown)
    assert set(relative_hypervolumes(infeasible(result))) == {0.0}


# --------------------------------------------------------------------------------------------------------------- page


def test_the_first_lines_state_deployment_and_training_both(result: SearchResult) -> None:
    text = re.sub(
        "<[^>]*>",
        "",
        html_of(replace(result, judgement=Judgement(origin="made up")), exported=True)
        .split("<h1>")[1]
        .split("<h2>")[0],
    )
    assert "40 different networks of the space mobilenet_v3_tiny were scored for board" in text
    assert "runtime tvm_opencl, float16" in text
    assert f"{len(result.front)} form the Pareto front for error, latency, memory traffic, arithmetic intensity" in text
    assert "as deployed: images of up to 64x64 pixels, batch 1" in text
    assert "Accuracies are made up, for images of up to 32x32 pixels, 10 classes, with the weights" in text
    assert "The two differ" in text
    assert re.search(r"\d+% measured on the device", text)


def test_a_search_that_ended_early_or_found_nothing_says_so(result: SearchResult) -> None:
    html = html_of(replace(infeasible(result), ending=Ending.INTERRUPTED))
    assert "0 of them meet latency ≤ 0.100 ms. None is feasible" in html
    assert "The search ended early: interrupted." in html


def test_command_config_seed_versions_and_sources_are_on_the_page(result: SearchResult) -> None:
    html = html_of(result, command="python -m nas.search hw=board", config_text="seed: 1234\nhw: {name: board}\n")
    assert "<pre>python -m nas.search hw=board</pre>" in html
    assert "<td>seed</td><td>1234</td>" in html
    assert "hw: {name: board}" in html
    assert "made up &lt;for&gt; tests" in html
    assert all(
        f"<td>{name}</td>" in html for name in ("python", "torch", "optuna", "numpy", "ridgeline-nas", "platform")
    )


def test_names_from_users_cannot_bring_markup_into_the_page() -> None:
    attack = "</script><script>console.error('owned')</script>"
    html = html_of(
        replace(make_result(8, predictor=make_predictor(attack)), judgement=Judgement(origin=attack)),
        command=attack,
        config_text=json.dumps({"x": attack}),
    )
    assert attack not in html
    assert html.count("&lt;script&gt;console.error") >= 4


def test_every_point_of_the_front_shows_its_arch_and_the_menu_has_every_cost(result: SearchResult) -> None:
    figure = front_figure(result, choose(result))
    front = next(trace for trace in figure.data if trace.name == "front")
    assert len(front.text) == len(result.front)
    arch = result.candidates[result.front[0]].arch
    assert all(f"{knob}={value}" in front.text[0] for knob, value in arch.items())
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [
        "latency (ms)", "memory traffic (MB)", "arithmetic intensity (FLOP/byte)", "peak memory (MB)", "MACs (M)",
        "parameters (M)",
    ]  # fmt: skip
    for button in menu.buttons:
        assert [len(x) for x in button.args[0]["x"][1:]] == [len(trace.x) for trace in figure.data[1:]]


def open_in_chromium(path: Path, profile: Path) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, with no network, and the lines that it wrote to the console."""
    finished = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
            "--virtual-time-budget=10000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    return finished.stdout, [line for line in finished.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH to open the page")
def test_the_page_opens_without_a_console_error_or_a_network_and_draws_every_picture(tmp_path: Path) -> None:
    html = html_of(make_result(40, predictor=make_predictor("</script><b>board</b>"), constraints={"latency_s": 1e-3}))
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    dom, console = open_in_chromium(path, tmp_path / "profile")
    assert console == []
    # Front, roofline, hypervolume, and the kernels of three subnets.
    assert len(re.findall('class="plot-container', dom)) == 6

    broken = {
        "thrown": "<script>undefinedFunction()</script>",
        "logged": "<script>console.error('logged')</script>",
        "fetched": '<script src="https://example.org/script.js"></script>',
    }
    for name, markup in broken.items():
        path.write_text(html.replace("</main>", f"</main>{markup}"), encoding="utf-8")
        assert open_in_chromium(path, tmp_path / "profile")[1], f"a page with an error went unnoticed: {name}"


# ----------------------------------------------------------------------------------------------------------- pictures


PICTURES: dict[str, Callable[[SearchResult], Figure]] = {
    "front": lambda result: front_picture(result, choose(result)),
    "hypervolume": hypervolume_picture,
    "kernels": lambda result: kernels_picture(choose(result)),
    "roofline": lambda result: roofline_picture(result, choose(result)),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", ["usual", "infeasible"])
def test_no_text_of_a_picture_overlaps_another_or_leaves_it(name: str, kind: str, result: SearchResult) -> None:
    figure = PICTURES[name](infeasible(result) if kind == "infeasible" else result)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    beyond = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
    texts = [each for each in texts if each not in beyond]
    boxes = [(each.get_text(), each.get_window_extent(renderer)) for each in texts]
    assert len(boxes) > 8
    for (one, box), (other, other_box) in combinations(boxes, 2):
        assert not box.padded(-0.5).overlaps(other_box), f"{one!r} overlaps {other!r}"
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text


def test_provenance_has_one_colour_in_all_pictures(result: SearchResult) -> None:
    chosen = choose(result)
    colors = {name: color for name, color in style.PROVENANCE_COLORS.items() if name != "unknown"}  # of no space
    prediction = chosen[0].prediction
    provenances = {kernel.provenance for kernel in prediction.kernels}
    assert provenances == set(colors)
    bars = {trace.name: trace.marker.color for trace in kernels_figure(prediction, 1.0).data}
    assert {name: bars[name] for name in colors} == colors
    keys = {trace.name: trace.marker.color for trace in roofline_figure(result, chosen).data}
    assert all(keys[style.PROVENANCE_WORDS[name]] == color for name, color in colors.items())
    for picture in (kernels_picture(chosen), roofline_picture(result, chosen)):
        (legend,) = picture.legends
        drawn = dict(zip((each.get_text() for each in legend.get_texts()), legend.legend_handles))
        for name, color in colors.items():
            handle = drawn[style.PROVENANCE_WORDS[name]]
            found = handle.get_facecolor() if hasattr(handle, "get_facecolor") else handle.get_color()
            assert to_hex(found) == color


# -------------------------------------------------------------------------------------------------------- whole report


def test_write_report_leaves_every_file_and_says_nothing(
    result: SearchResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "subnets" / "nearest_miss").mkdir(parents=True)
    (tmp_path / "subnets" / "my_own").mkdir()
    asked: list[Arch] = []

    def extract(arch: Arch) -> nn.Module:
        asked.append(arch)
        images = result.deployed_space.graph(arch).nodes[0].operator
        return nn.Sequential(nn.Flatten(), nn.Linear(images.write_elements, 10))

    write_report(result, tmp_path, command="python -m nas.search", config_text="seed: 1\n", extract=extract)
    assert capfd.readouterr() == ("", "")
    assert asked == [each.candidate.arch for each in choose(result)]
    subnets = ("most_accurate", "knee", "fastest")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "pareto.csv", "candidates.csv", "report.html", "front.png", "hypervolume.png", "kernels.png", "roofline.png",
        "subnets", "subnets/my_own", *(f"subnets/{name}" for name in subnets),
        *(f"subnets/{name}/{file}" for name in subnets for file in ("arch.json", "weights.safetensors", "model.onnx")),
    }  # fmt: skip
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    local = re.findall('<a href="([^"]+)"', html[html.index("<main>") :])
    assert len(local) == 11
    assert all((tmp_path / link).is_file() for link in local)
    for name in ("front", "hypervolume", "kernels", "roofline"):
        height, width, _ = imread(tmp_path / f"{name}.png").shape
        assert min(height, width) >= 400


def test_a_report_that_fails_on_the_way_leaves_no_half_written_file(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "front.png").write_bytes(b"earlier")

    def fail(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half a pict")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(result, tmp_path, command="", config_text="")
    assert (tmp_path / "front.png").read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["usual", "constrained", "infeasible"])
def test_the_summary_says_what_matters_in_fifteen_lines(kind: str, result: SearchResult, tmp_path: Path) -> None:
    constrained = make_result(40, constraints={"latency_s": 1e-3})
    shown = {"usual": result, "constrained": constrained, "infeasible": infeasible(result)}[kind]
    console = Console(record=True, width=80, file=io.StringIO())
    print_summary(shown, tmp_path, console)
    text = console.export_text()
    assert len(text.strip().splitlines()) <= 15
    assert all(each.title in text for each in choose(shown))
    assert all(latency_text(each.candidate) in text for each in choose(shown))
    assert "% measured" in text
    assert "conv2d" in text
    assert str(tmp_path / "report.html") in text
    assert text.isprintable() or not re.search("[\U0001f300-\U0001faff]", text)
    if kind == "constrained":
        assert "within latency ≤ 1.00 ms" in text


# ---------------------------------------------------------------------------------------- several devices, and failures


def on_two_devices(result: SearchResult) -> SearchResult:
    """The same search, in which networks were also looked at on a phone that takes three times as long."""
    candidates = tuple(
        replace(each, metrics={**each.metrics, "phone.latency_s": 3.0 * each.metrics["latency_s"]})
        for each in result.candidates
    )
    objectives = ("error", "latency_s", "phone.latency_s")
    return finish(replace(result, candidates=candidates, objectives=objectives, constraints={"phone.latency_s": 0.1}))


def test_figures_of_another_device_carry_its_name_in_the_tables(result: SearchResult) -> None:
    both = on_two_devices(result)
    for text in (pareto_csv(both), candidates_csv(both)):
        for row in csv.DictReader(io.StringIO(text)):
            assert float(row["phone.latency_ms"]) == pytest.approx(3.0 * float(row["latency_ms"]), rel=1e-4)
    console = Console(record=True, width=80, file=io.StringIO())
    print_summary(both, Path("run"), console)
    shown = console.export_text()
    assert "within latency on phone ≤ 100 ms" in shown
    assert re.search(r"latency *\n.*on phone *\n", shown)
    assert "…" not in shown
    for each in choose(both):
        assert metric_text(each.candidate.metrics, "phone.latency_s") in shown


def test_the_page_shows_what_networks_cost_on_another_device(result: SearchResult) -> None:
    both = on_two_devices(result)
    html = html_of(both)
    assert "float16, and for phone." in html
    assert "40 of them meet latency on phone ≤ 100 ms" in html
    assert "for error, latency, latency on phone." in html
    assert "<td>latency on phone</td>" in html
    assert "latency on phone 30" not in html_of(result)
    figure = front_figure(both, choose(both))
    (menu,) = figure.layout.updatemenus
    (button,) = (each for each in menu.buttons if each.label == "latency on phone (ms)")
    # The bound on the phone is drawn where its latency is the axis, at 100 ms, and nowhere else.
    assert [shape["x0"] for shape in button.args[1]["shapes"]] == [pytest.approx(100.0)]
    assert not menu.buttons[0].args[1]["shapes"]
    front = next(trace for trace in figure.data if trace.name == "front")
    candidate = both.candidates[both.front[0]]
    assert f"latency on phone {metric_text(candidate.metrics, 'phone.latency_s')}" in front.text[0]


def test_a_subnets_description_names_the_device_of_every_figure(result: SearchResult) -> None:
    both = on_two_devices(result)
    found = json.loads(json.dumps(describe(both.candidates[3], both)))["metrics"]
    assert found["phone.latency_s"] == pytest.approx(3.0 * found["latency_s"])


def test_failures_are_counted_and_the_first_is_shown(result: SearchResult) -> None:
    text = "Traceback (most recent call last):\n  File x\nRuntimeError: <out> of memory\n"
    failures = tuple(Failure(number=at, arch=result.candidates[at].arch, error=text) for at in range(3))
    failed = replace(result, failures=failures)
    assert "3 networks failed: RuntimeError: &lt;out&gt; of memory" in html_of(failed)
    assert "1 network failed: " in html_of(replace(failed, failures=failures[:1]))
    assert "failed" not in html_of(result).partition("<script")[0]
    console = Console(record=True, width=80, file=io.StringIO())
    print_summary(failed, Path("run"), console)
    assert "3 networks failed: RuntimeError: <out> of memory" in console.export_text()
