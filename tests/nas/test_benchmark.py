"""The benchmark of samplers: curves and statistics by hand, a made-up table of NAS-Bench-201, runs that go on."""

import csv
import gzip
import json
import warnings
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from rich.console import Console

from nas.benchmark import nasbench201, ofa
from nas.benchmark.__main__ import main
from nas.benchmark.curves import evaluations_until, relative, shares_of_boxes, steps_of, value_after
from nas.benchmark.processes import run_all
from nas.benchmark.results import Run, append_run, is_done, read_runs
from nas.benchmark.searching import Clock, make_sampler
from nas.benchmark.statistics import mean_of, smaller_p_value, until_of
from nas.benchmark.summary import Asked, after_sentence, best_of, table_of, until_sentence
from nas.benchmark.workers import TakesTime, rate_of
from nas.pareto import hypervolume, pareto_front
from predictors.device import Device
from predictors.graph import Graph
from predictors.nasbench201 import NB201_OPERATIONS, nb201_text
from predictors.paths import shipped
from search_spaces import load_space

REFERENCE = (4.0, 4.0)
DATA = Path("../shared/data")


def a_run(sampler: str, seed: int, **changed: object) -> Run:
    """Twenty evaluations: 0.4 after the second, 0.8 after the tenth, of a best of 0.8."""
    usual = Run(
        task="toy", sampler=sampler, seed=seed, budget=20, num_evaluations=20, reference_points={"near": REFERENCE},
        steps={"near": ((2, 0.4), (10, 0.8))}, best={"near": 0.8}, front=((1.0, 2.0),), search_s=2.0, sampler_s=0.5,
        note={},
    )  # fmt: skip
    return replace(usual, **changed)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ curves


def test_steps_are_the_hypervolumes_that_a_hand_counts() -> None:
    # below (4, 4): (3, 3) fills 1 of 16; (1, 3) holds it, 3 of 16; (3, 3) again adds nothing; (3, 1) adds 3 - 1 = 2
    losses_ND = np.array([[3.0, 3.0], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0]])
    assert steps_of(losses_ND, REFERENCE) == ((1, 1 / 16), (2, 3 / 16), (4, 5 / 16))


def test_points_beyond_the_reference_point_are_no_step() -> None:
    assert steps_of(np.array([[5.0, 1.0], [4.0, 1.0]]), REFERENCE) == ()
    assert shares_of_boxes(np.array([[5.0, 1.0]]), {"near": REFERENCE}) == {"near": 0.0}


def test_evaluations_until_a_goal_are_those_of_the_first_step_that_reaches_it() -> None:
    steps = ((2, 0.4), (10, 0.8))
    assert evaluations_until(steps, 0.4) == 2
    assert evaluations_until(steps, 0.41) == 10
    assert evaluations_until(steps, 0.81) is None
    assert evaluations_until(relative(steps, 0.8), 1.0) == 10


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12), st.integers(0, 14))
def test_a_curve_is_the_hypervolume_of_what_came_before(points: list[tuple[int, int]], num: int) -> None:
    losses_ND = np.array(points, dtype=float)
    reference = np.array([7.0, 6.0])
    expected = hypervolume(losses_ND[:num], reference) / 42 if num else 0.0
    assert value_after(steps_of(losses_ND, reference), num) == pytest.approx(expected)


# -------------------------------------------------------------------------------------------------------- statistics


def test_the_interval_is_students() -> None:
    # deviation of 1, 2, 3 is 1; t(0.975, 2) = 4.302653; divided by sqrt(3)
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.value, mean.count) == (2.0, 3)
    assert mean.half_width == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert np.isnan(mean_of([7.0]).half_width)


def test_seeds_that_did_not_get_there_count_with_what_they_had_and_are_told() -> None:
    until = until_of([10, None, 30], [100, 100, 100])
    assert (until.mean.value, until.median, until.num_reached, until.censored) == (140 / 3, 30.0, 2, True)
    assert until_of([None, None, 30], [100, 100, 100]).median is None
    assert not until_of([10, 20], [100, 100]).censored


def test_ranks_of_three_against_three_have_the_probability_of_counting() -> None:
    # of the 20 ways to place three of six ranks, one is as good as the three lowest
    assert smaller_p_value([1, 2, 3], [4, 5, float("inf")]) == pytest.approx(1 / 20)
    assert smaller_p_value([4, 5, float("inf")], [1, 2, 3]) == pytest.approx(1.0)


# ------------------------------------------------------------------------------------------------------ results file


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    runs = [a_run("random", 0), a_run("random", 1, best=None, note={"kendall": 0.9})]
    for run in runs:
        append_run(path, run)
    assert read_runs(path) == runs
    assert read_runs(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_is_dropped_and_then_written_over(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for seed in range(2):
        append_run(path, a_run("random", seed))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="torn"):
        assert [run.seed for run in read_runs(path)] == [0]
    append_run(path, a_run("random", 1))
    assert [run.seed for run in read_runs(path)] == [0, 1]


@pytest.mark.parametrize(
    ("line", "said"), [("{}", "'format'"), ('{"format": 2}', "format 2"), ("nonsense", "Expecting value"), ("[]", "")]
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "results.jsonl"
    append_run(path, a_run("random", 0))
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=rf"results\.jsonl:2: no line of a benchmark: .*{said}"):
        read_runs(path)


def test_a_search_is_done_with_its_budget_or_more_and_the_larger_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for budget in (10, 30, 20):
        append_run(path, a_run("random", 0, budget=budget))
    runs = read_runs(path)
    assert [run.budget for run in runs] == [30]
    assert is_done(runs, "toy", "random", 0, 30)
    for other in (
        ("toy", "random", 0, 31),
        ("toy", "random", 1, 30),
        ("toy", "tpe", 0, 30),
        ("other", "random", 0, 30),
    ):
        assert not is_done(runs, *other)


# ------------------------------------------------------------------------------------------------------------ tables


def printed(thing: object) -> str:
    console = Console(width=200, file=None, record=True, quiet=False)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def test_the_table_says_which_seeds_did_not_get_there() -> None:
    runs = [a_run("random", 0), a_run("random", 1, steps={"near": ((2, 0.4),)})]
    row = next(
        line
        for line in printed(
            table_of(runs, "toy", Asked(checkpoints=(5, 20, 50), goals=(0.5, 0.99)), {"near": 0.8})
        ).splitlines()
        if "random" in line
    )
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[1] == "2"
    assert cells[2].startswith("50.00 ± 0.00")
    assert cells[3].startswith("75.00")  # 100 and 50
    assert cells[4] == ""  # nobody evaluated 50
    assert cells[5].startswith("2 ±")
    assert cells[6].startswith("> 15") and cells[6].endswith("(1/2)")  # 10, and 20 that were not enough  # noqa: PT018


def test_how_many_times_fewer_evaluations_are_needed_is_a_bound_where_seeds_did_not_get_there() -> None:
    ours = [a_run("predictor", seed, steps={"near": ((2, 0.8),)}) for seed in range(4)]
    theirs = [a_run("nsga2", seed) for seed in range(4)]
    said = until_sentence([*ours, *theirs], "toy", 0.99, {"near": 0.8}, "near", "predictor", "nsga2")
    assert said is not None
    assert "nsga2 needs 5.0 times as many evaluations as predictor" in said  # 10 / 2
    theirs[0] = a_run("nsga2", 0, steps={"near": ((2, 0.4),)})
    said = until_sentence([*ours, *theirs], "toy", 0.99, {"near": 0.8}, "near", "predictor", "nsga2")
    assert said is not None
    assert "needs at least 6.2 times" in said  # (20 + 3 * 10) / 4 / 2 = 6.25
    assert until_sentence(theirs, "toy", 0.99, {"near": 0.8}, "near", "predictor", "nsga2") is None


def test_ours_after_few_beside_theirs_after_many() -> None:
    ours = [a_run("predictor", seed, steps={"near": ((2, 0.8),)}) for seed in range(3)]
    theirs = [a_run("nsga2", seed) for seed in range(3)]
    said = after_sentence([*ours, *theirs], "toy", {"near": 0.8}, "near", ("predictor", 5), ("nsga2", 9))
    assert said is not None
    assert "predictor after 5 is at 100.00" in said
    assert "nsga2 after 9 at 50.00" in said
    assert after_sentence([*ours, *theirs], "toy", {"near": 0.8}, "near", ("predictor", 5), ("nsga2", 21)) is None


def test_without_a_known_front_the_best_is_that_of_all_runs_together() -> None:
    # (1, 3) fills 3, (3, 1) adds 2; of 16
    runs = [a_run("a", 0, best=None, front=((1.0, 3.0),)), a_run("b", 0, best=None, front=((3.0, 1.0), (3.5, 3.5)))]
    assert best_of(runs) == {"near": 5 / 16}
    assert best_of([a_run("a", 0)]) == {"near": 0.8}


# ---------------------------------------------------------------------------------------------------------- samplers


@pytest.mark.parametrize("name", sorted({*nasbench201.BUDGETS, *ofa.BUDGETS}))
def test_every_sampler_of_the_benchmarks_is_made_as_it_ships(name: str) -> None:
    task, _ = ofa.read_task("mobile_gpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some of them experimental
        first, second = (make_sampler(name, task)(seed=0) for _ in range(2))
    assert first is not second


def test_a_sampler_that_is_none_is_named() -> None:
    task, _ = ofa.read_task("mobile_gpu")
    with pytest.raises(ValueError, match=r"unknown sampler 'nsga4'; there are .*'nsga2_50'"):
        make_sampler("nsga4", task)


def test_the_clock_counts_the_outermost_method_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("nas.benchmark.searching.time.perf_counter", lambda: float(next(now)))

    class Nested(RandomSampler):
        def before_trial(self, *arguments: object) -> None:
            self.reseed_rng()
            self.infer_relative_search_space(None, None)  # type: ignore[arg-type]

    clock = Clock()
    sampler = clock.timed(Nested)(seed=0)  # ticks 0 and 1
    assert isinstance(sampler, Nested)
    assert clock.seconds == 1.0
    sampler.before_trial(None, None)  # type: ignore[arg-type]  # outer at tick 2, inner at 3, outer again at 4
    assert clock.seconds == 1.0 + 2.0


# ----------------------------------------------------------------------------------------------- a small NAS-Bench-201


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the data: made-up accuracies and latencies of all archs, on two made-up devices.

    More work is more accurate and takes longer; a digest of the arch makes it less regular.
    """
    folder = tmp_path_factory.mktemp("data")
    work = dict(zip(NB201_OPERATIONS, (0.0, 1.0, 2.0, 8.0, 4.0)))
    accuracies, latencies = [], []
    for operations in product(NB201_OPERATIONS, repeat=6):
        text, amount = nb201_text(operations), sum(work[each] for each in operations)
        noise = (hash_of(text) % 1000) / 1000
        accuracies.append([text, f"{20.0 + amount + 4.0 * noise:.3f}"])
        latencies.append([text, f"{1.0 + amount + noise:.3f}", f"{5.0 + amount:.3f}"])
    for file, header, rows in (
        (nasbench201.ACCURACIES, ["arch_str", nasbench201.COLUMN], accuracies),
        (
            nasbench201.LATENCIES,
            ["idx", "arch_str", "raspi4", "titan_rtx_32"],
            [[str(i), *row] for i, row in enumerate(latencies)],
        ),
    ):
        (folder / file).parent.mkdir(parents=True)
        with gzip.open(folder / file, "wt", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([header, *rows])
    return folder


def hash_of(text: str) -> int:
    """The same in every process, unlike `hash`."""
    return sum((place + 1) * byte for place, byte in enumerate(text.encode()))


def test_a_benchmark_on_tflite_searches_networks_and_one_on_pytorch_every_arch(table: Path) -> None:
    converted, eager = (nasbench201.read_benchmark(table, device) for device in ("raspi4", "titan_rtx_32"))
    assert len(eager.archs) == 15_625
    assert len(converted.archs) < 15_625
    assert {*map(str, converted.archs)} < {*map(str, eager.archs)}
    assert all(converted.space.canonical(arch) == arch for arch in converted.archs[::100])
    assert [each.deployed_space.batch for each in (converted, eager)] == [1, 32]  # type: ignore[attr-defined]


def test_reference_points_come_of_the_true_front(table: Path) -> None:
    found = nasbench201.read_benchmark(table, "titan_rtx_32")
    front = found.losses_ND[pareto_front(found.losses_ND)]
    assert found.reference_points["nadir"] == pytest.approx(tuple(1.1 * front.max(axis=0)))
    assert found.reference_points["far"] == pytest.approx((1.0, 1.1 * found.losses_ND[:, 1].max()))
    assert found.reference_points["useful"][0] <= 0.55
    assert found.best["far"] == pytest.approx(
        hypervolume(front, np.array(found.reference_points["far"])) / np.prod(found.reference_points["far"])
    )


def test_a_seed_draws_ten_archs_and_the_device_is_calibrated_with_what_was_measured_of_them(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = nasbench201.read_benchmark(table, "raspi4")
    given: list[list[tuple[Graph, float]]] = []

    def noted(device: Device, measured: list[tuple[Graph, float]], **others: object) -> Device:
        given.append(measured)
        assert others == {"dtype": "float32", "tables": ()}
        return device

    monkeypatch.setattr(nasbench201, "calibrate", noted)
    for seed in (0, 0, 1):
        task = nasbench201.task_of(found, seed)
        assert task.predictor.device.runtime == "litert"
    times = [[latency_s for _, latency_s in measured] for measured in given]
    assert times[0] == times[1] != times[2]
    assert [len(each) for each in times] == [10, 10, 10]
    places = np.random.default_rng(0).permutation(len(found.archs))[:10]
    assert [graph.macs for graph, _ in given[0]] == [found.deployed_space.graph(found.archs[i]).macs for i in places]
    assert times[0] == pytest.approx(found.losses_ND[places, 1])


def test_layers_are_the_front_and_the_front_of_the_rest() -> None:
    losses_ND = np.array([[1.0, 4.0], [2.0, 5.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    assert [layer.tolist() for layer in nasbench201.layers_of(losses_ND)] == [[0, 2], [1, 3], [4]]


def test_a_run_is_judged_by_measured_latency(table: Path) -> None:
    found = nasbench201.read_benchmark(table, "raspi4")
    order = [3, 1, 4]
    run = nasbench201.run_of(found, "random", 0, 3, order, 1.0, 0.5, {})
    assert run.num_evaluations == 3
    point = found.reference_points["far"]
    volume = hypervolume(found.losses_ND[order], np.array(point)) / np.prod(point)
    assert value_after(run.steps["far"], 3) == pytest.approx(volume)


def test_the_command_skips_what_is_done_and_prints_from_the_file(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work is done here instead of in other processes, so that what is asked of them can be seen."""
    asked: list[list[str]] = []

    def here(work: list[partial[int]], num_processes: int) -> None:
        for each in work:
            asked.append([*each.args[-2]])
            each()

    monkeypatch.setattr("nas.benchmark.__main__.run_all", here)
    monkeypatch.setattr(nasbench201, "calibrate", lambda device, measured, **others: device)
    results = tmp_path / "results.jsonl"
    command = [
        "nasbench201", "--data", str(table), "--devices", "raspi4", "--seeds", "2", "--max-evaluations", "25",
        "--results", str(results), "--samplers",
    ]  # fmt: skip
    assert main([*command, "random"]) == 0
    assert asked == [["random"], ["random"]]
    lines = results.read_text().splitlines(keepends=True)
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
    results.write_text(lines[0])  # killed before the second
    assert main([*command, "random", "nsga2"]) == 0
    assert asked[2:] == [["nsga2"], ["random", "nsga2"]]
    capsys.readouterr()
    assert main([*command, "random", "nsga2"]) == 0
    assert len(asked) == 4
    output = capsys.readouterr().out
    assert "nsga2" in output
    assert "nadir" in output
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    again = {(run.sampler, run.seed): run for run in read_runs(results)}
    assert again["random", 1].steps == json_steps(lines[1])


def json_steps(line: str) -> dict[str, tuple[tuple[int, float], ...]]:
    return {name: tuple(map(tuple, steps)) for name, steps in json.loads(line)["steps"].items()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nasbench201", "--data", "nowhere"], "nowhere/nasbench201_acc/.* is not there; --data FOLDER"),
        (["nasbench201", "--samplers", "best"], "unknown sampler 'best'; this benchmark has"),
        (["ofa", "--samplers", "tpe=many"], "--samplers tpe=many: 'many' is no number of evaluations"),
        (["ofa", "--device", "no_such_device"], "no_such_device"),
        (["ofa", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (["ofa", "--max-evaluations", "0"], "--max-evaluations must be at least 1, found 0"),
        (["speed", "--trials", "0"], "--trials must be at least 1"),
        (["workers", "--workers", "0"], "must be at least 1"),
        (["workers", "--trials", "19"], "--trials 20"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    import re

    assert re.search(said, error)


def test_a_device_that_the_table_lacks_is_named(table: Path) -> None:
    with pytest.raises(ValueError, match=r"has no device 'abacus'; there are \['raspi4', 'titan_rtx_32'\]"):
        nasbench201.check(table, ["raspi4", "abacus"])


# ------------------------------------------------------------------------------------------------------ OFA and others


def test_a_search_of_ofa_stands_below_its_exact_front(tmp_path: Path) -> None:
    path = tmp_path / "ofa.jsonl"
    assert ofa.run_seed("mobile_gpu", 0, {"random": 30}, path) == 1
    (run,) = read_runs(path)
    assert run.best is not None
    for point, best in run.best.items():
        share = value_after(run.steps[point], 30) / best
        assert 0.3 < share < 1.0
    assert run.reference_points["near"][0] < run.reference_points["far"][0] == 1.0
    assert 0.0 < run.sampler_s < run.search_s


def test_processes_do_all_the_work(tmp_path: Path) -> None:
    run_all([partial(Path.mkdir, tmp_path / name) for name in "abc"], 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_error_of_a_process_ends_all(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        run_all([partial(Path.mkdir, tmp_path)], 1)


@pytest.mark.parametrize("computes", [False, True])
def test_an_accuracy_takes_the_time_that_it_says(computes: bool) -> None:
    import time

    begin_s = time.perf_counter()
    assert TakesTime(accuracy=lambda arch: 0.5, seconds=0.02, computes=computes)({}) == 0.5
    assert time.perf_counter() - begin_s >= 0.02


def test_the_first_quarter_of_trials_is_not_timed() -> None:
    assert rate_of([0.0, 100.0, 101.0, 102.0, 104.0]) == 3 / 4  # of 100 to 104


@pytest.mark.skipif(not (DATA / nasbench201.LATENCIES).is_file(), reason="measurements are not in ../shared/data")
def test_the_published_table_has_the_front_that_is_known() -> None:
    """All 15,625 archs with PyTorch; the best accuracy of CIFAR-100 in the benchmark is 73.51 %."""
    found = nasbench201.read_benchmark(DATA, "titan_rtx_256")
    assert len(found.archs) == 15_625
    assert found.losses_ND[:, 0].min() == pytest.approx(1 - 0.7351, abs=5e-5)


def test_spaces_of_the_benchmark_are_the_shipped_ones(table: Path) -> None:
    assert nasbench201.read_benchmark(table, "raspi4").space == load_space("nasbench201", num_classes=100)


def test_the_page_tells_of_every_sampler_that_ships() -> None:
    text = Path("docs/samplers.md").read_text(encoding="utf-8")
    for path in shipped("sampler").glob("*.yaml"):
        assert f"| `{path.stem}`" in text, path.stem
