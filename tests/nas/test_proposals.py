"""Every sampler within bounds: what it proposes is new and feasible, diverse, and ends exactly when nothing is left."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from small_search import BOARD, SAMPLERS, quantity

from nas.proposals import DistinctSampler, SpaceExhaustedError, distributions
from nas.repair import repaired
from nas.task import SearchTask
from predictors import LatencyPredictor, device_from_mapping
from search_spaces import Space, load_space
from search_spaces.space import Arch

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore:NSGAIIISampler is experimental")

# The other device waits for memory where the board computes: what is fast on one need not be on the other.
OTHER = {**BOARD, "name": "other", "memory": [{"name": "dram", "bandwidth": quantity(0.05, "GB/s")}]}

SPACE = load_space("mobilenet_v3_tiny", resolutions=[32, 48])
LARGE = load_space("mobilenet_v3")
# One stage of one or two blocks, each with three kernels and two expansions: 6 + 36 = 42 networks of 2 * 36 archs.
FEW = replace(
    load_space("mobilenet_v3_tiny", resolutions=[32]), name="few", kernels=(3, 5, 7), expansions=(3, 4), depths=(1, 2),
    stage_widths=(16,), stage_strides=(2,), stage_se=(False,), stage_activations=("relu",),
)  # fmt: skip


def task_of(space: Space, **constraints: float) -> SearchTask:
    return SearchTask(
        space=space,
        deployed_space=space,
        predictor=LatencyPredictor(device_from_mapping(BOARD)),
        objectives=("error", "latency_s"),
        constraints={name.replace("other_", "other."): bound for name, bound in constraints.items()},
        other_predictors={"other": LatencyPredictor(device_from_mapping(OTHER))},
    )


@lru_cache
def costs_of_all(space: Space) -> Mapping[str, np.ndarray]:
    """Costs of all archs of a small space, of random ones of a large."""
    sizes = [len(values) for values in space.choices.values()]
    if space is FEW:
        return task_of(space).costs_many(np.array(list(product(*map(range, sizes)))))
    rng = np.random.default_rng(0)
    return task_of(space).costs_many(rng.integers(sizes, size=(3000, len(sizes))))


def bounds(space: Space, **quantiles: float) -> dict[str, float]:
    """Bounds that so large a share of all archs meets, each alone."""
    return {
        name: float(np.quantile(costs_of_all(space)[name.replace("other_", "other.")], share))
        for name, share in quantiles.items()
    }


def sampler_of(name: str, task: SearchTask, seed: int = 0, seen: list[Arch] | None = None) -> DistinctSampler:
    start = (task.space.smallest(), task.space.largest(), task.feasible_arch)
    excess = task.excess_many if task.constraints else None
    return DistinctSampler(SAMPLERS[name], task.space, seed=seed, start=start, seen=seen or (), excess=excess)


def proposals(sampler: BaseSampler, task: SearchTask, number: int) -> list[Arch]:
    """Networks in canonical form; each is told an error that falls with the sum of its knobs."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    found = []
    for _ in range(number):
        trial = study.ask(distributions(task.space))
        arch = task.space.canonical(trial.params)
        study.tell(trial, [1.0 / (1.0 + sum(arch.values())), task.costs(arch)["latency_s"]])
        found.append(arch)
    return found


def is_feasible(task: SearchTask, arch: Arch) -> bool:
    costs = task.costs(arch)
    return all(costs[name] <= bound * (1.0 + 1e-9) for name, bound in task.constraints.items())


def distinct(archs: list[Arch]) -> int:
    return len({tuple(arch.values()) for arch in archs})


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    shares=st.fixed_dictionaries(
        {"latency_s": st.floats(0.05, 1.0)},
        optional={"other_latency_s": st.floats(0.05, 1.0), "peak_memory_bytes": st.floats(0.3, 1.0)},
    ),
    seed=st.integers(0, 9),
)
def test_every_proposal_of_every_sampler_meets_the_bounds_and_is_new(
    name: str, shares: dict[str, float], seed: int
) -> None:
    task = task_of(SPACE, **bounds(SPACE, **shares))
    found = proposals(sampler_of(name, task, seed), task, 20)
    assert distinct(found) == 20
    assert all(is_feasible(task, arch) for arch in found)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_knows_what_was_proposed_goes_on_as_the_first_would_have(name: str) -> None:
    task = task_of(SPACE, **bounds(SPACE, latency_s=0.2, other_latency_s=0.3))
    whole = sampler_of(name, task, seed=3)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=whole)
    archs: list[Arch] = []
    for number in range(30):
        if number in (1, 8, 13):
            study.sampler = sampler_of(name, task, seed=3, seen=archs)
        trial = study.ask(distributions(SPACE))
        archs.append(SPACE.canonical(trial.params))
        study.tell(trial, [1.0 / (1.0 + sum(archs[-1].values())), task.costs(archs[-1])["latency_s"]])
    assert archs == proposals(sampler_of(name, task, seed=3), task, 30)


def test_repaired_networks_lie_near_the_bound_and_differ_in_most_knobs() -> None:
    # Of random networks 2 % have so few macs.
    task = task_of(LARGE, **bounds(LARGE, macs=0.02))
    sizes, anchor_K = tuple(len(values) for values in LARGE.choices.values()), LARGE.encode([LARGE.smallest()])[0]
    rng = np.random.default_rng(0)
    rows = [repaired(row_K, task.excess_many, sizes, rng, anchor_K) for row_K in rng.integers(sizes, size=(200, 46))]
    assert all(row_K is not None for row_K in rows)
    rows_NK = np.stack(rows)  # type: ignore[arg-type]
    assert (task.excess_many(rows_NK) <= 0.0).all()
    smallest, bound = task.costs(LARGE.smallest())["macs"], task.constraints["macs"]
    used_N = (task.costs_many(rows_NK)["macs"] - smallest) / (bound - smallest)
    assert np.median(used_N) > 0.9
    assert np.quantile(used_N, 0.1) > 0.7
    differing = (rows_NK[:, None, :] != rows_NK[None, :, :]).sum(axis=2)
    np.fill_diagonal(differing, 99)
    assert differing.min() >= 5
    assert all(len(np.unique(column)) == size for column, size in zip(rows_NK.T[1:], sizes[1:]))


def test_knobs_that_a_bound_does_not_depend_on_keep_their_values() -> None:
    sizes = (4, 3, 3, 3, 3)
    asked_K = np.array([3, 2, 1, 2, 0])
    for seed in range(20):
        found_K = repaired(asked_K, lambda rows_NK: rows_NK[:, 0] / 1.5 - 1.0, sizes, np.random.default_rng(seed))
        assert found_K is not None
        assert found_K[0] in (0, 1)
        assert found_K[1:].tolist() == asked_K[1:].tolist()


def test_every_change_that_is_enough_alone_may_be_the_one() -> None:
    # The sum of the indices is 10 and may be 9: one step down in any of the five knobs, or two in one.
    sizes = (3, 3, 3, 3, 3)
    asked_K = np.full(5, 2)
    found = {
        tuple(repaired(asked_K, lambda rows_NK: rows_NK.sum(axis=1) / 9.0 - 1.0, sizes, np.random.default_rng(seed)))  # type: ignore[arg-type]
        for seed in range(200)
    }
    assert found == {(*(2,) * at, low, *(2,) * (4 - at)) for at in range(5) for low in (0, 1)}


def test_bounds_that_no_single_change_helps_are_met_by_moving_to_the_anchor() -> None:
    # Both of the first two knobs must be 0; one of them alone changes nothing.
    def excess(rows_NK: np.ndarray) -> np.ndarray:
        return (rows_NK[:, :2].max(axis=1) > 0).astype(np.float64)

    asked_K, anchor_K = np.array([1, 1, 2, 1]), np.array([0, 0, 0, 0])
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found_K = repaired(asked_K, excess, (2, 2, 3, 2), rng, anchor_K)
        assert found_K is not None
        # What the anchor did not need to give is given back.
        assert found_K.tolist() == [0, 0, 2, 1]
        assert repaired(asked_K, excess, (2, 2, 3, 2), rng) is None


def test_start_archs_that_break_a_bound_are_moved_to_it() -> None:
    task = task_of(SPACE, **bounds(SPACE, latency_s=0.3))
    first, second = proposals(sampler_of("nsga2", task), task, 2)
    assert first == SPACE.smallest()
    assert second != SPACE.largest()
    latency_s = task.costs(second)["latency_s"]
    assert latency_s <= task.constraints["latency_s"]
    assert latency_s > 0.8 * task.constraints["latency_s"]


@pytest.mark.parametrize("shares", [{"latency_s": 0.4}, {"latency_s": 0.6, "other_latency_s": 0.4}, {"macs": 0.05}])
@pytest.mark.parametrize("name", ["random", "nsga2"])
def test_a_small_space_ends_exactly_when_all_feasible_networks_were_proposed(
    name: str, shares: dict[str, float]
) -> None:
    task = task_of(FEW, **bounds(FEW, **shares))
    everything = [dict(zip(FEW.choices, values)) for values in product(*FEW.choices.values())]
    feasible = {tuple(FEW.canonical(arch).items()) for arch in everything if is_feasible(task, arch)}
    assert 0 < len(feasible) < 42
    sampler = sampler_of(name, task)
    found = proposals(sampler, task, len(feasible))
    assert {tuple(arch.items()) for arch in found} == feasible
    message = f"all {len(feasible)} networks of space few that meet the constraints have been evaluated"
    with pytest.raises(SpaceExhaustedError, match=message):
        proposals(sampler, task, 1)


def test_a_large_space_with_few_feasible_networks_is_searched_to_its_end() -> None:
    # The bound is the third smallest cost that one changed knob gives: the smallest network and two or three more.
    costs = sorted(
        task_of(LARGE).costs({**LARGE.smallest(), knob: values[1]})["macs"]
        for knob, values in LARGE.choices.items()
        if len(values) > 1 and LARGE.canonical({**LARGE.smallest(), knob: values[1]}) != LARGE.smallest()
    )
    task = task_of(LARGE, macs=costs[2])
    sampler = sampler_of("nsga2", task)
    found = proposals(sampler, task, 4)
    assert LARGE.smallest() in found
    assert distinct(found) == 4
    assert all(is_feasible(task, arch) for arch in found)
    with pytest.raises(SpaceExhaustedError, match="that meet the constraints and could be found have been evaluated"):
        proposals(sampler, task, 200)


def test_a_network_that_is_noted_is_never_proposed_and_one_that_is_forgotten_may_be() -> None:
    task = task_of(FEW)
    everything = {tuple(arch.items()): arch for arch in proposals(sampler_of("random", task), task, 42)}
    sampler = sampler_of("random", task)
    *noted, left, other = everything.values()
    for arch in noted:
        sampler.note(arch)
    sampler.note(noted[0])
    assert sorted(map(str, proposals(sampler, task, 2))) == sorted(map(str, (left, other)))
    with pytest.raises(SpaceExhaustedError, match="all 42 networks of space few have been evaluated"):
        proposals(sampler, task, 1)
    sampler.forget(left)
    assert proposals(sampler, task, 1) == [left]


def test_enqueued_archs_come_first_although_they_were_seen_and_do_not_change_what_follows() -> None:
    task = task_of(SPACE)
    whole = proposals(sampler_of("random", task), task, 12)
    sampler = sampler_of("random", task, seen=whole[:8])
    sampler.enqueue(whole[5:7])
    assert proposals(sampler, task, 6) == [*whole[5:7], *whole[8:]]


class Numbered(RandomSampler):
    """Remembers how often one was made."""

    num_made = 0
    reproducible = False

    def __init__(self, *, seed: int) -> None:
        super().__init__(seed=seed)
        type(self).num_made += 1


@pytest.mark.parametrize(("reproducible", "num_made"), [(True, 1), (False, 11)])
def test_a_sampler_that_promises_to_be_reproducible_is_made_once(reproducible: bool, num_made: int) -> None:
    make = type("Made", (Numbered,), {"reproducible": reproducible})
    task = task_of(SPACE)
    proposals(DistinctSampler(make, SPACE, seed=0, start=[]), task, 10)
    assert make.num_made == num_made


def test_without_a_feasible_start_arch_a_proposal_is_still_repaired() -> None:
    task = task_of(SPACE, **bounds(SPACE, latency_s=0.1))
    sampler = DistinctSampler(RandomSampler, SPACE, seed=0, start=[], excess=task.excess_many)
    assert all(is_feasible(task, arch) for arch in proposals(sampler, task, 10))


def test_neither_trials_nor_networks_are_gone_through_for_a_proposal() -> None:
    class Counted(InMemoryStorage):
        num_listings = 0

        def get_all_trials(self, *args: Any, **kwargs: Any) -> Any:
            self.num_listings += 1
            return super().get_all_trials(*args, **kwargs)

    storage = Counted()
    sampler = DistinctSampler(RandomSampler, SPACE, seed=0, start=[])
    study = optuna.create_study(storage=storage, directions=["minimize", "minimize"], sampler=sampler)
    study.ask(distributions(SPACE))
    (running,) = study.get_trials()
    before = storage.num_listings
    sampler.sample_relative(study, running, distributions(SPACE))
    assert storage.num_listings == before
