"""The ledger: one conformance suite, run on every kind of storage."""

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from postgres import postgres  # noqa: F401
from storages import Open, opener, two_storages  # noqa: F401

import nas.patience
from nas.ledger import MAX_FAILURE_CHARACTERS, Claim, Ledger
from nas.patience import Patience, PatientStorage

DIRECTIONS = (StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
DISTRIBUTIONS: Mapping[str, BaseDistribution] = {
    "width": CategoricalDistribution((1, 2, 3, 4)),
    "depth": CategoricalDistribution((1, 2, 3)),
}
NEVER_S = 1e6
_names = (f"study {number}" for number in itertools.count())


def arch_of(width: int, depth: int = 1) -> dict[str, int]:
    return {"width": width, "depth": depth}


def ledger_of(storage: BaseStorage, name: str, *, shared: bool = True, stale_s: float = NEVER_S) -> Ledger:
    return Ledger(storage, name, DIRECTIONS, shared=shared, beat_s=NEVER_S, stale_s=stale_s)


def claimed(ledger: Ledger, arch: Mapping[str, int]) -> Claim | None:
    return ledger.claim(arch, arch, DISTRIBUTIONS, {"metrics": {"latency_s": 0.5}})


def finished(arch: Mapping[str, int], error: float) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.COMPLETE,
        params=dict(arch),
        distributions=dict(DISTRIBUTIONS),
        values=[error, 0.5],
        user_attrs={"arch": dict(arch), "metrics": {"error": error, "latency_s": 0.5}},
        system_attrs={"NSGAIISampler:generation": 3},
    )
    trial.set_constraint("latency_ms", -1.5)
    return trial


def errors(trials: list[FrozenTrial]) -> list[tuple[int, float]]:
    return [(trial.user_attrs["arch"]["width"], trial.values[0]) for trial in trials]


def at_once(jobs: Sequence[Callable[[], object]]) -> None:
    """Run each in a thread of its own, all from the same moment on."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        start.wait()
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run, job) for job in jobs]:
            done.result()


def stale_for(ledger: Ledger) -> list[dict[str, int]]:
    assert ledger.news() == []
    return [dict(arch) for arch in ledger.stale()]


def by_state(ledger: Ledger, state: TrialState) -> list[FrozenTrial]:
    return ledger.study.get_trials(deepcopy=False, states=(state,))


@pytest.fixture
def pair(two_storages: tuple[BaseStorage, BaseStorage]):  # type: ignore[no-untyped-def] # noqa: F811
    """Two workers of one study; the second takes over whatever stands still."""
    name = next(_names)
    first, second = ledger_of(two_storages[0], name), ledger_of(two_storages[1], name, stale_s=0.0)
    with first, second:
        yield first, second


def test_a_trial_that_one_worker_finishes_is_news_to_the_other_once(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    claim = claimed(first, arch_of(1))
    assert claim is not None
    assert second.news() == []
    first.finish(claim, finished(arch_of(1), 0.25))
    (trial,) = second.news()
    assert trial.state is TrialState.COMPLETE
    assert trial.values == [0.25, 0.5]
    assert trial.params == arch_of(1)
    assert trial.user_attrs["arch"] == arch_of(1)
    assert trial.user_attrs["metrics"] == {"error": 0.25, "latency_s": 0.5}
    assert trial.constraints == {"latency_ms": -1.5}
    assert trial.system_attrs["NSGAIISampler:generation"] == 3
    assert second.news() == []
    assert first.news() == []


def test_a_network_that_somebody_evaluates_or_has_finished_cannot_be_claimed(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    claim = claimed(first, arch_of(1))
    assert claim is not None
    assert claimed(second, arch_of(1)) is None
    assert claimed(first, arch_of(1)) is None
    assert second.num_running_elsewhere() == 1
    assert first.num_running_elsewhere() == 0
    first.finish(claim, finished(arch_of(1), 0.25))
    assert claimed(second, arch_of(1)) is None
    assert second.num_running_elsewhere() == 0
    assert claimed(second, arch_of(2)) is not None
    assert errors(by_state(first, TrialState.COMPLETE)) == [(1, 0.25)]


def test_of_workers_that_claim_at_the_same_moment_one_gets_each_network(opener: Open) -> None:  # noqa: F811
    name = next(_names)
    ledgers = [ledger_of(opener(), name) for _ in range(3)]
    got: list[tuple[int, Claim]] = []

    def work(number: int) -> None:
        for width in (1, 2, 3, 4):
            claim = claimed(ledgers[number], arch_of(width))
            if claim is not None:
                got.append((number, claim))

    at_once([partial(work, number) for number in range(len(ledgers))])
    assert sorted(claim.arch["width"] for _, claim in got) == [1, 2, 3, 4]
    for number, claim in got:
        ledgers[number].finish(claim, finished(claim.arch, 0.25))
    assert sorted(errors(by_state(ledgers[0], TrialState.COMPLETE))) == [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.25)]
    for ledger in ledgers:
        ledger.close()


def test_of_workers_that_take_over_at_the_same_moment_one_gets_each_arch(opener: Open) -> None:  # noqa: F811
    name = next(_names)
    gone = ledger_of(opener(), name)
    lost = {width: claimed(gone, arch_of(width)) for width in (1, 2, 3, 4)}
    ledgers = [ledger_of(opener(), name, stale_s=0.0) for _ in range(3)]
    got: list[tuple[Ledger, int]] = []

    def take_over(ledger: Ledger) -> None:
        got.extend((ledger, arch["width"]) for arch in stale_for(ledger))

    at_once([partial(take_over, ledger) for ledger in ledgers])
    assert sorted(width for _, width in got) == [1, 2, 3, 4]

    heirs = [(ledger, claimed(ledger, arch_of(width))) for ledger, width in got]
    jobs = [partial(ledger.finish, claim, finished(claim.arch, 0.5)) for ledger, claim in heirs if claim]
    late = [partial(gone.finish, claim, finished(claim.arch, 0.25)) for claim in lost.values() if claim]
    assert len(jobs) == len(late) == 4
    at_once([lambda: [job() for job in jobs], lambda: [job() for job in late]])
    found = errors(by_state(gone, TrialState.COMPLETE))
    assert sorted(width for width, _ in found) == [1, 2, 3, 4]
    assert by_state(gone, TrialState.RUNNING) == []
    for ledger in (gone, *ledgers):
        ledger.close()


def test_a_failure_is_news_with_its_text_and_is_not_tried_again(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    claim = claimed(first, arch_of(1))
    assert claim is not None
    first.fail(claim, finished(arch_of(1), 0.25), f"{'x' * MAX_FAILURE_CHARACTERS}ZeroDivisionError")
    (trial,) = second.news()
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["failure"].endswith("ZeroDivisionError")
    assert len(trial.user_attrs["failure"]) == MAX_FAILURE_CHARACTERS
    assert claimed(second, arch_of(1)) is None


def test_a_withdrawn_claim_leaves_the_network_to_others(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    claims = [claimed(first, arch_of(width)) for width in (1, 2)]
    assert claims[0] is not None
    first.withdraw(claims[0])
    first.close()
    assert second.news() == []
    assert claimed(second, arch_of(1)) is not None
    assert claimed(second, arch_of(2)) is not None


def test_an_arch_whose_counter_stands_still_is_taken_over_by_one(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    assert claimed(first, arch_of(1)) is not None
    assert stale_for(first) == []  # its own
    third = ledger_of(second.study._storage, second.study.study_name, stale_s=0.0)
    assert stale_for(second) == [arch_of(1)]
    assert stale_for(third) == []
    assert stale_for(second) == []
    assert claimed(second, arch_of(1)) is not None


def test_a_counter_that_rises_keeps_a_claim(two_storages: tuple[BaseStorage, BaseStorage]) -> None:  # noqa: F811
    name = next(_names)
    beating = Ledger(two_storages[0], name, DIRECTIONS, shared=True, beat_s=0.02)
    watching = Ledger(two_storages[1], name, DIRECTIONS, shared=True, stale_s=2.0)
    with beating, watching:
        assert claimed(beating, arch_of(1)) is not None
        watching.news()
        (trial,) = by_state(watching, TrialState.RUNNING)
        deadline = time.monotonic() + 20.0
        while trial.user_attrs["beat"] < 2 and time.monotonic() < deadline:
            assert stale_for(watching) == []
            (trial,) = by_state(watching, TrialState.RUNNING)
        assert trial.user_attrs["beat"] >= 2


def test_a_worker_whose_process_is_dead_is_not_waited_for(pair: tuple[Ledger, Ledger]) -> None:
    first, _ = pair
    patient = ledger_of(first.study._storage, first.study.study_name)
    host, _, random_text = first.worker.rsplit("|", 2)
    first.worker = f"{host}|{2**22 + 1}|{random_text}"  # more than any Linux gives
    assert claimed(first, arch_of(1)) is not None
    first.worker = f"another host|||{2**22 + 1}|{random_text}"
    assert claimed(first, arch_of(2)) is not None
    assert stale_for(patient) == [arch_of(1)]


def test_a_result_that_comes_late_is_kept_if_nobody_else_has_it(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    claim = claimed(first, arch_of(1))
    assert claim is not None
    assert stale_for(second) == [arch_of(1)]
    first.finish(claim, finished(arch_of(1), 0.25))
    assert errors(second.news()) == [(1, 0.25)]
    assert claimed(second, arch_of(1)) is None
    assert by_state(first, TrialState.RUNNING) == []


def test_a_network_that_two_workers_evaluated_is_finished_once(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    late = claimed(first, arch_of(1))
    assert late is not None
    assert stale_for(second) == [arch_of(1)]
    heir = claimed(second, arch_of(1))
    assert heir is not None
    first.finish(late, finished(arch_of(1), 0.25))  # in the place of the heir
    second.finish(heir, finished(arch_of(1), 0.5))
    assert errors(by_state(first, TrialState.COMPLETE)) == [(1, 0.25)]
    assert by_state(first, TrialState.RUNNING) == []
    assert first.news() == []
    assert second.news() == []  # it knows the network by its own result


def test_a_failure_that_comes_late_leaves_the_second_attempt_alone(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    late = claimed(first, arch_of(1))
    assert late is not None
    assert stale_for(second) == [arch_of(1)]
    heir = claimed(second, arch_of(1))
    assert heir is not None
    first.fail(late, finished(arch_of(1), 0.25), "too late")
    second.finish(heir, finished(arch_of(1), 0.5))
    assert errors(by_state(first, TrialState.COMPLETE)) == [(1, 0.5)]


def test_a_study_of_one_process_gets_trials_whole_and_reads_once(
    two_storages: tuple[BaseStorage, BaseStorage],  # noqa: F811
) -> None:
    name = next(_names)
    with ledger_of(two_storages[0], name, shared=False) as ledger:
        claim = claimed(ledger, arch_of(1))
        assert claim is not None
        assert by_state(ledger, TrialState.RUNNING) == []
        ledger.finish(claim, finished(arch_of(1), 0.25))
        failing = claimed(ledger, arch_of(2))
        assert failing is not None
        ledger.fail(failing, finished(arch_of(2), 0.25), "broken")
        assert ledger.news() == []
    with ledger_of(two_storages[1], name, shared=False) as later:
        complete, failed = later.news()
        assert errors([complete]) == [(1, 0.25)]
        assert complete.constraints == {"latency_ms": -1.5}
        assert failed.user_attrs["failure"] == "broken"
        assert later.news() == []


def test_trials_of_other_programs_are_no_business_of_ours(pair: tuple[Ledger, Ledger]) -> None:
    first, second = pair
    first.study.add_trial(create_trial(state=TrialState.COMPLETE, values=[0.1, 0.2]))
    first.study.ask()
    first.study.enqueue_trial(arch_of(1))
    assert second.news() == []
    assert stale_for(second) == []
    assert claimed(second, arch_of(1)) is not None


# ------------------------------------------------------------------------------------------------ answers that are lost


class Forgetful(InMemoryStorage):
    """Carries out what is asked, and every second time the answer is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def _lose(self) -> None:
        self.num_calls += 1
        if self.num_calls % 2:
            raise StorageInternalError("gone")

    def create_new_trial(self, study_id, template_trial=None):  # type: ignore[no-untyped-def]
        trial_id = super().create_new_trial(study_id, template_trial)
        self._lose()
        return trial_id

    def set_trial_state_values(self, trial_id, state, values=None):  # type: ignore[no-untyped-def]
        changed = super().set_trial_state_values(trial_id, state, values)
        self._lose()
        return changed


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_tried_again_is_not_written_twice(
    shared: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nas.patience.time, "sleep", lambda _: None)
    storage = PatientStorage(Forgetful(), Patience(shown="forgetful"))
    with ledger_of(storage, "study", shared=shared) as ledger:
        for width in (1, 2, 3):
            claim = claimed(ledger, arch_of(width))
            assert claim is not None
            ledger.finish(claim, finished(arch_of(width), 0.25))
        failing = claimed(ledger, arch_of(4))
        assert failing is not None
        ledger.fail(failing, finished(arch_of(4), 0.25), "broken")
    states = [trial.state for trial in ledger.study.get_trials(deepcopy=False)]
    assert states == [TrialState.COMPLETE] * 3 + [TrialState.FAIL]
    assert "storage forgetful is away" in capsys.readouterr().err


def test_a_look_at_a_long_study_costs_little_more_than_listing_its_trials() -> None:
    storage = InMemoryStorage()
    with ledger_of(storage, "study") as ledger:
        for number in range(3000):
            arch = {"width": number}
            trial = create_trial(state=TrialState.COMPLETE, values=[0.5, 0.5], user_attrs={"arch": arch})
            storage.create_new_trial(ledger.study._study_id, trial)
        assert len(ledger.news()) == 3000
        assert ledger._num_settled == 3000
        assert ledger._settled == set()
