import csv
import io
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console
from simulated import network

from predictors import LatencyPredictor, load_device, validate
from predictors.graph_file import write_graphs
from predictors.validate import SOURCES, TASKS, Task, main, table_of
from predictors.validation.comparison import MACS_BASELINE, OURS, ROOFLINE_BASELINE, Comparison, median_scores

DATA = Path(__file__).parents[3] / "shared" / "data"


def comparison(name: str, error: float = 0.04, count: int = 50) -> Comparison:
    rng = np.random.default_rng(len(name))
    measured_s_N = np.exp(rng.uniform(np.log(1e-3), np.log(0.1), count))
    sign_N = rng.choice([-1.0, 1.0], count)
    return Comparison(
        name=name,
        measured_s_N=measured_s_N,
        predicted_s_N={
            OURS: measured_s_N * (1.0 + error * sign_N),
            MACS_BASELINE: measured_s_N * (1.0 + 0.3 * sign_N),
            ROOFLINE_BASELINE: 0.5 * measured_s_N,
        },
        std_s_N=0.05 * measured_s_N,
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A task of three comparisons that needs one file."""
    module = ModuleType("predictors.validation.fake")
    module.TITLE, module.GOAL = "Made-up things", "mean error at most 5 %"  # type: ignore[attr-defined]
    module.FILES = ("neusight_ops/some.csv",)  # type: ignore[attr-defined]
    module.compare = lambda data: [comparison(name) for name in ("a", "bb", "ccc")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "predictors.validation.fake", module)
    monkeypatch.setattr(validate, "TASKS", ("fake",))
    (tmp_path / "neusight_ops").mkdir()
    (tmp_path / "neusight_ops" / "some.csv").write_text("")
    return module


def printed(task: Task, *, everything: bool = False) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table_of(task, everything=everything))
    return console.export_text()


def test_a_task_prints_a_row_for_each_comparison_and_model(
    fake: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "fake: Made-up things" in output
    assert "goal: mean error at most 5 %" in output
    assert output.count("proportional to MACs") == output.count("bare roofline") == 3
    row = next(line for line in output.splitlines() if OURS in line)
    # 4 % off each: all within 5 %, one deviation (5 %) and two.
    assert re.search(r"50 .*4\.0% .*4\.0% .*100\.0% .*100\.0% .*0\.99\d .*100% .*100%", row)
    macs = next(line for line in output.splitlines() if MACS_BASELINE in line)
    assert re.search(r"30\.0% .*30\.0% .*0\.0% .*0\.0%", macs)


def test_many_comparisons_become_a_summary_and_the_worst() -> None:
    comparisons = [comparison("x" * place, error=0.01 * place) for place in range(1, 21)]
    task = Task(name="many", title="many", goal="none", comparisons=comparisons)
    text = printed(task)
    assert "median of 20" in text
    summary = next(line for line in text.splitlines() if "median of 20" in line)
    expected = median_scores(each.scores()[OURS] for each in comparisons)
    assert f"{expected.mape:.1%}" in summary
    assert expected.mape == pytest.approx(0.105)
    assert "x" * 20 in text
    assert text.count(MACS_BASELINE) < 10
    assert printed(task, everything=True).count(MACS_BASELINE) == 21


def test_comparisons_that_differ_in_how_they_were_made_are_summarised_apart() -> None:
    plain = [comparison("x" * place, error=0.01) for place in range(1, 11)]
    harder = [comparison("x" * place + "; harder", error=0.2) for place in range(1, 6)]
    text = printed(Task(name="two", title="two", goal="none", comparisons=[*plain, *harder]))
    rows = {name: next(line for line in text.splitlines() if name in line) for name in ("of 10 ", "of 5; harder")}
    assert "1.0%" in rows["of 10 "]
    assert "20.0%" in rows["of 5; harder"]


def test_a_mean_is_a_mean() -> None:
    comparisons = [comparison("x" * place, error=0.01 if place < 20 else 0.21) for place in range(1, 21)]
    task = Task(name="many", title="many", goal="none", comparisons=comparisons, summary="mean")
    summary = next(line for line in printed(task).splitlines() if "mean of 20" in line)
    assert "2.0%" in summary  # (19 * 1 % + 21 %) / 20


def test_draws_of_one_comparison_count_as_one_by_their_mean() -> None:
    """Errors of 1 to 20 % in 20 draws on a, of 2 % on b: a's mean is 10.5 %."""
    draws = [comparison(f"on a, draw {place}", error=0.01 * place) for place in range(1, 21)]
    task = Task(name="drawn", title="drawn", goal="none", comparisons=[*draws, comparison("on b", error=0.02)])
    text = printed(task)
    row = next(line for line in text.splitlines() if "on a, mean of 20 draws" in line)
    assert "10.5%" in row
    assert "1,000" in row  # 20 draws of 50
    assert "on b" in text
    assert text.count(MACS_BASELINE) == 2


def test_comparisons_of_one_name_that_are_no_draws_stay_apart() -> None:
    task = Task(name="t", title="t", goal="g", comparisons=[comparison("same", error=each) for each in (0.1, 0.2)])
    text = printed(task)
    assert "mean of" not in text
    assert text.count(MACS_BASELINE) == 2


def test_scores_and_pictures_are_written(fake: ModuleType, tmp_path: Path) -> None:
    arguments = ["fake", "--data", str(tmp_path), "--csv", str(tmp_path / "out" / "scores.csv")]
    assert main([*arguments, "--picture", str(tmp_path / "pictures")]) == 0
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert {row["task"] for row in rows} == {"fake"}
    assert all(float(row["mape"]) == pytest.approx(0.04) for row in rows if row["model"] == OURS)
    assert (tmp_path / "pictures" / "fake.png").read_bytes().startswith(b"\x89PNG")


def test_many_comparisons_are_drawn_too(fake: ModuleType, tmp_path: Path) -> None:
    fake.compare = lambda data: [comparison("x" * place) for place in range(1, 9)]  # type: ignore[attr-defined]
    assert main(["--data", str(tmp_path), "--picture", str(tmp_path)]) == 0
    assert (tmp_path / "fake.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_file_is_named_with_its_source(
    fake: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "neusight_ops" / "some.csv").unlink()
    assert main(["--data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "neusight_ops" / "some.csv") in error
    assert "github.com/sitar-lab/NeuSight (MIT)" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adreno", "nonesuch"], "unknown task 'nonesuch'; there are ['adreno', 'v100'"),
        (["--networks", "my.csv"], "--hw NAME says on which device"),
        (["adreno", "--networks", "my.csv", "--hw", "cpu_x86"], "stand for themselves"),
        (["--networks", "missing.csv", "--hw", "cpu_x86"], "missing.csv"),
        (["--measured", "missing.jsonl", "--hw", "cpu_x86"], "missing.jsonl"),
        (["--networks", "my.csv", "--hw", "nonesuch"], "unknown device 'nonesuch'"),
        (
            ["--networks", "my.csv", "--hw", "cpu_x86", "--prior", "ncnn_cpu"],
            "goes with --networks FILE and --calibrate N",
        ),
        (["ncnn", "--calibrate", "5", "--prior", "ncnn_cpu"], "goes with --networks FILE and --calibrate N"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("calibrate", [[], ["--calibrate", "6"]])
def test_a_users_own_networks_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], calibrate: list[str]
) -> None:
    """Times are our own predictions, 20 % slower: that is the error without calibration; most of it goes with it."""
    graphs = {f"{width}x{depth}": network(width, depth) for width in (16, 32, 48) for depth in (1, 3, 5, 7)}
    write_graphs(tmp_path / "mine.graphs.jsonl", graphs)
    predictor = LatencyPredictor(load_device("v100"))
    lines = [f"mine.graphs.jsonl#{name},{1.2e3 * predictor.predict(graphs[name]).latency_s!r}\n" for name in graphs]
    (tmp_path / "my.csv").write_text("network,milliseconds\n" + "".join(lines))
    output = tmp_path / "scores.csv"
    assert main(["--networks", str(tmp_path / "my.csv"), "--hw", "v100", "--csv", str(output), *calibrate]) == 0
    assert "12 networks on v100" in capsys.readouterr().out
    with output.open() as file:
        scores = {row["model"]: row for row in csv.DictReader(file)}
    assert int(scores[OURS]["count"]) == (6 if calibrate else 12)
    assert set(scores) == {OURS, MACS_BASELINE, ROOFLINE_BASELINE}
    if calibrate:
        assert float(scores[OURS]["mape"]) < 0.1
    else:
        assert float(scores[OURS]["mape"]) == pytest.approx(1 - 1 / 1.2, abs=1e-3)


def test_a_users_own_networks_are_compared_with_what_other_devices_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs = {f"{width}x{depth}": network(width, depth) for width in (16, 32, 48) for depth in (1, 3, 5, 7)}
    write_graphs(tmp_path / "mine.graphs.jsonl", graphs)
    predictor = LatencyPredictor(load_device("mobile_cpu"), runtime="ncnn")
    lines = [f"mine.graphs.jsonl#{name},{predictor.predict(graphs[name]).latency_s!r}\n" for name in graphs]
    (tmp_path / "my.csv").write_text("network,seconds\n" + "".join(lines))
    arguments = ["--networks", str(tmp_path / "my.csv"), "--hw", "mobile_cpu", "--runtime", "ncnn", "--calibrate", "5"]
    errors = []
    for prior in (["--prior", "ncnn_cpu"], []):
        assert main([*arguments, *prior, "--csv", str(tmp_path / "scores.csv")]) == 0
        with (tmp_path / "scores.csv").open() as file:
            errors += [float(row["mape"]) for row in csv.DictReader(file) if row["model"] == OURS]
    assert errors[0] < 0.25  # MACs 1.05
    assert errors[0] != errors[1]
    assert main([*arguments, "--prior", "ncnn"]) == 2
    assert "unknown prior 'ncnn'" in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_what_it_is_and_what_it_needs(name: str) -> None:
    module = import_module(f"predictors.validation.{name}")
    assert "\n" not in module.TITLE
    assert module.GOAL
    assert all(Path(file).parts[0] in SOURCES for file in module.FILES)
    assert getattr(module, "SUMMARY", "median") in ("median", "mean")
    if DATA.is_dir():
        assert all((DATA / file).exists() for file in module.FILES)
