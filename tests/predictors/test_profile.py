import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from simulated import network

import predictors.profile
from predictors import Device, LatencyPredictor, LookupTable, device_writing, load_device
from predictors.graph import Graph, Node
from predictors.measure.device_file import changes
from predictors.measure.find_fusion import FoundFusion
from predictors.measure.machine import MachineNumbers
from predictors.measure.picture import draw_roofline
from predictors.measure.plan import graphs_plan, kernels_plan, space_plan
from predictors.measure.session import Settings
from predictors.operators import Copy
from predictors.profile import main, profile_host, profile_machine

TABLE = "host-torch_eager-float32.jsonl"
QUIET = Settings(progress=False, precision=0.5)
PEAKS = MachineNumbers(
    peak={"float32": {"value": 90.0, "unit": "GFLOP/s", "source": "measured 2026-11-25, for tests"}},
    memory=[
        {
            "name": "cache of 64 KiB",
            "capacity": {"value": 64.0, "unit": "KiB", "source": "measured 2026-11-25, for tests"},
            "bandwidth": {"value": 90.0, "unit": "GB/s", "source": "measured 2026-11-25, for tests"},
        },
        {
            "name": "dram",
            "bandwidth": {"value": 20.0, "unit": "GB/s", "source": "measured 2026-11-25, for tests"},
        },
    ],
    processor={},
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short ladder, given peaks and no picture, away from the user's own folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(predictors.profile, "ladder", lambda: tuple(network(width) for width in range(4, 40, 4)))
    monkeypatch.setattr(predictors.profile, "machine_numbers", lambda backend, clock: PEAKS)
    monkeypatch.setattr(predictors.profile, "draw_roofline", lambda path, device, table: None)


@pytest.fixture
def device() -> Device:
    return profile_machine(settings=QUIET).device


def test_the_device_is_found_by_its_name_and_predicts_from_its_table(device: Device, tmp_path: Path) -> None:
    assert load_device("host") == device
    assert (device.name, device.runtime, device.dtype) == ("host", "torch_eager", "float32")
    assert device.tables == (tmp_path / "home" / "hw" / TABLE,)
    assert [level.bandwidth.value for level in device.memory] == [9e10, 2e10]
    predictor = LatencyPredictor(load_device("host"))
    known, unseen = predictor.predict(network(8)), predictor.predict(network(10))
    assert known.coverage == 1.0
    assert {row.provenance for row in unseen.kernels} == {"interpolated"}
    assert 0.2 * known.latency_s < unseen.latency_s < 5 * known.latency_s


def test_every_number_says_when_and_on_what_it_was_measured(device: Device) -> None:
    assert device.launch is not None
    assert f"torch_eager {torch.__version__}, 1 thread" in device.launch.source
    for source in device.sources().values():
        assert source.startswith("measured 20")


def test_runtimes_of_one_machine_stand_side_by_side(device: Device) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    profile_machine(runtime="onnxruntime", settings=QUIET)
    both = load_device("host")
    assert both.runtime == "onnxruntime", "the one that was measured last is the one that hw=host takes"
    assert set(both.runtimes) == {"torch_eager", "onnxruntime"}
    for name in both.runtimes:
        predictor = LatencyPredictor(both, runtime=name)
        assert predictor.predict(network(8)).coverage == 1.0
        assert {table.header.runtime for table in predictor.tables} == {name}
    assert both.in_runtime("torch_eager").tables == device.tables


def test_threads_are_set_while_measuring_and_go_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen = []

    def failing(backend: object, clock: object) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("made for tests")

    monkeypatch.setattr(predictors.profile, "machine_numbers", failing)
    with pytest.raises(RuntimeError, match="made for tests"):
        profile_machine(threads=before + 1, settings=QUIET)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_a_table_measured_with_other_threads_is_not_mixed(device: Device) -> None:
    with pytest.raises(ValueError, match="measured with threads=1, asked to go on with 2"):
        profile_machine(threads=2, settings=QUIET)


def test_measured_kernels_stay_and_missing_ones_are_added(device: Device) -> None:
    before = device.tables[0].read_text()
    again = profile_machine(graphs_plan([network(50)]), settings=QUIET).device
    after = again.tables[0].read_text()
    assert after.startswith(before)
    predictor = LatencyPredictor(again)
    assert predictor.predict(network(50)).coverage == predictor.predict(network(8)).coverage == 1.0


def test_a_second_profile_says_what_has_changed_and_keeps_the_old_table(device: Device, tmp_path: Path) -> None:
    table = device.tables[0]
    before = table.read_bytes()
    path = tmp_path / "home" / "hw" / "host.yaml"
    mapping = yaml.safe_load(path.read_text())
    mapping["peak"]["float32"]["value"] = 180.0
    path.write_text(yaml.safe_dump(mapping))
    profile = profile_machine(settings=QUIET, again=True)
    assert "peak float32: 180 GFLOP/s before, 90 GFLOP/s now (-50 %)" in profile.changes
    assert any("kernels were measured before: median difference" in note for note in profile.notes)
    kept = list(table.parent.glob("host-torch_eager-float32-until-*.jsonl"))
    assert [each.read_bytes() for each in kept] == [before]
    assert table.read_bytes() != before


def test_the_picture_shows_the_table_on_the_roofline(device: Device, tmp_path: Path) -> None:
    draw_roofline(tmp_path / "roofline.png", device, LookupTable.read(device.tables[0]))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_what_did_not_change_is_not_said() -> None:
    old = {"peak": {"float32": {"value": 100.0, "unit": "GFLOP/s"}}, "name": "host"}
    assert changes(old, old) == []
    assert changes(old, {"peak": {"float32": {"value": 100.9, "unit": "GFLOP/s"}}}) == []
    assert changes({}, old) == []


def test_a_network_that_the_runtime_cannot_run_is_written_down_as_failed() -> None:
    graph = network(8)
    copy = Node(Copy(shape=(1, 10), to=(10, 1), method="transpose"), (len(graph.nodes) - 1,))
    odd = Graph((*graph.nodes, copy), (len(graph.nodes),))
    profile = profile_machine(graphs_plan([odd]), settings=QUIET)
    table = LookupTable.read(profile.table)
    assert "transpose" in {kernel.kind for kernel in table.failures}
    assert {"conv2d", "linear"} <= {kernel.kind for kernel in table.entries}, "the others were measured by themselves"
    prediction = LatencyPredictor(profile.device).predict(odd)
    assert prediction.kernels[-1].provenance == "roofline", "a failed kernel counts as unmeasured"
    lonely = Graph(
        (graph.nodes[0], Node(Copy(shape=(1, 3, 16, 16), to=(1, 16, 16, 3), method="transpose"), (0,))), (1,)
    )
    with pytest.raises(ValueError, match=r"nothing of the plan can be run in 'torch_eager': copy\("):
        profile_machine(graphs_plan([lonely]), name="other", settings=QUIET)
    assert not Path("home/hw/other.yaml").exists()


def test_the_table_is_checked_on_networks_that_were_not_profiled(tmp_path: Path) -> None:
    def draw(rng):
        return network(int(rng.integers(1, 9)) * 4, depth=int(rng.integers(1, 4)))

    plan = space_plan(draw, fraction=0.5, num_check=3)
    profile = profile_machine(plan, settings=QUIET, isolated=True)
    assert len(profile.checks) == 3
    for check in profile.checks:
        assert check.error == check.prediction.latency_s / check.measured_s - 1.0
        assert abs(check.error) < 1.0
        assert check.isolated_s is not None
        assert 0.0 < check.isolated_s / check.measured_s < 10.0
    text = (profile.table.parent / "host-torch_eager-float32-checks.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [float(row["measured_ms"]) for row in rows] == pytest.approx(
        [check.measured_s * 1e3 for check in profile.checks], rel=1e-4
    )


def test_a_tenth_of_a_space_is_measured_where_a_tenth_is_asked_for() -> None:
    plan = space_plan(lambda rng: network(int(rng.integers(1, 100)) * 2), fraction=0.1, num_check=0)
    profile = profile_machine(plan, settings=QUIET)
    assert 30 < len(LookupTable.read(profile.table).entries) <= 59  # 99 widths of six kernels each are 594


def test_kernels_of_a_list_are_measured_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "kernels.txt"
    listed.write_text("# mine\nlinear(shape=(1, 999), out_features=999)\n\nsoftmax(shape=(99, 999))  # last\n")
    profile = profile_machine(kernels_plan(listed), settings=QUIET)
    assert {kernel.kind for kernel in LookupTable.read(profile.table).entries} == {"linear", "softmax"}
    listed.write_text("linear(shape=(1, 64), out_features=10)\nlineer(shape=(1, 64))\n")
    with pytest.raises(ValueError, match=r"kernels.txt:2: unknown operator 'lineer'"):
        profile_machine(kernels_plan(listed), settings=QUIET)
    listed.write_text("# nothing\n")
    with pytest.raises(ValueError, match="lists no kernel"):
        profile_machine(kernels_plan(listed), settings=QUIET)


def test_measured_fusion_rules_stand_in_the_device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"anchors": ["conv2d"], "then": [["batch_norm"]]}]

    found = FoundFusion(
        dtype="float32", pairs=(), rules=rules, skipped=("softmax: no kernel",), notes=("conv2d + relu: unsure",),
        anchors=frozenset({"conv2d"}), followers=frozenset({"batch_norm"}),
    )  # fmt: skip
    monkeypatch.setattr(predictors.profile, "find_fusion", lambda measure, dtype: found)
    profile = profile_machine(settings=QUIET, fusion=True)
    assert {"  softmax: no kernel", "  conv2d + relu: unsure"} <= set(profile.notes)
    assert any("conv2d + batch_norm: measured fused, but the runtime's own graph" in note for note in profile.notes)
    measured = LatencyPredictor(load_device("host")).runtime
    assert [rule.anchors for rule in measured.rules] == [frozenset({"conv2d"})]
    kept = profile_machine(settings=QUIET)
    assert kept.device.fusion == profile.device.fusion, "a later profile goes on under the measured rules"


def test_hw_host_measures_with_pytorch_in_a_short_time() -> None:
    device = profile_host([network(6)])
    assert LatencyPredictor(device).predict(network(6)).coverage == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads must be at least 1, found 0"),
        ({"runtime": "caffe"}, "unknown runtime 'caffe'"),
        ({"dtype": "float8"}, "has no dtype 'float8'"),
        ({"name": "v100"}, "'v100' is shipped with ridgeline"),
        ({"name": "../elsewhere"}, "letters, digits, _ and -"),
    ],
)
def test_senseless_arguments_are_refused_before_anything_is_written(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        profile_machine(settings=QUIET, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "home").exists()


def test_a_full_disk_leaves_the_old_device_file(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "hw"
    before = (folder / "host.yaml").read_text()

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(device_writing.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        profile_machine(settings=QUIET)
    assert (folder / "host.yaml").read_text() == before
    assert not list(folder.glob(".*tmp"))


def test_the_command_says_where_it_put_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--device", "mine", "--out", str(tmp_path / "mine"), "--precision", "0.5"]) == 0
    said = capsys.readouterr().out
    table = tmp_path / "mine" / "mine-torch_eager-float32.jsonl"
    assert f"wrote {tmp_path / 'mine' / 'mine.yaml'}" in said
    assert str(table) in said
    assert "90 GFLOP/s in float32" in said
    assert yaml.safe_load((tmp_path / "mine" / "mine.yaml").read_text())["runtimes"]["torch_eager"]["tables"] == [
        table.name
    ]


def test_the_command_measures_kernels_of_a_space(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--space", "mobilenet_v3_tiny", "--resolution", "64", "--fraction", "0.1", "--check", "2"]
    assert main([*options, "--precision", "0.5", "--out", str(tmp_path)]) == 0
    anchors = [kernel.anchor for kernel in LookupTable.read(tmp_path / TABLE).entries]
    assert any(getattr(anchor, "groups", 1) > 1 for anchor in anchors), "the short ladder has no depthwise convolution"
    assert "2 whole networks that were not profiled: error" in capsys.readouterr().out


def test_the_command_measures_a_model(tmp_path: Path) -> None:
    assert main(["--model", "torch.nn:Tanh", "--input", "99,999", "--precision", "0.5", "--out", str(tmp_path)]) == 0
    assert [kernel.text for kernel in LookupTable.read(tmp_path / TABLE).entries] == [
        "activation(shape=(99, 999), function='tanh')"
    ]
    program = torch.export.export(torch.nn.Linear(999, 999).eval(), (torch.zeros(2, 999),))
    torch.export.save(program, tmp_path / "net.pt2")
    assert main(["--model", str(tmp_path / "net.pt2"), "--precision", "0.5", "--out", str(tmp_path)]) == 0
    assert {kernel.kind for kernel in LookupTable.read(tmp_path / TABLE).entries} == {"tanh", "linear"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "threads must be at least 1, found 0"),
        (["--space", "nowhere"], "unknown space 'nowhere'"),
        (["--device", "v100"], "'v100' is shipped with ridgeline"),
        (["--space", "mobilenet_v3_tiny", "--fraction", "2"], "fraction must be above 0 and at most 1, found 2.0"),
        (["--model", "nowhere:net"], "no callable that makes a module"),
        (["--runtime", "tensorrt"], "pip install tensorrt"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_exit_code_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_is_no_mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictors.profile, "fill_table", interrupted)
    assert main([]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_a_profile_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """kill -9 once the first kernels are in the table."""
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "predictors.profile", "--out", str(folder), "--precision", "0.5"],
        stderr=subprocess.DEVNULL,
    )
    table = folder / TABLE
    try:
        end = time.monotonic() + 120
        while not (table.exists() and table.read_bytes().count(b"\n") > 20):
            assert process.poll() is None, "the profile ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "host.yaml").exists()
    torn = table.read_bytes()
    whole = torn[: torn.rfind(b"\n") + 1]
    table.write_bytes(whole + b'{"kernel": "conv2d(in_ch')
    with pytest.warns(UserWarning, match="the last line is torn"):
        device = profile_machine(folder=folder, settings=QUIET).device
    assert table.read_bytes().startswith(whole)
    assert LatencyPredictor(device).predict(network(8)).coverage == 1.0
