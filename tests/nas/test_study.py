from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
import pytest
from optuna.samplers import NSGAIISampler
from optuna.storages import BaseStorage, InMemoryStorage
from small_search import BOARD, SAMPLERS, quantity

from nas.errors import TooManyFailuresError
from nas.objectives import METRICS
from nas.pareto import hypervolume
from nas.proposals import MakeSampler, sampler_from_mapping
from nas.result import Candidate, Ending, SearchResult
from nas.storage import check_no_password, open_journal, shown_url, storage_from_mapping
from nas.study import opened_ledger, run_search, search_task
from nas.task import SearchTask
from predictors import LatencyPredictor, device_from_mapping
from search_spaces import Arch, load_space

optuna.logging.set_verbosity(optuna.logging.WARNING)


SPACE = load_space("mobilenet_v3_tiny", resolutions=[32])
# Depth 1 has the kernel and expansion of one block, depth 2 of two: 2 + 2 * 2 = 6 networks.
SIX_NETWORKS = replace(
    SPACE, name="six", kernels=(3,), expansions=(3, 4), depths=(1, 2), stage_widths=(16,), stage_strides=(2,),
    stage_se=(False,), stage_activations=("relu",),
)  # fmt: skip
SMALL_POPULATION = partial(NSGAIISampler, population_size=8)


def make_task(space: object = SPACE, **fields: object) -> SearchTask:
    asked = {"deployed_space": space, "objectives": ("error", "latency_s", "arithmetic_intensity"), **fields}
    return SearchTask(space=space, predictor=LatencyPredictor(device_from_mapping(BOARD)), **asked)  # type: ignore[arg-type]


def searched(
    task: SearchTask,
    accuracy: Callable[[Arch], float],
    storage: BaseStorage | None = None,
    identity: Mapping[str, object] = MappingProxyType({}),
    **options: Any,
) -> SearchResult:
    with opened_ledger(storage, "study", task, identity, shared=False) as ledger:
        return search_task(task, accuracy, ledger, **options)


class MadeUpAccuracy:
    """Larger knobs answer better. It remembers what was asked, and can be killed at an evaluation."""

    def __init__(self, last: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.asked: list[Mapping[str, int]] = []
        self.last = last
        self.error = error

    def __call__(self, arch: Mapping[str, int]) -> float:
        if len(self.asked) == self.last:
            raise self.error
        self.asked.append(arch)
        return 1.0 - 1.0 / (1.0 + sum(arch.values()) / 10.0)


def archs(result: SearchResult) -> list[tuple[tuple[str, int], ...]]:
    return [tuple(sorted(candidate.arch.items())) for candidate in result.candidates]


@pytest.mark.filterwarnings("ignore:NSGAIIISampler is experimental")
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_evaluates_as_many_different_networks_as_asked(name: str) -> None:
    accuracy = MadeUpAccuracy()
    result = searched(make_task(), accuracy, num_trials=30, sampler=SAMPLERS[name])
    assert len(accuracy.asked) == len(set(archs(result))) == 30
    assert all(candidate.arch == SPACE.canonical(candidate.arch) for candidate in result.candidates)


@pytest.mark.filterwarnings("ignore:NSGAIIISampler is experimental")
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_search_that_is_interrupted_anywhere_makes_the_same_trials(name: str, tmp_path: Path) -> None:
    whole = searched(make_task(), MadeUpAccuracy(), num_trials=30, sampler=SAMPLERS[name], seed=3)
    for last in (1, 8, 13, None):  # 8 is the end of a generation, 13 more trials end in the middle of one
        storage = open_journal(tmp_path / "study.journal")
        result = searched(
            make_task(), MadeUpAccuracy(last), num_trials=30, sampler=SAMPLERS[name], seed=3, storage=storage
        )
        assert result.ending is (Ending.FINISHED if last is None else Ending.INTERRUPTED)
    assert result.candidates == whole.candidates
    assert result.hypervolumes == whole.hypervolumes
    assert result.front == whole.front


def test_the_seed_decides_what_is_tried() -> None:
    first, again, other = (
        archs(searched(make_task(), MadeUpAccuracy(), num_trials=10, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_space_with_fewer_networks_than_trials_is_searched_to_its_end() -> None:
    result = searched(make_task(SIX_NETWORKS), MadeUpAccuracy(), num_trials=50, sampler=SMALL_POPULATION)
    assert len(set(archs(result))) == len(result.candidates) == 6
    assert result.ending is Ending.EXHAUSTED


def test_the_smallest_and_the_largest_arch_come_first() -> None:
    result = searched(make_task(), MadeUpAccuracy(), num_trials=2)
    assert [candidate.arch for candidate in result.candidates] == [SPACE.smallest(), SPACE.largest()]


def test_the_genetic_sampler_finds_more_than_random_sampling() -> None:
    volumes = {
        name: sum(
            searched(make_task(), MadeUpAccuracy(), num_trials=100, sampler=SAMPLERS[name], seed=seed).hypervolumes[-1]
            for seed in range(3)
        )
        for name in ("nsga2", "random")
    }
    assert volumes["nsga2"] > volumes["random"]


def test_candidates_have_all_metrics_of_the_deployed_network() -> None:
    task = make_task(deployed_space=SPACE.deployed(64, 2))
    candidate = searched(task, MadeUpAccuracy(), num_trials=1).candidates[0]
    assert set(candidate.metrics) == set(METRICS) - {"energy_j"}  # the board gives no energy figures
    # Twice the height, twice the width, two images: 8 times the macs, but for what is pooled to one pixel.
    assert candidate.metrics["macs"] == SPACE.deployed(64, 2).graph(SPACE.smallest()).macs
    assert candidate.metrics["macs"] > 5 * SPACE.graph(SPACE.smallest()).macs
    assert candidate.latency_std_s > 0.0


def test_energy_is_among_the_metrics_where_the_device_gives_it() -> None:
    device = device_from_mapping(BOARD | {"energy_per_byte": quantity(100, "pJ")})
    task = replace(make_task(), predictor=LatencyPredictor(device), objectives=("error", "energy_j"))
    assert searched(task, MadeUpAccuracy(), num_trials=1).candidates[0].metrics["energy_j"] > 0.0


@pytest.mark.parametrize("fields", [{"objectives": ("error", "energy_j")}, {"constraints": {"energy_j": 1.0}}])
def test_figures_that_the_device_does_not_have_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="device 'board' has no figures for 'energy_j'; known are"):
        make_task(**fields)


def test_the_front_and_the_hypervolume_are_those_of_the_feasible_candidates() -> None:
    largest = make_task().costs(SPACE.largest())["latency_s"]
    task = make_task(constraints={"latency_s": 0.6 * largest}, hard=False, objectives=("error", "latency_s"))
    result = searched(task, MadeUpAccuracy(), num_trials=40, sampler=SMALL_POPULATION)
    feasible = [each for each in result.candidates if each.metrics["latency_s"] <= 0.6 * largest]
    assert 0 < len(feasible) < 40
    assert [each for each in result.candidates if each.feasible] == feasible

    def dominated(one: Candidate) -> bool:
        ours = one.metrics["error"], one.metrics["latency_s"]
        theirs = [(each.metrics["error"], each.metrics["latency_s"]) for each in feasible]
        return any(error <= ours[0] and latency <= ours[1] and (error, latency) != ours for error, latency in theirs)

    front = [result.candidates[position] for position in result.front]
    assert front == sorted(
        (each for each in feasible if not dominated(each)), key=lambda each: each.metrics["latency_s"]
    )
    points = [[each.metrics["error"], each.metrics["latency_s"]] for each in feasible]
    assert result.reference_point == pytest.approx((1.0, 1.1 * largest))
    assert result.hypervolumes[-1] == pytest.approx(hypervolume(points, result.reference_point))  # type: ignore[arg-type]
    assert list(result.hypervolumes) == sorted(result.hypervolumes)


def test_soft_constraints_draw_the_search_towards_feasible_networks() -> None:
    bound = 1.2 * make_task().costs(SPACE.smallest())["latency_s"]
    shares = []
    for constraints in ({}, {"latency_s": bound}):
        task = make_task(constraints=constraints, hard=False)
        result = searched(task, MadeUpAccuracy(), num_trials=80, sampler=SMALL_POPULATION)
        shares.append(sum(each.metrics["latency_s"] <= bound for each in result.candidates))
    assert 80 > shares[1] > 2 * shares[0]


def test_networks_beyond_a_hard_bound_are_never_evaluated() -> None:
    bound = 1.2 * make_task().costs(SPACE.smallest())["latency_s"]
    task, accuracy = make_task(constraints={"latency_s": bound}), MadeUpAccuracy()
    searched(task, accuracy, num_trials=40, sampler=SMALL_POPULATION)
    assert len(accuracy.asked) == 40
    assert all(task.costs(dict(arch))["latency_s"] <= bound for arch in accuracy.asked)


def test_a_search_under_constraints_that_can_be_met_has_a_feasible_candidate() -> None:
    # The arch that shows that the bound can be met is among the first to be tried.
    bound = 1.001 * make_task().costs(SPACE.smallest())["latency_s"]
    result = searched(make_task(constraints={"latency_s": bound}), MadeUpAccuracy(), num_trials=3)
    assert result.front


def test_constraints_that_cannot_be_met_stop_before_anything_is_evaluated() -> None:
    accuracy = MadeUpAccuracy()
    with pytest.raises(ValueError, match=r"latency_ms=0\.001: the least that the space reaches on board is"):
        searched(make_task(SIX_NETWORKS, constraints={"latency_s": 1e-6}), accuracy)
    assert not accuracy.asked


@pytest.mark.parametrize(("share", "hint"), [(93.0, "is it in percent"), (-0.1, ""), (101.0, "}")])
def test_an_accuracy_outside_of_its_range_stops_the_search(share: float, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"accuracy must be in \[0, 1\], found {share} for arch .*{hint}"):
        searched(make_task(), lambda arch: share, num_trials=3)


class SometimesFailing(MadeUpAccuracy):
    """Every third evaluation fails, in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def __call__(self, arch: Mapping[str, int]) -> float:
        self.num_calls += 1
        if self.num_calls % 6 == 2:
            raise MemoryError("the images do not fit")
        return float("nan") if self.num_calls % 6 == 5 else super().__call__(arch)


def test_an_evaluation_that_raises_or_gives_nan_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    task, accuracy = make_task(), SometimesFailing()
    result = searched(task, accuracy, open_journal(tmp_path / "s"), num_trials=12, sampler=SMALL_POPULATION)
    assert len(result.candidates) == len(accuracy.asked) == 12
    assert accuracy.num_calls == 12 + len(result.failures) == 18
    in_memory = ["MemoryError: the images do not fit" in each.error for each in result.failures]
    assert in_memory == [True, False] * 3
    assert result.failures[1].error == "the accuracy is nan"
    states = [
        trial.state.name for trial in optuna.load_study(study_name=None, storage=open_journal(tmp_path / "s")).trials
    ]
    assert (states.count("COMPLETE"), states.count("FAIL")) == (12, 6)


def test_failed_networks_are_known_after_a_restart_and_not_tried_again(tmp_path: Path) -> None:
    task, whole = make_task(), searched(make_task(), SometimesFailing(), num_trials=16, sampler=SMALL_POPULATION)
    first = SometimesFailing()
    searched(task, first, open_journal(tmp_path / "s"), num_trials=8, sampler=SMALL_POPULATION)
    second = SometimesFailing()
    second.num_calls = first.num_calls
    again = searched(task, second, open_journal(tmp_path / "s"), num_trials=16, sampler=SMALL_POPULATION)
    assert again.candidates == whole.candidates
    assert [each.arch for each in again.failures] == [each.arch for each in whole.failures]


def test_ten_failures_in_a_row_stop_the_search_with_the_first_traceback(tmp_path: Path) -> None:
    calls: list[int] = []

    def fails(arch: Mapping[str, int]) -> float:
        calls.append(len(calls))
        if len(calls) <= 4:
            return 0.5
        raise RuntimeError(f"no GPU, call {len(calls)}")

    with pytest.raises(TooManyFailuresError, match="10 evaluations in a row failed") as caught:
        searched(make_task(), fails, open_journal(tmp_path / "s"), num_trials=50)
    assert caught.value.first.startswith("Traceback")
    assert caught.value.first.rstrip().endswith("RuntimeError: no GPU, call 5")
    assert len(calls) == 14
    assert len(optuna.load_study(study_name="study", storage=open_journal(tmp_path / "s")).trials) == 14


def test_a_search_needs_only_a_space_a_predictor_and_an_accuracy(tmp_path: Path) -> None:
    predictor = LatencyPredictor(device_from_mapping(BOARD))
    asked: dict[str, Any] = {
        "objectives": ("error", "latency_s", "macs"), "deployed_space": SPACE.deployed(64),
        "constraints": {"latency_s": 0.01}, "num_trials": 6, "seed": 2,
    }  # fmt: skip
    result = run_search(SPACE, predictor, MadeUpAccuracy(), **asked)
    assert len(result.candidates) == 6
    assert result.objectives == ("error", "latency_s", "macs")
    for num_evaluated in (6, 0):
        accuracy = MadeUpAccuracy()
        kept = run_search(SPACE, predictor, accuracy, storage=tmp_path / "journal", **asked)
        assert kept.candidates == result.candidates
        assert len(accuracy.asked) == num_evaluated


def test_two_workers_evaluate_as_many_different_networks_as_asked() -> None:
    result = searched(make_task(), MadeUpAccuracy(), num_trials=12, num_workers=2, sampler=SMALL_POPULATION)
    assert len(set(archs(result))) == len(result.candidates) == 12
    assert [each.metrics["error"] for each in result.candidates] == [
        1.0 - MadeUpAccuracy()(each.arch) for each in result.candidates
    ]


def test_no_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="num_trials must be at least 1, found 0"):
        searched(make_task(), MadeUpAccuracy(), num_trials=0)


def test_more_trials_extend_a_study_and_the_same_number_evaluates_nothing(tmp_path: Path) -> None:
    task = make_task()
    for num_trials, expected in ((10, 10), (10, 0), (15, 5), (3, 0)):
        accuracy = MadeUpAccuracy()
        storage = open_journal(tmp_path / "study.journal")
        result = searched(task, accuracy, num_trials=num_trials, sampler=SMALL_POPULATION, storage=storage)
        assert len(accuracy.asked) == expected
    assert [candidate.number for candidate in result.candidates] == list(range(15))
    assert archs(result) == archs(searched(task, MadeUpAccuracy(), num_trials=15, sampler=SMALL_POPULATION))


@pytest.mark.parametrize(
    ("task", "identity", "difference"),
    [
        (make_task(objectives=("error", "macs", "latency_s")), {"seed": 0}, "objectives"),
        (make_task(constraints={"latency_s": 1.0}), {"seed": 0}, "constraints.latency_s"),
        (make_task(SIX_NETWORKS), {"seed": 0}, "choices.stage1_block1_expansion"),
        (make_task(deployed_space=SPACE.deployed(64)), {"seed": 0}, "costs.largest.arithmetic_intensity"),
        (make_task(), {"seed": 1}, "seed"),
    ],
)
def test_a_study_of_something_else_is_refused_and_the_difference_is_named(
    task: SearchTask, identity: dict[str, object], difference: str, tmp_path: Path
) -> None:
    for asked, of in ((make_task(), {"seed": 0}), (task, identity)):
        storage = open_journal(tmp_path / "study.journal")
        if asked is task:
            with pytest.raises(ValueError, match=f"study 'study' was begun with {difference} "):
                searched(asked, MadeUpAccuracy(), storage, of, num_trials=1)
        else:
            searched(asked, MadeUpAccuracy(), storage, of, num_trials=1)


def test_a_study_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "study.journal")
    optuna.create_study(storage=storage, study_name="study").optimize(lambda trial: 0.0, n_trials=1)
    with pytest.raises(ValueError, match="study 'study' has trials that no search made"):
        searched(make_task(), MadeUpAccuracy(), storage, num_trials=1)


def test_optuna_reads_the_study_with_its_own_directions_and_constraints(tmp_path: Path) -> None:
    task = make_task(constraints={"latency_s": 1.0})
    result = searched(task, MadeUpAccuracy(), num_trials=5, storage=open_journal(tmp_path / "s"))
    study = optuna.load_study(study_name="study", storage=open_journal(tmp_path / "s"))
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE", "MAXIMIZE"]
    for trial, candidate in zip(study.trials, result.candidates, strict=True):
        assert trial.values == [candidate.metrics[name] for name in task.objectives]
        assert trial.constraints == {"latency_s": pytest.approx(candidate.metrics["latency_s"] - 1.0)}


# ------------------------------------------------------------------------------------------------------ journal files


def journal_with(num_trials: int, path: Path) -> SearchTask:
    task = make_task(SIX_NETWORKS)
    searched(task, MadeUpAccuracy(), num_trials=num_trials, storage=open_journal(path))
    return task


@pytest.mark.parametrize("torn", [b'{"op_code":4,"study_id":0,"datet', b"\x00\x00\x00\n", b"{}"])
def test_a_torn_last_line_is_dropped_and_the_search_goes_on(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    task = journal_with(3, path)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with pytest.warns(UserWarning, match="the last line is torn and was dropped"):
        storage = open_journal(path)
    assert path.read_bytes() == whole
    accuracy = MadeUpAccuracy()
    result = searched(task, accuracy, num_trials=5, storage=storage)
    assert (len(accuracy.asked), len(result.candidates)) == (2, 5)
    assert len(optuna.load_study(study_name="study", storage=open_journal(path)).trials) == 5


def test_a_trial_whose_record_was_cut_is_evaluated_again(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    task = journal_with(4, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="torn"):
        storage = open_journal(path)
    result = searched(task, MadeUpAccuracy(), num_trials=4, storage=storage)
    assert result.candidates == searched(task, MadeUpAccuracy(), num_trials=4).candidates


def test_a_line_that_is_damaged_in_the_middle_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal_with(3, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"study\.journal, line 2: not a line of an Optuna journal: b'garbage"):
        open_journal(path)


def test_the_lock_of_a_dead_process_does_not_hold_up_the_next(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    task = journal_with(1, path)
    path.with_name("study.journal.lock").symlink_to(path)
    # Optuna itself would wait for 30 s.
    searched(task, MadeUpAccuracy(), num_trials=2, storage=open_journal(path))
    assert not path.with_name("study.journal.lock").is_symlink()


def test_a_trial_is_one_record_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal_with(1, path)
    before = len(path.read_bytes().splitlines())
    journal_with(4, path)
    # Optuna notes that the study was opened, and each of the three new trials is a line.
    assert len(path.read_bytes().splitlines()) == before + 1 + 3


# ------------------------------------------------------------------------------------------- samplers and storages


def test_a_sampler_is_made_from_its_class_and_arguments() -> None:
    make: MakeSampler = sampler_from_mapping({"class": "optuna.samplers.NSGAIISampler", "population_size": 6})
    sampler = make(seed=1)
    assert isinstance(sampler, NSGAIISampler)
    assert sampler.population_size == 6


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"population_size": 6}, "key 'class' is missing"),
        ({"class": "optuna.samplers.NSGA"}, "'optuna.samplers.NSGA' cannot be imported"),
        ({"class": "nsga2"}, "'nsga2' cannot be imported"),
        ({"class": "optuna.samplers.GridSampler", "population": 6}, "unknown key 'population'"),
        ({"class": "optuna.trial.FrozenTrial"}, "no Optuna sampler that takes a seed"),
        ({"class": "optuna.samplers.NSGAIISampler", "popsize": 6}, "unknown key 'popsize'; allowed are"),
        ({"class": "optuna.samplers.NSGAIISampler", "population_size": 1}, "greater than or equal to 2"),
        ({"class": "optuna.samplers.NSGAIISampler", "population_size": "x"}, "NSGAIISampler: '<' not supported"),
    ],
)
def test_a_sampler_that_cannot_be_made_is_refused(mapping: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler_from_mapping(mapping)


def test_a_storage_is_memory_a_journal_or_a_database(tmp_path: Path) -> None:
    assert isinstance(storage_from_mapping({"kind": "memory"}, tmp_path), InMemoryStorage)
    storage_from_mapping({"kind": "journal"}, tmp_path)
    assert (tmp_path / "study.journal").exists()
    url = f"sqlite:///{tmp_path / 'study.db'}"
    task = make_task(SIX_NETWORKS)
    for num_trials in (2, 4):
        storage = storage_from_mapping({"kind": "url", "url": url}, tmp_path)
        result = searched(task, MadeUpAccuracy(), num_trials=num_trials, storage=storage)
    assert result.candidates == searched(task, MadeUpAccuracy(), num_trials=4).candidates


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"kind": "disk"}, "unknown storage kind 'disk'; there are"),
        ({"kind": "url"}, "storage of kind 'url': key 'url' is missing"),
        ({"kind": "memory", "url": "sqlite://"}, "storage of kind 'memory': unknown key 'url'"),
        ({"kind": "url", "url": "secret"}, "no URL of a database"),
        ({"kind": "url", "url": "nosuch://me:secret@host/name"}, r"storage nosuch://me:\*\*\*@host/name: "),
        ({"path": "x"}, "unknown key 'path'"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused(mapping: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        storage_from_mapping(mapping, tmp_path)
    assert "secret" not in str(caught.value)


def test_passwords_are_neither_shown_nor_taken_from_the_command_line() -> None:
    assert shown_url("postgresql://me:secret@host/name") == "postgresql://me:***@host/name"
    check_no_password(["hw=v100", "storage.url=postgresql://me@host/name"])
    with pytest.raises(ValueError, match="has a password, and command lines are saved") as caught:
        check_no_password(["hw=v100", "storage.url=postgresql://me:secret@host/name"])
    assert "secret" not in str(caught.value)
