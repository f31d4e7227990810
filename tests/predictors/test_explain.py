"""Where the time goes: sums that add up, pictures that hold every kernel, files that stand alone, errors that help."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html import escape
from math import fsum
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from torch import nn

from predictors import Graph, GraphBuilder, LatencyPredictor, device_from_mapping, load_device, peak_memory_bytes, trace
from predictors.advice import Advice
from predictors.device import Device
from predictors.explain import main
from predictors.explanation import (
    Precision,
    Report,
    explain,
    kernel_rows,
    make_report,
    sensible_depth,
    side_by_side,
    stage_of,
)
from predictors.explanation.figures import bounds_figure, memory_figure, roofline_figure, stages_figure
from predictors.explanation.page import page
from predictors.explanation.pictures import report_png
from predictors.explanation.roofline_points import roofline_picture
from predictors.explanation.stages import TOP_LEVEL
from predictors.explanation.terminal import print_report
from predictors.measure.onnx_model import onnx_bytes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

MODULES = """
import torch
from torch import nn


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x)


class Embeds(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, ids, scale):
        return self.head(self.embed(ids)) * scale


class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


def with_inputs():
    return nn.Linear(8, 4), torch.zeros(2, 8)


def boom():
    raise RuntimeError("the checkpoint is missing")


def number():
    return 3
"""


def made_up(name: str, peak: float, bandwidth: float, cache: float | None = None) -> Device:
    """A device of which everything is known: efficiencies of 1, so that times are those of the roofline's terms."""

    def given(value: float, unit: str) -> dict[str, object]:
        return {"value": value, "unit": unit, "source": "made up"}

    mapping = {
        "name": name,
        "description": "made up",
        "runtime": "torch_eager",
        "dtype": "float32",
        "peak": {"float32": given(peak, "GFLOP/s"), "int8": given(4 * peak, "GFLOP/s")},
        "memory": [{"name": "dram", "bandwidth": given(bandwidth, "GB/s")}],
        "network_overhead": given(2.0, "us"),
    }
    if cache is not None:
        level = {"name": "cache", "bandwidth": given(cache, "GB/s"), "capacity": given(1.0, "MiB")}
        mapping["memory"] = [level, *mapping["memory"]]  # type: ignore[misc]
    return device_from_mapping(mapping)


def small() -> Graph:
    """Three stages: a convolution with much work, a concatenation that only moves data, a head."""
    builder = GraphBuilder()
    x = builder.input((1, 16, 16, 16), name="input")
    x = builder.conv2d(x, 64, kernel=3, name="stem.conv")
    x = builder.activation(x, "relu", name="stem.act")
    x = builder.concat(x, x, name="")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x, "head.pool")), 10, name="head.fc"))


@pytest.fixture(scope="module")
def report() -> Report:
    devices = [made_up("few_flops", 10.0, 100.0), made_up("few_bytes", 100000.0, 1.0)]
    return make_report("small", small(), devices, command="python -m predictors.explain small")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module of the user's own, in the working folder."""
    name = f"user_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return name


# --------------------------------------------------------------------------------------------------------------- sums


def test_shares_of_kernels_and_overhead_are_the_whole_network(report: Report) -> None:
    for each in report.explanations:
        assert each.prediction.overhead_s == pytest.approx(2e-6)
        assert fsum(row.share for row in each.rows) + each.overhead_share == pytest.approx(1.0)
        assert fsum(row.latency_s for row in each.rows) + 2e-6 == pytest.approx(each.prediction.latency_s)
        assert fsum(each.bound_shares.values()) == pytest.approx(1.0)
        assert fsum(each.provenance_shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("depth", [1, 2])
def test_stages_and_kinds_add_up_to_the_kernels(depth: int) -> None:
    found = explain(small(), load_device("mobile_gpu"), depth=depth)
    for totals in (found.stages, found.kinds):
        assert fsum(total.latency_s for total in totals) == pytest.approx(fsum(row.latency_s for row in found.rows))
        assert sum(total.num_kernels for total in totals) == len(found.rows)
        assert sum(total.traffic_bytes for total in totals) == found.prediction.traffic_bytes
        assert sum(total.macs for total in totals) == found.prediction.cost.macs
        assert all(fsum(total.bound_s.values()) == pytest.approx(total.latency_s) for total in totals)


def test_a_row_says_what_its_kernel_costs() -> None:
    (device,) = [made_up("few_flops", 10.0, 100.0)]
    row = kernel_rows(LatencyPredictor(device).predict(small()))[0]
    macs = 16 * 64 * 9 * 16 * 16
    traffic = 4 * (16 * 16 * 16 + 64 * 16 * 9 + 64 * 16 * 16)  # input, weights, output
    assert (row.step, row.name, row.kind, row.dtype, row.bound) == (1, "stem.conv", "conv2d", "float32", "compute")
    assert (row.macs, row.traffic_bytes) == (macs, traffic)
    assert row.arithmetic_intensity == pytest.approx(2 * macs / traffic)
    assert row.attained_flops * row.latency_s == pytest.approx(2 * macs)


@pytest.mark.parametrize(
    ("path", "depth", "stage"),
    [
        ("layer1.0.conv1", 1, "layer1"),
        ("layer1.0.conv1", 2, "layer1.0"),
        ("layer1.0.conv1", 9, "layer1.0.conv1"),
        ("/layer1/layer1.0/conv1/Conv", 2, "layer1.0"),
        ("/conv1/Conv", 1, "conv1"),
        ("", 1, TOP_LEVEL),
    ],
)
def test_a_stage_is_the_beginning_of_a_path(path: str, depth: int, stage: str) -> None:
    assert stage_of(path, depth) == stage


def rows_of(names: list[str]) -> list[object]:
    """Kernels of equal time under these paths."""
    builder = GraphBuilder()
    x = builder.input((1, 8, 8, 8))
    for name in names:
        x = builder.conv2d(x, 8, kernel=1, name=name)
    return list(kernel_rows(LatencyPredictor(load_device("v100")).predict(builder.graph(x))))


@pytest.mark.parametrize(
    ("names", "depth"),
    [
        (["a", "b", "c"], 1),
        (["stem", "blocks.0.a", "blocks.1.a", "blocks.2.a", "blocks.2.b"], 2),  # blocks alone takes four fifths
        (["net.body.a.x", "net.body.b.x", "net.body.c.x"], 3),  # two modules around everything
        ([f"blocks.{index}.a" for index in range(30)], 1),  # 30 stages would be too many
        (["same"] * 3, 1),
        ([""] * 3, 1),
    ],
)
def test_the_depth_follows_the_paths(names: list[str], depth: int) -> None:
    assert sensible_depth(rows_of(names)) == depth  # type: ignore[arg-type]


def test_the_timeline_peaks_at_the_peak_memory(report: Report) -> None:
    for each in report.explanations:
        prediction, memory = each.prediction, each.memory
        assert memory.peak_bytes == prediction.peak_memory_bytes
        assert memory.peak_bytes == peak_memory_bytes(prediction.graph, prediction.kernel_nodes, "float32")
        assert max(memory.live_bytes) == memory.live_bytes[memory.peak_step - 1]
    # input 4096, convolution 16384, its activation is fused or in a tensor of its own; concatenated 32768 elements
    concat = next(row.step for row in each.rows if row.kind == "concat")
    assert memory.peak_step == concat
    assert memory.peak_live_bytes == 4 * (16384 + 32768)


def test_the_timeline_of_a_network_of_known_blocks_is_that_of_the_whole() -> None:
    from search_spaces import load_space

    space = load_space("mobilenet_v3_tiny")
    found = explain(space.graph(space.largest()), load_device("mobile_gpu"))
    assert found.memory.peak_bytes == found.prediction.peak_memory_bytes
    assert len(found.memory.live_bytes) == len(found.rows)


# ------------------------------------------------------------------------------------------------------- side by side


def test_what_changes_its_bound_is_flagged(report: Report) -> None:
    across = report.side_by_side
    assert across is not None
    conv = next(each for each in across.kernels if each.kind == "conv2d")
    assert [row.bound for row in conv.rows if row] == ["compute", "memory"]
    assert conv.changes_bound
    assert conv.changes_roof
    concat = next(each for each in across.kernels if each.kind == "concat")
    assert not concat.changes_bound
    # 0.1 FLOP per byte is the ridge point of the one, 100000 that of the other: whatever computes changes
    assert {each.kind for each in across.changed} == {"conv2d", "adaptive_avg_pool2d", "linear"}
    (change,) = across.changes
    assert change.text(["few_flops", "few_bytes"]) == "compute on few_flops, memory on few_bytes"


def test_ranks_are_those_of_the_kernels_times(report: Report) -> None:
    across = report.side_by_side
    assert across is not None
    for place, each in enumerate(report.explanations):
        ranked = sorted((kernel for kernel in across.kernels), key=lambda kernel: kernel.ranks[place] or 0)
        times = [kernel.rows[place].latency_s for kernel in ranked if kernel.rows[place]]  # type: ignore[union-attr]
        assert times == sorted((row.latency_s for row in each.rows), reverse=True)
    assert side_by_side([report.explanations[0]] * 2).rank_correlation(0, 1) == pytest.approx(1.0)


def test_a_kernel_that_another_device_fuses_has_no_row_there() -> None:
    graph = small()
    fused, alone = (
        explain(graph, load_device("v100"), depth=1),
        explain(graph, load_device("v100"), depth=1, runtime="torch_eager"),
    )
    relu = next(each for each in side_by_side([fused, alone]).kernels if each.kind == "relu")
    assert relu.rows[0] is None
    assert relu.ranks[0] is None
    assert relu.rows[1] is not None
    assert not relu.changes_bound


def test_the_same_kernels_meet_whatever_stands_between_them_in_another_precision() -> None:
    device = made_up("few_flops", 10.0, 100.0)
    plain = explain(small(), device, depth=1)
    mixed = explain(small(), device, depth=1, precision=Precision(dtype="int8", requantise=False))
    assert len(mixed.rows) > len(plain.rows)  # conversions
    for each in side_by_side([plain, mixed]).kernels:
        assert each.kind == "cast" or all(each.rows), each.name


# ---------------------------------------------------------------------------------------------------------- precision


def test_int8_without_requantised_outputs_writes_floats() -> None:
    device = made_up("few_flops", 10.0, 100.0)
    kept = explain(small(), device, precision=Precision(dtype="int8"))
    floats = explain(small(), device, precision=Precision(dtype="int8", requantise=False))
    assert {row.dtype for row in kept.rows if row.kind == "conv2d"} == {"int8"}
    assert {row.dtype for row in floats.rows if row.kind == "conv2d"} == {"int8 -> float32"}
    assert floats.prediction.traffic_bytes > kept.prediction.traffic_bytes
    excepted = explain(small(), device, precision=Precision(dtype="int8", exceptions={"head.fc": "float32"}))
    assert next(row.dtype for row in excepted.rows if row.name == "head.fc" and row.kind == "linear") == "float32"


def test_a_device_of_int8_alone_runs_everything_in_it() -> None:
    assert explain(small(), load_device("edge_tpu"), precision=Precision(dtype="int8")).dtypes == ("int8",)


@pytest.mark.parametrize("options", [{"requantise": False}, {"exceptions": {"linear": "float32"}}])
def test_a_precision_of_parts_needs_one_of_the_rest(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="need a dtype for the rest of the network"):
        Precision(**options)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- pictures


def test_every_kernel_stands_in_the_roofline_picture(report: Report) -> None:
    for each in report.explanations:
        picture = roofline_picture(each.device, each.dtypes, each.rows)
        assert sorted(point.row.step for point in picture.points) == [row.step for row in each.rows]
        for point in picture.points:
            assert picture.x_range[0] < point.x < picture.x_range[1]
            assert picture.y_range[0] < point.y < picture.y_range[1]
            if point.row.macs:
                assert (point.x, point.y) == (point.row.arithmetic_intensity, point.row.attained_flops)
            else:  # left of all others, and as far below the slope as its bandwidth falls short
                assert point.x < picture.movers_right  # type: ignore[operator]
                assert point.y / (point.x * each.device.bandwidth) == pytest.approx(
                    point.row.attained_bandwidth / each.device.bandwidth
                )
        drawn = sum(len(trace.x) for trace in roofline_figure(picture).data if str(trace.name).endswith(" bound"))
        assert drawn == len(each.rows)


def test_roofs_are_those_of_each_dtype_and_memory() -> None:
    device = made_up("cached", 100.0, 10.0, cache=50.0)
    picture = roofline_picture(device, ("float32", "int8"), explain(small(), device).rows)
    assert len(picture.slopes) == len(device.memory)
    assert {peak.y[0] for peak in picture.peaks} == {device.peak_flops("float32"), device.peak_flops("int8")}
    assert len(picture.ridges) == 2 * len(device.memory)
    assert {ridge.x for ridge in picture.ridges} >= {device.ridge_point("float32"), device.ridge_point("int8")}


def test_bars_are_as_long_as_what_they_stand_for(report: Report) -> None:
    first, second = report.explanations
    bars = stages_figure(first).data
    assert fsum(sum(bar.x) for bar in bars) == pytest.approx(1e3 * first.prediction.latency_s)
    assert max(memory_figure(first).data[0].y) == pytest.approx(first.memory.peak_live_bytes / 1e6)
    whole = bounds_figure([first, second]).data
    assert fsum(sum(bar.x) for bar in whole) == pytest.approx(200.0)


def test_the_png_has_a_row_for_each_device(report: Report) -> None:
    both = imread(io.BytesIO(report_png(report)))
    one = imread(io.BytesIO(report_png(make_report("small", small(), [load_device("v100")]))))
    assert both.shape[0] > 1.7 * one.shape[0]
    assert both.std() > 0.05


# -------------------------------------------------------------------------------------------------------------- files


def test_the_page_needs_no_network(report: Report) -> None:
    text = page(report)
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", text, flags=re.DOTALL)
    assert len(without_plotly) < 0.1 * len(text)  # plotly.js itself is inside
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", without_plotly)
    assert "default-src 'none'" in text
    for each in report.explanations:
        for row in each.rows:
            assert escape(row.text) in without_plotly
    assert "compute on few_flops, memory on few_bytes" in text
    assert report.command in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_draws_every_picture(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page(report))
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom",
        (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('class="main-svg"') >= 2 * (1 + 3 * len(report.explanations))
    kernels, ridge_points = sum(len(each.rows) for each in report.explanations), len(report.explanations)
    assert done.stdout.count('<path class="point"') == kernels + ridge_points
    assert done.stdout.count('<g class="point"') >= 2 * kernels  # of the memory's bars and of those side by side


def test_names_cannot_break_out_of_the_page() -> None:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 4, 8, 8)), 4, kernel=1, name="<script>alert(1)</script>")
    text = page(make_report("<b>x</b>", builder.graph(x), [load_device("v100")]))
    assert "<script>alert(1)" not in text
    assert "<b>x</b>" not in text


def in_terminal(report: Report, width: int, limit: int | None = 15) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_report(report, console, limit)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_says_what_there_is(width: int) -> None:
    text = in_terminal(make_report("small", small(), [made_up("few_flops", 10.0, 100.0)]), width)
    assert all(len(line) <= width for line in text.splitlines() if line.startswith(("step", "   ")))
    for words in ("peak memory", "coverage", "stem.conv", "compute", "between kernels", TOP_LEVEL, "head"):
        assert words in text
    assert "roofline" in text
    assert "float32" in text


def test_the_terminal_shows_the_longest_kernels_in_the_order_that_was_asked_for() -> None:
    devices = [load_device("mobile_gpu")]
    by_time = make_report("small", small(), devices)
    (each,) = by_time.explanations
    shown = by_time.shown(each, 2)
    assert [row.latency_s for row in shown] == sorted((row.latency_s for row in each.rows), reverse=True)[:2]
    in_order = make_report("small", small(), devices, by_time=False).shown(each, 2)
    assert [row.step for row in in_order] == sorted(row.step for row in shown)
    assert "2 of 4 that take longest" in in_terminal(by_time, 160, 2)
    assert "--all" not in in_terminal(by_time, 160, None)


def test_advice_is_printed_with_its_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = Advice(
        rule="alignment", sentence="", change="give stem.conv 24 channels", gain_s=4.2e-4, gain_std_s=1.1e-4,
        share=0.09, module_paths=("stem.conv",), edited=small(),
    )  # fmt: skip
    monkeypatch.setattr("predictors.explanation.explaining.advise_with", lambda *_: (advice,))
    found = make_report("small", small(), [load_device("v100")], advice=True)
    for text in (in_terminal(found, 160), page(found)):
        assert "-0.42 ± 0.11 ms (-9.0 %)" in text
        assert "give stem.conv 24 channels" in text
    monkeypatch.setattr("predictors.explanation.explaining.advise_with", lambda *_: ())
    nothing = make_report("small", small(), [load_device("v100")], advice=True)
    assert "nothing that would save" in in_terminal(nothing, 160)


# ------------------------------------------------------------------------------------------------------------ command


def test_the_command_writes_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(small(), spelt_out=True))
    files = {name: tmp_path / f"report.{name}" for name in ("html", "png", "csv", "json")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main([str(tmp_path / "net.onnx"), "--hw", "mobile_gpu,v100", "--advise", *options]) == 0
    assert "mobile_gpu" in capsys.readouterr().out
    with files["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads(files["json"].read_text())
    for device in found["devices"]:
        of_device = [row for row in rows if row["device"] == device["device"]]
        assert len(of_device) == len(device["kernels"])
        kernels_s = fsum(float(row["latency_s"]) for row in of_device)
        assert kernels_s + device["overhead_s"] == pytest.approx(device["latency_s"])
        assert fsum(stage["latency_s"] for stage in device["stages"]) == pytest.approx(kernels_s)
        live = [int(row["live_bytes"]) for row in of_device]
        assert max(live) + device["weight_bytes"] == device["peak_memory_bytes"]
        assert isinstance(device["advice"], list)
    assert found["macs"] == small().macs
    assert files["html"].read_text().startswith("<!DOCTYPE html>")
    assert imread(files["png"]).ndim == 3


def test_a_dash_writes_to_the_terminal_alone(modules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{modules}:with_inputs", "--hw", "v100", "--batch", "5", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["macs"] == 5 * 8 * 4


def test_named_inputs_reach_the_module(modules: str, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--input", "ids=1,7:int64", "--input", "scale=1"]
    assert main([f"{modules}:Embeds", "--hw", "v100", *inputs, "--csv", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["kind"] for row in rows][:2] == ["embedding", "linear"]
    assert [row["name"] for row in rows][:2] == ["embed", "head"]


def test_unknown_operators_stop_the_command_unless_they_are_allowed(
    modules: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = [f"{modules}:Odd", "--hw", "v100", "--input", "4,64"]
    assert main(asked) == 2
    assert "aten::_fft_r2c" in (said := capsys.readouterr().err)
    assert "--allow-unknown" in said
    assert (
        main([*asked, "--allow-unknown", "--html", str(tmp_path / "x.html"), "--json", str(tmp_path / "x.json")]) == 0
    )
    assert "Unknown operators" in (out := capsys.readouterr().out)
    assert "aten::_fft_r2c" in out
    assert "aten::_fft_r2c" in (tmp_path / "x.html").read_text()
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["unknown_operators"][0]["name"].startswith("aten::_fft_r2c")
    assert found["devices"][0]["kernels"][0]["provenance"] == "unknown"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("missing.onnx --hw v100", "there is no file missing.onnx"),
        ("broken.onnx --hw v100", "is no ONNX model"),
        ("broken.pt2 --hw v100", "is no exported program"),
        ("broken.param --hw v100", "not an ncnn .param file"),
        ("resnet18 --hw v100", "has none of the forms"),
        ("{0}:with_inputs --hw v101", "unknown device 'v101'; nearest are ['v100', 'a100']"),
        ("{0}:with_inputs --hw v100,v100", "takes one device or different ones"),
        ("{0}:with_inputs --hw mobile_gpu --dtype int8", "has no peak for dtype 'int8'; it lists"),
        ("{0}:with_inputs --hw v100 --runtime nope", "unknown runtime 'nope'"),
        ("{0}:with_inputs --hw v100 --requantise false", "need a dtype for the rest"),
        ("{0}:with_inputs --hw v100 --dtype float16 --requantise false", "only outputs of int8 kernels"),
        ("{0}:with_inputs --hw v100 --exceptions linear", "--exceptions is written as"),
        ("{0}:with_inputs --hw v100 --dtype float16 --exceptions x=float32", "exception 'x' fits no operator"),
        ("{0}:with_inputs --hw v100 --input 1;8", "an input is a shape such as"),
        ("{0}:with_inputs --hw v100 --input x=1,8:int9", "has dtype 'int9'; known are"),
        ("{0}:with_inputs --hw v100 --input x=1,8 --input 1,8", "either all inputs have names"),
        ("{0}:with_inputs --hw v100 --batch 0", "at least one image, found 0"),
        ("{0}:with_inputs --hw v100 --html nowhere/x.html", "there is no folder 'nowhere'"),
        ("{0}:With --hw v100", "has no attribute 'With'"),
        ("{0}:number --hw v100", "makes int"),
        ("{0}.py:number --hw v100", "without .py"),
        ("nonesuch_module:number --hw v100", "No module named 'nonesuch_module'"),
        ("timm:no_such_net --hw v100", "timm"),
    ],
)
def test_a_mistake_is_one_helpful_sentence(
    arguments: str, message: str, modules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("onnx", "pt2", "param"):
        Path(f"broken.{suffix}").write_text("hello")
    assert main(arguments.format(modules).split()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("network", "beginning"),
    [
        ("{0}:Fails", "RuntimeError: "),
        ("{0}:boom", "RuntimeError: the checkpoint is missing ({0}.py:"),
        ("imports_badly:net", "ModuleNotFoundError: No module named 'nonesuch_package' (imports_badly.py:1"),
    ],
)
def test_the_users_own_error_comes_first(
    network: str, beginning: str, modules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("imports_badly.py").write_text("import nonesuch_package\n")
    assert main([network.format(modules), "--hw", "v100"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"predictors.explain: {beginning.format(modules)}")
    assert network.format(modules) in said
    assert len(said.strip().splitlines()) == 1


def test_timm_that_is_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["timm:resnet18", "--hw", "v100"]) == 2
    assert "needs timm, which cannot be imported" in capsys.readouterr().err


def test_the_command_runs_by_itself_and_reads_what_was_exported(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), tmp_path / "net.pt2")
    command = [sys.executable, "-m", "predictors.explain", str(tmp_path / "net.pt2"), "--hw", "v100", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["macs"] == trace(module, torch.zeros(1, 3, 8, 8)).macs == 3 * 8 * 9 * 36
