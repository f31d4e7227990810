"""A front against its measurements: figures by hand, the device refitted, this machine measured only where it is it."""

import csv
import json
import sys
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from ended_runs import ended_run
from matplotlib.image import imread
from torch import nn

import nas.verify
from nas.cli import run_command
from nas.export import export_onnx
from nas.run_folder import chosen_of, front_of, read_run
from nas.verify_report import print_verification, sentences_of
from nas.verify_times import ElsewhereError, Measuring, read_times, write_models
from nas.verifying import Subject, subject_of, verify_run
from predictors import LatencyPredictor, load_device
from predictors.calibration import calibrate
from predictors.device_writing import device_to_mapping, save_device
from predictors.imports.manifest import read_manifest
from predictors.mapping import read_yaml
from predictors.measure.device_file import processor_name
from predictors.measure.session import Settings
from predictors.paths import shipped

torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run for the user's own device `board`, which has no tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    (tmp_path / "hw").mkdir()
    text = (shipped("hw") / "mobile_gpu.yaml").read_text()
    (tmp_path / "hw" / "board.yaml").write_text(text.replace("name: mobile_gpu", "name: board", 1))
    return ended_run(tmp_path / "run", "board")


def times_csv(subject: Subject, path: Path, factor: float, unit: str = "milliseconds") -> Path:
    """Every network takes `factor` times what is predicted."""
    scale = {"milliseconds": 1e3, "seconds": 1.0, "latency_us": 1e6}[unit]
    rows = [f"{name},{factor * scale * predicted(subject, name)!r}" for name in subject.graphs]
    path.write_text("\n".join([f"network,{unit}", *rows]))
    return path


def predicted(subject: Subject, name: str) -> float:
    return subject.predictor.predict(subject.graphs[name]).latency_s


# ------------------------------------------------------------------------------------------ measured somewhere else


def test_times_from_elsewhere_give_errors_by_hand_and_a_device_that_predicts_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = subject_of(read_run(run))
    found = verify_run(subject, measured=times_csv(subject, tmp_path / "times.csv", 1.25))
    # predicted / measured - 1 = 1 / 1.25 - 1 = -20 % for each
    assert [row.error for row in found.rows] == pytest.approx([-0.2] * len(subject.graphs))
    assert (found.before.mape, found.before.within_10, found.before.spearman) == pytest.approx((0.2, 0.0, 1.0))
    assert found.after is not None
    assert found.after.mape < 0.05, "each network by a fit without it"
    assert found.saved == tmp_path / "hw" / "board.yaml"
    assert found.kept is not None
    assert read_yaml(found.kept)["name"] == "board", "the old file"
    refitted = LatencyPredictor(load_device("board"), dtype=subject.predictor.dtype)
    for name, graph in subject.graphs.items():
        assert refitted.predict(graph).latency_s == pytest.approx(1.25 * predicted(subject, name), rel=0.05)

    rows = list(csv.DictReader((run / "verify.csv").read_text().splitlines()))
    assert [row["network"] for row in rows] == [network.name for network in front_of(read_run(run))]
    assert {row["subnet"] for row in rows} > {"fastest", "most_accurate"}
    assert all(float(row["error_percent"]) == pytest.approx(-20) for row in rows)
    assert imread(run / "verify.png").shape[1] > 500
    print_verification(found, run)
    shown = capsys.readouterr().out
    assert "mean error 20.0%, 0% within 10 %" in shown
    assert "use it as hw=board" in shown
    assert f"kept as {found.kept}" in shown.replace("\n", "")

    again = verify_run(subject_of(read_run(run)), measured=tmp_path / "times.csv", recalibrate=False)
    assert any("fitted to these very times" in note for note in again.notes)
    assert any("device's file or tables have changed since the search" in note for note in again.notes)


def test_a_refit_of_a_shipped_device_gets_a_name_of_its_own_and_keeps_its_tables(run: Path, tmp_path: Path) -> None:
    subject = subject_of(read_run(run), device=load_device("cpu_x86"), num_networks=3)
    before = (shipped("hw") / "cpu_x86.yaml").read_bytes()
    found = verify_run(subject, measured=times_csv(subject, tmp_path / "times.csv", 1.5))
    assert found.saved == tmp_path / "hw" / "cpu_x86_verified.yaml"
    assert (shipped("hw") / "cpu_x86.yaml").read_bytes() == before
    written = load_device("cpu_x86_verified")
    assert written.name == "cpu_x86_verified"
    assert {path.name for path in written.tables} == {"cpu_x86_verified-onnxruntime-float32.jsonl"}
    assert set(written.runtimes) == set(load_device("cpu_x86").runtimes)
    predictor = LatencyPredictor(written)
    assert predictor.tables
    for name, graph in subject.graphs.items():
        assert predictor.predict(graph).latency_s == pytest.approx(1.5 * predicted(subject, name), rel=0.05)
    with pytest.raises(ValueError, match="device 'v100' is shipped with ridgeline; give yours another name"):
        verify_run(subject, measured=tmp_path / "times.csv", save_as="v100")
    with pytest.raises(ValueError, match=r"has letters, digits, _ and -, found '\.\./x'"):
        verify_run(subject, measured=tmp_path / "times.csv", save_as="../x")


def test_what_is_fitted_with_tables_is_in_the_file_that_is_written(run: Path, tmp_path: Path) -> None:
    """The device has a section for each runtime; the numbers of the one that was refitted are the new ones."""
    device = load_device("cpu_x86")
    predictor = LatencyPredictor(device)
    graphs = list(subject_of(read_run(run), device=load_device("cpu_x86"), num_networks=3).graphs.values())
    refitted = calibrate(device, [(graph, 2.0 * predictor.predict(graph).latency_s) for graph in graphs])
    assert refitted.in_network is not None
    assert device_to_mapping(refitted)["runtimes"]["onnxruntime"]["in_network"]["value"] == refitted.in_network.value
    save_device(replace(refitted, name="copy"), tmp_path / "hw" / "copy.yaml")
    assert load_device("copy").in_network == refitted.in_network
    assert set(load_device("copy").runtimes) == set(device.runtimes)


def test_few_networks_are_scored_and_not_fitted(run: Path, tmp_path: Path) -> None:
    subject = subject_of(read_run(run), num_networks=2)
    front = front_of(read_run(run))
    assert [each.number for each in subject.networks] == [front[0].number, front[-1].number], "both ends"
    before = (tmp_path / "hw" / "board.yaml").read_bytes()
    found = verify_run(subject, measured=times_csv(subject, tmp_path / "times.csv", 1.1, "latency_us"))
    assert found.before.mape == pytest.approx(1 - 1 / 1.1)
    assert (found.saved, found.after) == (None, None)
    assert (tmp_path / "hw" / "board.yaml").read_bytes() == before
    assert any("2 measured networks are too few to recalibrate" in sentence for sentence in sentences_of(found))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network,ms\nnetwork_0000,1\n", r"needs the columns 'network' and one of \['seconds', 'milliseconds'"),
        ("name,seconds\nnetwork_0000,1\n", r"needs the columns 'network'"),
        ("network,seconds,milliseconds\nnetwork_0000,1,1\n", r"needs the columns 'network' and one of"),
        ("network,seconds\nother,1\n", r"times.csv:2: 'other' is no network of this front; it has network_0000"),
        ("network,seconds\nnetwork_0000,fast\n", r"times.csv:2: seconds is 'fast', which is no number"),
        ("network,seconds\nnetwork_0000,-1\n", r"'network_0000' took -1 seconds; a time is positive and finite"),
        ("network,seconds\nnetwork_0000,inf\n", r"a time is positive and finite"),
        ("network,seconds\nnetwork_0000,\n", r"has no times"),
        ("", r"needs the columns 'network'.*found \[\]"),
    ],
)
def test_a_sheet_of_times_that_says_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_times(tmp_path / "times.csv", ["network_0000"])


def test_a_sheet_of_times_takes_models_names_and_the_median_of_repeated_runs(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text(
        "network, milliseconds\nmodels/network_0003.tflite,2\nnetwork_0003,4\nnetwork_0003,3\nnetwork_0004,\n"
    )
    found = read_times(path, ["network_0003", "network_0004"])
    assert {name: each.seconds for name, each in found.items()} == {"network_0003": pytest.approx(0.003)}
    with pytest.raises(ValueError, match="there is no such file"):
        read_times(tmp_path / "nothing.csv", [])


def test_times_in_another_unit_are_refused_and_no_device_is_written(run: Path, tmp_path: Path) -> None:
    subject = subject_of(read_run(run))
    before = (tmp_path / "hw" / "board.yaml").read_bytes()
    with pytest.raises(ValueError, match="are these milliseconds"):
        verify_run(subject, measured=times_csv(subject, tmp_path / "times.csv", 1000.0))
    assert (tmp_path / "hw" / "board.yaml").read_bytes() == before
    assert not (run / "verify.csv").exists()


# --------------------------------------------------------------------------------------------- measured on this machine


def test_a_device_that_is_not_this_machine_is_not_measured_and_its_models_are_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("warnings.formatwarning", lambda *_, **__: "")
    monkeypatch.setattr(sys, "argv", ["verify", f"run={run}", "num_networks=2"])
    with pytest.raises(SystemExit) as left:
        run_command(nas.verify.main)
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert "nothing was measured: runtime 'tvm_opencl' of device 'board' cannot run here" in shown.err
    assert f"measured={run / 'models' / 'times.csv'}" in shown.out.replace("\n", "")
    models = read_manifest(run / "models" / "manifest.json")
    assert set(models) == set(subject_of(read_run(run), num_networks=2).graphs)
    sheet = run / "models" / "times.csv"
    assert sheet.read_text().splitlines() == ["network,milliseconds", *(f"{name}," for name in models)]
    sheet.write_text("filled in")
    write_models(subject_of(read_run(run), num_networks=2).graphs, "tvm_opencl", run / "models")
    assert sheet.read_text() == "filled in", "what is there stays"


def test_another_machine_with_the_same_runtime_is_not_this_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.verify_times.processor_name", lambda: "Another Processor 5000")
    subject = subject_of(read_run(run), device=load_device("cpu_x86"), num_networks=1)
    with pytest.raises(
        ElsewhereError, match=r"'cpu_x86' .* was measured elsewhere .*this machine is Another Processor"
    ):
        verify_run(subject)
    on_gpu = subject_of(read_run(run), device=load_device("h200"), num_networks=1)
    if not torch.cuda.is_available():
        with pytest.raises(ElsewhereError, match="device 'h200' is a GPU, and this machine has none"):
            verify_run(on_gpu)


def test_this_machine_is_measured_once_with_the_files_that_the_search_exported(run: Path, tmp_path: Path) -> None:
    device = read_yaml(shipped("hw") / "cpu_x86.yaml")
    source = f"measured today, {processor_name()}, by hand, 1 thread"
    for numbers in device["runtimes"].values():
        del numbers["tables"]
    device |= {"name": "mine", "reference": {"value": 1.0, "unit": "ms", "source": source}}
    (tmp_path / "hw" / "mine.yaml").write_text(json.dumps(device))
    description = chosen_of(read_run(run))["fastest"]
    exported = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(description["input_shape"])), 3))
    export_onnx(exported, tuple(description["input_shape"]), run / "subnets" / "fastest" / "model.onnx")
    subject = subject_of(read_run(run), device=load_device("mine"), num_networks=2)
    measuring = Measuring(settings=Settings(budget_s=0.01, progress=False), passes=1, instances=1)
    found = verify_run(subject, measuring=measuring, recalibrate=False)
    fastest, other = found.rows
    assert fastest.subnet == "fastest"
    assert 1e-6 < fastest.measured_s < 1.0
    assert fastest.measured.exported_s is not None
    assert 0.0 < fastest.measured.exported_s < fastest.measured_s, "one product instead of the network"
    assert other.measured.exported_s is None
    assert any("exported ONNX files of 1 of them" in sentence for sentence in sentences_of(found))
    again = verify_run(subject, measuring=measuring, recalibrate=False)
    assert [row.measured_s for row in again.rows] == [row.measured_s for row in found.rows], "kept, not measured again"
    anew = verify_run(subject, measuring=replace(measuring, again=True), recalibrate=False)
    assert [row.measured_s for row in anew.rows] != [row.measured_s for row in found.rows]
    assert len(list((run / "verify").glob("*until*"))) == 1


def test_a_device_without_a_file_any_more_is_that_of_the_config_and_another_can_be_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hw" / "board.yaml").unlink()
    with pytest.raises(ValueError, match=r"config.yaml: key 'description' is missing"):
        subject_of(read_run(run))
    subject = subject_of(read_run(run), device=load_device("mobile_cpu"))
    times_csv(subject, tmp_path / "times.csv", 1.0)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("warnings.formatwarning", lambda *_, **__: "")
    arguments = ["hw=mobile_cpu", f"run={run}", f"measured={tmp_path / 'times.csv'}", "recalibrate=false"]
    monkeypatch.setattr(sys, "argv", ["verify", *arguments])
    run_command(nas.verify.main)
    assert f"{len(subject.graphs)} networks of the front on mobile_cpu: mean error 0.0%" in capsys.readouterr().out


def test_networks_without_a_time_are_said(run: Path, tmp_path: Path) -> None:
    subject = subject_of(read_run(run))
    path = times_csv(subject, tmp_path / "times.csv", 1.0)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]))
    found = verify_run(subject, measured=path, recalibrate=False)
    assert len(found.rows) == 2
    assert any(f"{len(subject.graphs) - 2} networks have no time" in note for note in found.notes)
    assert found.before.spearman != found.before.spearman or found.before.spearman is nan, "two ranks say nothing"
    with pytest.raises(ValueError, match="num_networks must be at least 1, found 0"):
        subject_of(read_run(run), num_networks=0)
