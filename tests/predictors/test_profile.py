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

import predictors.profile
from predictors import Device, GraphBuilder, LatencyPredictor, LookupTable, load_device
from predictors.graph import Graph, Node
from predictors.operators import Copy
from predictors.profile import main, profile_host

TABLE = "host-torch_eager-float32.jsonl"


def network(width: int, depth: int = 3) -> Graph:
    builder = GraphBuilder()
    x = builder.input((1, 3, 16, 16))
    for _ in range(depth):
        x = builder.activation(builder.batch_norm(builder.conv2d(x, width, kernel=3)), "relu")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short ladder and small copies, away from the user's own folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(predictors.profile, "ladder", lambda: tuple(network(width) for width in range(4, 40, 4)))
    monkeypatch.setattr(predictors.profile, "WORKING_SETS_BYTES", (2**16, 2**20))
    monkeypatch.setattr(
        predictors.profile, "copy_bandwidths", lambda clock: [9e10, 2e10]
    )  # half a GiB of copies takes a second


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return profile_host(progress=False)


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
    for source in device.sources().values():
        assert source.startswith("measured 20")
        assert f"torch {torch.__version__}, 1 thread" in source


def test_threads_are_set_while_measuring_and_go_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    seen = []

    def failing(clock: object) -> None:
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        raise RuntimeError("made for tests")

    monkeypatch.setattr(predictors.profile, "gemm_peak", failing)
    with pytest.raises(RuntimeError, match="made for tests"):
        profile_host(threads=before + 1, progress=False)
    assert seen == [(before + 1, True)]
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_measured_kernels_stay_and_only_missing_ones_are_added(device: Device) -> None:
    before = device.tables[0].read_text()
    again = profile_host(graphs=[network(50)], progress=False)
    after = again.tables[0].read_text()
    assert after.startswith(before)
    added = len(LookupTable.read(device.tables[0]).entries) - (before.count("\n") - 1)
    assert added == after.count("\n") - before.count("\n") > 0


def test_a_table_measured_with_other_threads_is_not_mixed(device: Device) -> None:
    with pytest.raises(ValueError, match="measured with threads=1, asked to go on with 2"):
        profile_host(threads=2, progress=False)


def test_what_the_budget_left_out_is_said() -> None:
    with pytest.warns(UserWarning, match="the budget of 1e-09 s left 4 networks out"):
        device = profile_host(budget_s=1e-9, progress=False)
    predictor = LatencyPredictor(device)
    coverages = [predictor.predict(network(width)).coverage for width in range(4, 40, 4)]
    assert [coverage == 1.0 for coverage in coverages] == 5 * [True] + 4 * [False]


def test_a_network_that_pytorch_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(8)
    odd = Graph(
        (*graph.nodes, Node(Copy(shape=(1, 10), to=(10, 1), method="transpose"), (len(graph.nodes) - 1,))), (0,)
    )
    with pytest.warns(UserWarning, match=r"1 networks cannot be run in PyTorch and were left out: copy\("):
        profile_host(graphs=[odd], progress=False)
    monkeypatch.setattr(predictors.profile, "ladder", lambda: ())
    with pytest.raises(ValueError, match=r"no network can be run in PyTorch: copy\("):
        profile_host("other", graphs=[odd], progress=False)
    assert not Path("other/host.yaml").exists()


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"budget_s": 0.0}, {"budget_s": float("nan")}])
def test_senseless_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="threads and budget_s must be positive"):
        profile_host(**arguments)  # type: ignore[arg-type]


def test_a_full_disk_leaves_the_old_device_file(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "hw"
    before = (folder / "host.yaml").read_text()

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(predictors.profile.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        profile_host(progress=False)
    assert (folder / "host.yaml").read_text() == before
    assert sorted(path.name for path in folder.iterdir()) == [TABLE, "host.yaml"]


def test_the_command_says_where_it_put_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--device", "host", "--out", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr()
    assert f"wrote {tmp_path / 'mine' / 'host.yaml'}" in said.out
    assert str(tmp_path / "mine" / TABLE) in said.out
    assert "GFLOP/s in float32" in said.out
    assert "100%" in said.err, "a progress bar"
    assert yaml.safe_load((tmp_path / "mine" / "host.yaml").read_text())["tables"] == [TABLE]


def test_the_command_measures_networks_of_a_space(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--space", "mobilenet_v3_tiny", "--resolution", "96", "--networks", "2", "--out", str(tmp_path)]
    assert main(options) == 0
    anchors = [kernel.anchor for kernel in LookupTable.read(tmp_path / TABLE).entries]
    assert any(getattr(anchor, "groups", 1) > 1 for anchor in anchors), "the short ladder has no depthwise convolution"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "threads and budget_s must be positive, found 0"),
        (["--space", "nowhere"], "unknown space 'nowhere'"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_a_users_mistake_is_a_sentence_and_exit_code_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_only_this_machine_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--device", "v100"])
    assert caught.value.code == 2
    assert "invalid choice: 'v100'" in capsys.readouterr().err


def test_a_profile_that_is_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """kill -9 once the first kernels are in the table; the next run measures none of them again."""
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "predictors.profile", "--out", str(folder)], stderr=subprocess.DEVNULL
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
        device = profile_host(folder, progress=False)
    assert table.read_bytes().startswith(whole)
    kernels = [line.split(b'"latency_p50_s"')[0] for line in table.read_bytes().splitlines()[1:]]
    assert len(kernels) == len(set(kernels)), "no kernel was measured twice"
    assert LatencyPredictor(device).predict(network(8)).coverage == 1.0
