"""Advice held against a runtime whose times are known."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from simulated import SimulatedBackend, SimulatedClock, usual_seconds
from test_advice import Builder, device, plain

from predictors import Graph, LatencyPredictor, fuse, load_runtime
from predictors.check_advice import Checked, check_advice, main
from predictors.check_advice import _report as report
from predictors.check_advice import _write as write
from predictors.graph_file import write_graphs
from predictors.measure.backend import NoKernelError
from predictors.measure.session import Settings

ORT = load_runtime("onnxruntime")
QUIET = Settings(progress=False)


def late_norms() -> Graph:
    builder = Builder()
    x = builder.input((1, 3, 128, 128))
    for index in range(3):
        x = builder.layer(x, 8, order="cab", name=f"layer{index}")
    return builder.ended(x)


def checked(graph: Graph, backend: SimulatedBackend, clock: SimulatedClock | None = None, **options: object) -> Checked:
    predictor = LatencyPredictor(device(dtypes={"float32": 5e10, "int8": 1e12}))
    return check_advice(graph, predictor, backend, clock or SimulatedClock(backend), QUIET, **options)  # type: ignore[arg-type]


def whole_s(graph: Graph) -> float:
    return sum(usual_seconds(node.kernel) for node in fuse(graph, ORT, "float32"))


def test_what_is_measured_is_what_the_runtime_takes_less() -> None:
    graph = late_norms()
    found = checked(graph, SimulatedBackend(ORT))
    assert found.measured_s == pytest.approx(whole_s(graph))
    measured = {each.advice.rule: each for each in found.advice if each.gain_s is not None}
    assert {"resolution", "activation before norm"} <= set(measured)
    for each in measured.values():
        assert each.gain_s == pytest.approx(whole_s(graph) - whole_s(each.advice.edited))
        assert each.share == pytest.approx(1.0 - whole_s(each.advice.edited) / whole_s(graph))
        assert each.share_std == pytest.approx(0.0, abs=1e-9)


def test_a_busy_machine_widens_the_deviation_and_keeps_the_gain() -> None:
    graph = late_norms()
    rng = np.random.default_rng(0)
    busy = SimulatedBackend(ORT, lambda kernel: usual_seconds(kernel) * (1.0 + 0.1 * rng.exponential()))
    (each,) = checked(graph, busy, rules=("activation before norm",)).advice
    assert each.share is not None
    assert each.share_std is not None
    truth = 1.0 - whole_s(each.advice.edited) / whole_s(graph)
    assert 0.0 < each.share_std < 0.02
    assert abs(each.share - truth) < 4.0 * each.share_std


def test_a_machine_that_slows_down_for_a_while_changes_nothing() -> None:
    graph, backend = late_norms(), SimulatedBackend(ORT)
    speeds = itertools.count()
    drifting = SimulatedClock(backend, lambda: 1.0 + next(speeds) // 200 % 2)  # twice as slow for many rounds
    (each,) = checked(graph, backend, drifting, rules=("activation before norm",)).advice
    assert each.share == pytest.approx(1.0 - whole_s(each.advice.edited) / whole_s(graph), rel=1e-6)


def test_edits_that_cannot_be_run_say_why() -> None:
    found = checked(late_norms(), SimulatedBackend(ORT))
    reasons = {each.advice.rule: each.reason for each in found.advice if each.share is None}
    assert reasons == {"int8": "other precisions than float32"}

    class Refusing(SimulatedBackend):
        def network(self, graph: Graph) -> object:  # type: ignore[override]
            if graph != late_norms():
                raise NoKernelError("not today")
            return super().network(graph)

    found = checked(late_norms(), Refusing(ORT))
    assert {each.reason for each in found.advice} == {"not today", "other precisions than float32"}
    assert all(each.distance is None for each in found.advice)


def test_the_report_has_both_and_the_file_a_line_each(tmp_path: Path) -> None:
    found = checked(late_norms(), SimulatedBackend(ORT))
    text = report("mine", found)
    assert text.startswith("mine on made_up, onnxruntime, float32: predicted ")
    assert text.count("\n  predicted") == len(found.advice)
    assert text.count("\n  measured") + text.count("\n  not measured") == len(found.advice)
    path = tmp_path / "advice.csv"
    write(path, "mine", found)
    write(path, "again", found)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == ["mine"] * len(found.advice) + ["again"] * len(found.advice)
    assert float(rows[0]["predicted_gain_s"]) == found.advice[0].advice.gain_s
    assert report("quiet", checked(plain(), SimulatedBackend(ORT), rules=("windows",))).endswith("no advice")


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_graphs(tmp_path / "nets.graphs.jsonl", {"plain": plain()})
    network = str(tmp_path / "nets.graphs.jsonl")
    for arguments, message in (
        ([network, "--rules", "luck"], "unknown rule 'luck'"),
        ([network, "--rounds", "0"], "--rounds must be at least 1"),
        ([str(tmp_path / "missing.onnx"), "--hw", "cpu_x86"], "there is no file"),
        ([network, "--hw", "cpu_x86", "--dtype", "float16", "--runtime", "onnxruntime"], "no peak for dtype 'float16'"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
