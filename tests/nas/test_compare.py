import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_search import BOARD, SAMPLERS

import nas.compare.yardsticks
from nas.compare.comparing import OUTCOMES_FILE, UNKNOWN_FILE, compare_strategies
from nas.compare.outcomes import append_outcome, read_outcomes
from nas.compare.records import Comparison, Outcome, Strategy
from nas.compare.remembered import RememberedAccuracy
from nas.compare.searching import Searches, search_all
from nas.compare.strategies import strategies_from_names
from nas.compare.yardsticks import FromHere, FromTimes, MeasuredHere, Predicted, usual_yardstick
from nas.task import SearchTask
from nas.verify_times import NetworkSeconds
from predictors import LatencyPredictor, device_from_mapping, load_device
from search_spaces import load_space
from search_spaces.space import Arch, Space

NAMES = ("flops_only", "latency_only", "random")


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Away from the user's own folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture(scope="module")
def task() -> SearchTask:
    space = load_space("mobilenet_v3_tiny")
    return SearchTask(
        space=space,
        deployed_space=space,
        predictor=LatencyPredictor(device_from_mapping(BOARD)),
        objectives=("error", "latency_s"),
    )


class Deeper:
    """Deeper networks with larger kernels answer better; nothing else does."""

    def __init__(self, space: Space, stop_after: int = 1_000_000) -> None:
        self.space, self.stop_after, self.num_asked = space, stop_after, 0

    def __call__(self, arch: Mapping[str, int]) -> float:
        if self.num_asked == self.stop_after:
            raise KeyboardInterrupt
        self.num_asked += 1
        depth = sum(value for knob, value in arch.items() if knob.endswith("depth"))
        kernels = sum(value for knob, value in arch.items() if knob.endswith("kernel"))
        return 0.5 + 0.03 * depth + 0.002 * kernels


def searches(task: SearchTask, *, accuracy: Callable[[Arch], float] | None = None, **others: object) -> Searches:
    usual = {
        "task": task, "accuracy": accuracy or Deeper(task.space), "strategies": strategies_from_names(NAMES),
        "sampler": SAMPLERS["nsga2"], "sampler_name": "nsga2", "num_trials": 12, "seeds": (0, 1),
    }  # fmt: skip
    return Searches(**usual | others)  # type: ignore[arg-type]


def compare(task: SearchTask | Callable[[int], SearchTask], **others: object) -> Comparison:
    space = (task if isinstance(task, SearchTask) else task(0)).space
    usual = {
        "accuracy": Deeper(space), "strategies": strategies_from_names(NAMES), "sampler": SAMPLERS["nsga2"],
        "sampler_name": "nsga2", "num_trials": 12, "seeds": (0, 1), "folder": None, "title": "board", "sweep": False,
    }  # fmt: skip
    return compare_strategies(task, **usual | others)  # type: ignore[arg-type]


def same(found: Mapping[str, Sequence[Outcome]], other: Mapping[str, Sequence[Outcome]]) -> bool:
    """All but the seconds."""

    def plain(outcomes: Mapping[str, Sequence[Outcome]]) -> object:
        return {
            name: [(each.seed, each.indices_NK.tolist(), each.errors_N.tolist(), each.chosen) for each in some]
            for name, some in outcomes.items()
        }

    return plain(found) == plain(other)


def write_group(folder: Path, name: str, metrics: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"name: {name}\nmetrics: {metrics}\n")


# --------------------------------------------------------------------------------------------------------- strategies


def test_strategies_are_groups_of_objectives_the_users_own_among_them_and_drawing_at_random(workplace: Path) -> None:
    write_group(workplace / "objectives", "lean", "[error, peak_memory_bytes]")
    assert strategies_from_names(["flops_only", "lean", "random"]) == (
        Strategy(name="flops_only", objectives=("error", "macs")),
        Strategy(name="lean", objectives=("error", "peak_memory_bytes")),
        Strategy(name="random", objectives=("error", "latency_s"), is_random=True),
    )


def test_strategies_that_are_none_are_refused_with_those_that_there_are(workplace: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown 'flop_only'; nearest are \['flops_only'.*there are \['flops_only'"):
        strategies_from_names(["flop_only"])
    with pytest.raises(ValueError, match=r"'random' stands there 2 times"):
        strategies_from_names(["random", "flops_only", "random"])
    with pytest.raises(ValueError, match=r"there are none; known are \['flops_only'"):
        strategies_from_names([])
    write_group(workplace / "objectives", "cheap", "[macs, num_params]")
    with pytest.raises(
        ValueError, match=r"'cheap' looks at MACs and parameters alone; all are judged by error against"
    ):
        strategies_from_names(["cheap"])
    write_group(workplace / "objectives", "flops_only", "[error, latency_s]")
    with pytest.raises(ValueError, match=r"has the name of a shipped group; rename it"):
        strategies_from_names(["flops_only"])


# ------------------------------------------------------------------------------------------------------- what is kept


def test_finished_searches_are_read_as_they_were_written_and_a_torn_line_is_dropped(workplace: Path) -> None:
    path = workplace / "new" / OUTCOMES_FILE
    outcome = Outcome(
        strategy="flops_only", seed=3, indices_NK=np.array([[0, 1], [2, 0]]), errors_N=np.array([0.25, 1 / 3]),
        chosen=(1,), seconds=1.5,
    )  # fmt: skip
    assert read_outcomes(path) == {}
    append_outcome(path, outcome, "one")
    with path.open("a") as file:
        file.write('{"format": 1, "asked": "two", "str')
    with pytest.warns(UserWarning, match=r"torn"):
        assert [*read_outcomes(path)] == ["one"]
    append_outcome(path, replace(outcome, seed=4), "two")
    found = read_outcomes(path)
    assert same({"a": [found["one"]], "b": [found["two"]]}, {"a": [outcome], "b": [replace(outcome, seed=4)]})
    path.write_text('{"format": 2}\n')
    with pytest.raises(ValueError, match=r"outcomes.jsonl:1: key 'asked' is missing"):
        read_outcomes(path)


def test_an_accuracy_is_asked_once_for_each_network_by_all_who_share_its_file(
    workplace: Path, task: SearchTask
) -> None:
    path, space = workplace / "accuracies.jsonl", task.space
    one, other = Deeper(space), Deeper(space)
    remembered = RememberedAccuracy(one, space, path)
    beside = RememberedAccuracy(other, space, path)
    shallow = space.smallest()
    same_network = shallow | {"stage1_block3_kernel": 7}  # of a block beyond the depth
    assert remembered(shallow) == remembered(same_network) == beside(shallow) == Deeper(space)(shallow)
    assert (one.num_asked, other.num_asked) == (1, 0)
    with path.open("a") as file:
        file.write('{"arch": {"st')
    again = RememberedAccuracy(other, space, path)
    assert again(space.largest()) == remembered(space.largest()) == Deeper(space)(space.largest())
    assert (one.num_asked, other.num_asked) == (1, 1)
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(ValueError, match=r"accuracies.jsonl:1: no accuracy of a network of space 'nasbench201'"):
        RememberedAccuracy(one, load_space("nasbench201"), path)


def test_of_two_answers_the_first_that_was_written_counts_for_both(workplace: Path, task: SearchTask) -> None:
    path, arch = workplace / "accuracies.jsonl", task.space.smallest()
    slow = RememberedAccuracy(
        lambda arch: RememberedAccuracy(lambda _: 0.25, task.space, path)(arch) + 0.5, task.space, path
    )
    assert slow(arch) == 0.25


# ------------------------------------------------------------------------------------------------------------ searching


def test_all_strategies_search_with_the_same_seeds_and_number_of_evaluations(task: SearchTask) -> None:
    found = search_all(searches(task))
    assert [*found] == list(NAMES)
    assert all([each.seed for each in some] == [0, 1] for some in found.values())
    assert {each.indices_NK.shape for some in found.values() for each in some} == {(12, len(task.space.choices))}
    accuracy = Deeper(task.space)
    for name, some in found.items():
        cost = "macs" if name == "flops_only" else "latency_s"
        for each in some:
            archs = task.space.decode(each.indices_NK)
            points = [(1.0 - accuracy(arch), task.costs(arch)[cost]) for arch in archs]
            assert each.errors_N.tolist() == [error for error, _ in points]
            best = [
                place for place, (error, value) in enumerate(points)
                if not any(e <= error and v <= value and (e, v) != (error, value) for e, v in points)
            ]  # fmt: skip
            assert sorted(each.chosen) == best


def test_searches_that_were_interrupted_go_on_and_find_the_same(workplace: Path, task: SearchTask) -> None:
    path = workplace / OUTCOMES_FILE
    whole = search_all(searches(task))
    with pytest.raises(KeyboardInterrupt):  # 2 are asked to tell accuracies apart; in the midst of the third search
        search_all(searches(task, accuracy=Deeper(task.space, stop_after=2 + 2 * 12 + 5)), path=path)
    assert len(read_outcomes(path)) == 2
    with path.open("a") as file:
        file.write('{"format": 1, "as')
    rest = Deeper(task.space)
    with pytest.warns(UserWarning, match=r"torn"):
        assert same(search_all(searches(task, accuracy=rest), path=path), whole)
    assert rest.num_asked == 2 + 4 * 12


def test_more_seeds_or_strategies_go_on_from_there_and_another_question_does_not(
    workplace: Path, task: SearchTask
) -> None:
    path = workplace / OUTCOMES_FILE

    def num_searched(**others: object) -> float:
        accuracy = Deeper(task.space)
        usual = {"task": task, "accuracy": accuracy, "strategies": strategies_from_names(NAMES[:2])}
        search_all(searches(**usual | others), path=path)  # type: ignore[arg-type]
        return (accuracy.num_asked - 2) / 12

    assert num_searched() == 4
    assert num_searched() == 0
    assert num_searched(seeds=(0, 1, 5)) == 2
    assert num_searched(strategies=strategies_from_names(NAMES)) == 2
    assert num_searched(num_trials=24) == 8
    assert num_searched(sampler=SAMPLERS["tpe"]) == 4
    other = replace(task, constraints={"macs": 1.01 * task.costs(task.space.largest())["macs"]})
    assert num_searched(task=other) == 4


def test_one_group_under_two_names_is_searched_once_and_counts_for_both(task: SearchTask) -> None:
    accuracy, first = Deeper(task.space), strategies_from_names(NAMES[:1])[0]
    found = search_all(searches(task, accuracy=accuracy, strategies=(first, replace(first, name="mine"))))
    assert accuracy.num_asked == 2 + 2 * 12
    assert {name: {each.strategy for each in some} for name, some in found.items()} == {
        "flops_only": {"flops_only"},
        "mine": {"mine"},
    }


def test_processes_find_what_one_finds_and_a_users_mistake_in_them_is_one_sentence(
    workplace: Path, task: SearchTask
) -> None:
    path = workplace / OUTCOMES_FILE

    def right(arch: Mapping[str, int]) -> float:
        return 0.5 + 0.0004 * sum(arch.values())

    whole = search_all(searches(task, seeds=(0,), accuracy=right))
    last = task.space.decode(whole["random"][0].indices_NK)[-1]
    assert all(last not in task.space.decode(whole[name][0].indices_NK) for name in NAMES[:2])

    def in_percent(arch: Mapping[str, int]) -> float:
        return 100.0 if arch == last else right(arch)

    with pytest.raises(ValueError, match=r"accuracy must be in .*found 100.0 .*is it in percent\?"):
        search_all(searches(task, seeds=(0,), accuracy=in_percent), path=path, jobs=2)
    kept = read_outcomes(path)
    assert {each.strategy for each in kept.values()} <= {*NAMES[:2]}
    assert kept
    assert same(search_all(searches(task, seeds=(0,), accuracy=right), path=path), whole)


# ----------------------------------------------------------------------------------------------------------- yardsticks


def write_table(path: Path, space: Space, archs: Sequence[Arch], times: Sequence[object], column: str = "ms") -> None:
    lines = [",".join([*space.choices, column])]
    lines += [",".join(map(str, (*(arch[knob] for knob in space.choices), time))) for arch, time in zip(archs, times)]
    path.write_text("\n".join(lines) + "\n")


def test_a_table_says_seconds_of_the_networks_that_it_has(workplace: Path, task: SearchTask) -> None:
    space, path = task.space, workplace / "times.csv"
    ends = [space.smallest(), space.largest()]
    other = space.sample(np.random.default_rng(1))
    write_table(path, space, [*ends, other], [3, 12.5, ""])
    yardstick = FromTimes(path=str(path), column="ms", archs="knobs").load(task, "board", workplace)
    assert yardstick.latency_s(ends).tolist() == [0.003, 0.0125]
    assert np.isnan(yardstick.latency_s([other])).all()
    assert yardstick.is_measured
    assert yardstick.text == "latency measured on board (column 'ms' of times.csv)"


def test_a_table_that_cannot_judge_is_refused(workplace: Path, task: SearchTask) -> None:
    space, path = task.space, workplace / "times.csv"
    ends = [space.smallest(), space.largest()]
    predicted_s = Predicted(task=task, title="board").latency_s(ends)

    def refused(match: str, times: Sequence[object], **fields: str) -> None:
        write_table(path, space, ends, times)
        with pytest.raises(ValueError, match=match):
            FromTimes(**{"path": str(path), "column": "ms", "archs": "knobs"} | fields).load(task, "board", workplace)

    refused("needs the file of the latencies: yardstick.path=", [1, 2], path=None)  # type: ignore[arg-type]
    refused("yardstick.path: nowhere.csv cannot be read", [1, 2], path="nowhere.csv")
    refused(r"column 'mms' \(yardstick.column\) is missing", [1, 2], column="mms")
    refused(r"yardstick.unit: 'ms' is none of \['seconds'", [1, 2], unit="ms")
    refused(
        "yardstick.archs=strings are NAS-Bench-201's, space 'mobilenet_v3_tiny' is another", [1, 2], archs="strings"
    )
    refused(r"times.csv:2: ms: a time is positive and finite, found -1", [-1, 2])
    refused("column 'ms' has no times", ["", ""])
    refused(
        r"networks took 1e\+03 times what is predicted for board; are their times in milliseconds", 1e6 * predicted_s
    )


def test_this_machine_measures_what_was_chosen_and_nothing_else(
    workplace: Path, task: SearchTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure_graphs(folder: Path, predictor: object, graphs: Mapping[str, object], measuring: object) -> object:
        measured.append(len(graphs))
        return {name: NetworkSeconds(seconds=1.0 + int(name[-6:], 16)) for name in graphs}, ["the machine was busy"]

    monkeypatch.setattr(nas.compare.yardsticks, "measure_graphs", measure_graphs)
    yardstick = FromHere(runtime="onnxruntime", is_device=True).load(task, "board", workplace)
    found = compare(task, yardstick=yardstick)
    chosen = {str(arch) for some in found.chosen.values() for each in some for arch in each.archs}
    assert measured == [len(chosen)]
    assert found.is_measured
    assert (
        found.yardstick_text == "latency measured on board (onnxruntime, float32, this machine; the machine was busy)"
    )
    assert all(each.num_unknown == 0 for some in found.chosen.values() for each in some)
    assert all(each.evaluated_hypervolume is None for each in found.standings.values()), "most were not measured"
    assert np.isnan(yardstick.latency_s([task.space.sample(np.random.default_rng(9))])).all()


def test_networks_are_measured_by_default_where_this_machine_is_the_device(
    workplace: Path, task: SearchTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = usual_yardstick(task, "board", workplace)
    assert not away.is_measured
    assert away.text == "latency predicted for board (neither the device nor a table of measurements is at hand)"
    with pytest.raises(
        ValueError, match=r"yardstick=here: .*'litert' of device 'board'|yardstick=here: device 'board'"
    ):
        FromHere().load(task, "board", workplace)
    with pytest.raises(ValueError, match=r"yardstick.threads must be at least 1, found 0"):
        FromHere(threads=0).load(task, "board", workplace)
    here = replace(task, predictor=LatencyPredictor(load_device("cpu_x86"), runtime="onnxruntime"))
    source = here.predictor.device.reference
    assert source is not None
    processor = source.source.split(", ")[1]
    monkeypatch.setattr("nas.verify_times.processor_name", lambda: processor)
    assert isinstance(usual_yardstick(here, "cpu_x86", workplace), MeasuredHere)


# ------------------------------------------------------------------------------------------------------------ comparing


def test_a_comparison_holds_every_strategy_against_the_baseline(workplace: Path, task: SearchTask) -> None:
    found = compare(task, folder=workplace / "kept", sweep=True)
    assert [*found.versus] == ["latency_only", "random"]
    assert [*found.standings] == [*found.whys] == [*found.chosen] == list(NAMES)
    assert found.num_seeds_needed == 7  # 2 * 0.5**7 * 2 comparisons = 0.03
    assert found.ridge_point == 5.0  # 10 GFLOP/s over 2 GB/s
    assert found.yardstick_text == "latency predicted for board"
    assert found.sweep is not None
    assert found.sweep.own.ridge_point == 5.0
    for some in found.chosen.values():
        for each in some:
            assert each.losses_F2[:, 1].tolist() == pytest.approx(
                [task.costs(arch)["latency_s"] for arch in each.archs]
            )
    again = compare(task, folder=workplace / "kept", accuracy=Deeper(task.space, stop_after=2))
    assert again.versus["random"].latency_ratio == found.versus["random"].latency_ratio


def test_each_seed_may_have_a_task_of_its_own(task: SearchTask) -> None:
    asked: list[int] = []

    def task_of(seed: int) -> SearchTask:
        asked.append(seed)
        bound = {"macs": (0.5 + 0.25 * seed) * task.costs(task.space.largest())["macs"]}
        return replace(task, constraints=bound)

    found = compare(task_of, seeds=(0, 1))
    assert sorted(set(asked)) == [0, 1]
    most = [max(task.costs(arch)["macs"] for arch in each.archs) for each in found.chosen["flops_only"]]
    largest = task.costs(task.space.largest())["macs"]
    assert most[0] <= 0.5 * largest < most[1] <= 0.75 * largest


def test_a_comparison_that_would_say_nothing_is_refused(task: SearchTask, workplace: Path) -> None:
    two = strategies_from_names(NAMES[:2])
    with pytest.raises(ValueError, match=r"num_trials must be at least 10, found 9: fewer networks are no front"):
        compare(task, num_trials=9)
    with pytest.raises(ValueError, match=r"baseline 'params_only' is none of the strategies \['flops_only'"):
        compare(task, baseline="params_only")
    with pytest.raises(ValueError, match=r"each only once, found \['flops_only', 'flops_only'\]"):
        compare(task, strategies=(two[0], two[0]))
    with pytest.raises(ValueError, match=r"\['flops_only'\] alone is held against nothing"):
        compare(task, strategies=two[:1])
    with pytest.raises(ValueError, match=r"seeds must be different numbers .* found \[1, 1\]"):
        compare(task, seeds=(1, 1))
    thrifty = Strategy(name="thrifty", objectives=("error", "energy_j"))
    with pytest.raises(ValueError, match=r"'thrifty' looks at energy, for which device 'board' has no figures"):
        compare(task, strategies=(*two, thrifty))


def test_a_table_that_knows_too_few_of_what_was_chosen_is_refused_and_the_list_of_them_can_be_filled_in(
    task: SearchTask, workplace: Path
) -> None:
    space, path = task.space, workplace / "times.csv"
    write_table(path, space, [space.smallest()], [2.0])
    source = FromTimes(path=str(path), column="ms", archs="knobs")
    accuracy = Deeper(space)
    with pytest.raises(
        ValueError, match=r"share no yardstick: latency measured on board .* has 1 of the .* networks that"
    ):
        compare(task, yardstick=source.load(task, "board", workplace), folder=workplace, accuracy=accuracy)
    num_asked = accuracy.num_asked
    lines = (workplace / UNKNOWN_FILE).read_text().splitlines()
    assert lines[0] == ",".join([*space.choices, "ms"])
    archs = [dict(zip(space.choices, map(int, line.split(",")[:-1]))) for line in lines[1:]]
    path.write_text(
        "\n".join(
            [lines[0], *(f"{line}{1e3 * task.costs(arch)['latency_s']!r}" for line, arch in zip(lines[1:], archs))]
        )
        + "\n"
    )
    with path.open("a") as file:
        file.write(
            ",".join(map(str, space.smallest().values())) + f",{1e3 * task.costs(space.smallest())['latency_s']!r}\n"
        )
    found = compare(task, yardstick=source.load(task, "board", workplace), folder=workplace, accuracy=accuracy)
    assert accuracy.num_asked == num_asked + 2, "nothing is searched again"
    assert not (workplace / UNKNOWN_FILE).exists()
    assert found.is_measured
    plain = compare(task, folder=workplace)
    assert found.versus["random"].latency_ratio is not None
    assert plain.versus["random"].latency_ratio is not None
    assert found.versus["random"].latency_ratio.value == pytest.approx(plain.versus["random"].latency_ratio.value)
    assert {json.loads(line)["strategy"] for line in (workplace / OUTCOMES_FILE).read_text().splitlines()} == {*NAMES}
