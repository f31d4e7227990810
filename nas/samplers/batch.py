"""Which archs to evaluate next, given those that were evaluated: a batch of the greatest expected gain."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.pareto import pareto_front
from nas.samplers.candidates import Candidates, Territory, bred_indices, random_indices
from nas.samplers.canonical import Indices
from nas.samplers.error_model import Array, ErrorModel, Features
from nas.samplers.gains import Boxes, expected_gains, undominated

_NUM_ROUNDS = 3
_NUM_SCORED = 100_000
"""Archs of a large space that are scored for a batch, in all rounds."""
_MAX_CELLS = 8_000_000
"""Boxes times archs; with several costs a front leaves hundreds of boxes, and fewer archs are scored."""
_LEAST_SCORED = 6_000
_NUM_PARENTS = 300
"""Of each round, those with the greatest expected gain, which breed the next."""
_NUM_FINAL = 600
"""Among which a batch is chosen one by one."""
_NUM_TAUGHT = 4_000
"""Archs of a round from which a linear model learns, and those that it finds the most promising of the round."""
_NUM_SPREAD = 5_000
_MAX_FRONT = {1: 1_000, 2: 1_000, 3: 80}
"""Points of a front by objectives that are cut out of what is undominated; `_MAX_FRONT_MORE` for more objectives."""
_MAX_FRONT_MORE = 40


class Known(NamedTuple):
    """What has been evaluated, and what is running.

    Attributes:
        losses_LM: of L feasible archs that were evaluated, the error itself in its column.
        parents_PK: archs that breed: the front, and whatever else is known to be good.
        pending: archs that are running.
        seen: keys of archs that are not to be proposed.
    """

    losses_LM: Array
    parents_PK: Indices
    pending: Candidates
    seen: NDArray[np.uint64]


class Oracle(NamedTuple):
    """What is thought of errors: a model, and archs as it sees them. No model: the error is no objective."""

    model: ErrorModel | None
    features: Callable[[Candidates], Features]


def best_batch(territory: Territory, known: Known, oracle: Oracle, num_archs: int, rng: np.random.Generator) -> Indices:
    """At most `num_archs` archs that promise the most hypervolume together, none of them seen, (B, K).

    Each is chosen as if those before it, and those that are running, had the error that is expected of them. Where no
    feasible arch is found, those that exceed their bounds the least are returned.
    """
    boxes = _boxes(territory, known.losses_LM)
    pool = _scored_pool(territory, known, oracle, boxes, rng)
    if not len(pool.candidates.keys_N):
        return np.empty((0, len(territory.sizes)), dtype=np.int64)
    if pool.candidates.violations_N.min() > 0.0:
        order = np.argsort(pool.candidates.violations_N, kind="stable")
        return pool.candidates.indices_NK[order[:num_archs]]
    return pool.candidates.indices_NK[_greedy(pool, known.pending, territory, oracle, boxes, num_archs)]


def spread_batch(territory: Territory, known: Known, num_archs: int, rng: np.random.Generator) -> Indices:
    """Archs before anything is known of errors: feasible ones of all costs, (B, K)."""
    if territory.is_small:
        found = territory.everything
    else:
        found = territory.of(random_indices(territory.sizes, _NUM_SPREAD, rng))
        if not (found.violations_N <= 0.0).any() or len(known.parents_PK):
            parents_PK = np.concatenate([known.parents_PK, _least_violating(found)])
            found = found.joined(territory.of(bred_indices(parents_PK, territory.sizes, _NUM_SPREAD, rng)))
    found = found.rows(~np.isin(found.keys_N, known.seen))
    if not len(found.keys_N):
        return found.indices_NK
    feasible_N = found.violations_N <= 0.0
    found = found.rows(feasible_N) if feasible_N.any() else found.rows(np.argsort(found.violations_N)[:num_archs])
    chosen: list[int] = []
    if found.logs_NC.shape[1]:
        first_N = found.logs_NC[:, 0]
        for low, high in pairwise(np.quantile(first_N, np.linspace(0.0, 1.0, num_archs + 1))):
            inside = np.setdiff1d(np.flatnonzero((first_N >= low) & (first_N <= high)), chosen)
            if len(inside):
                chosen.append(int(rng.choice(inside)))
    else:
        chosen = [int(each) for each in rng.permutation(len(found.keys_N))[:num_archs]]
    spread_BK: Indices = found.indices_NK[rng.permutation(chosen)]
    return spread_BK


# ------------------------------------------------------------------------------------------------------------ private


class _Pool(NamedTuple):
    """Candidates with what is expected of them; `losses_NM` has the mean of ln(error) in the error's column."""

    candidates: Candidates
    losses_NM: Array
    gains_N: Array

    def best(self, number: int) -> "_Pool":
        order = np.lexsort([self.candidates.keys_N, -self.gains_N, np.maximum(self.candidates.violations_N, 0.0)])
        rows = order[:number]
        return _Pool(self.candidates.rows(rows), self.losses_NM[rows], self.gains_N[rows])


def _boxes(territory: Territory, losses_LM: Array) -> Boxes:
    front_FM = np.unique(losses_LM[pareto_front(losses_LM)], axis=0) if len(losses_LM) else losses_LM
    most = _MAX_FRONT.get(len(territory.objectives), _MAX_FRONT_MORE)
    if len(front_FM) > most:
        front_FM = front_FM[np.linspace(0, len(front_FM) - 1, most).round().astype(int)]
    return undominated(front_FM, territory.reference)


def _scored_pool(territory: Territory, known: Known, oracle: Oracle, boxes: Boxes, rng: np.random.Generator) -> _Pool:
    """The best that there is: of all archs of a small space, of several generations in a large one."""
    if territory.is_small:
        return _scored(territory, territory.everything, known, oracle, boxes).best(_NUM_FINAL)
    num_scored = int(np.clip(_MAX_CELLS // len(boxes.lower_BM), _LEAST_SCORED, _NUM_SCORED))
    num_each = num_scored // _NUM_ROUNDS
    indices_NK = random_indices(territory.sizes, num_each // 2, rng)
    if len(known.parents_PK):
        bred_NK = bred_indices(known.parents_PK, territory.sizes, num_each - num_each // 2, rng)
        indices_NK = np.concatenate([indices_NK, bred_NK])
    pool = _scored(territory, territory.of(indices_NK), known, oracle, boxes).best(_NUM_FINAL)
    for _ in range(_NUM_ROUNDS - 1):
        parents_PK = pool.best(_NUM_PARENTS).candidates.indices_NK
        if not len(parents_PK):
            break
        bred = territory.of(bred_indices(parents_PK, territory.sizes, num_each, rng))
        bred = bred.rows(~np.isin(bred.keys_N, pool.candidates.keys_N))
        more = _scored(territory, bred, known, oracle, boxes)
        joined = _Pool(
            pool.candidates.joined(more.candidates),
            np.concatenate([pool.losses_NM, more.losses_NM]),
            np.concatenate([pool.gains_N, more.gains_N]),
        )
        pool = joined.best(_NUM_FINAL)
    return pool


def _scored(territory: Territory, found: Candidates, known: Known, oracle: Oracle, boxes: Boxes) -> _Pool:
    """Those that were not seen and, if there are any, feasible; of many the promising alone, by `_promising`."""
    found = found.rows(~np.isin(found.keys_N, known.seen))
    feasible_N = found.violations_N <= 0.0
    if feasible_N.any():
        found = found.rows(feasible_N)
    if oracle.model is None:
        std_N = np.zeros(len(found.keys_N))
        gains_N = expected_gains(boxes, found.losses_NM, territory.error_at, std_N)
        return _Pool(found, found.losses_NM, gains_N)
    if not territory.is_small and len(found.keys_N) > 2 * _NUM_TAUGHT:
        found = found.rows(_promising(territory, found, oracle, oracle.model, boxes))
    losses_NM = found.losses_NM.copy()
    losses_NM[:, territory.error_at], std_N = oracle.model.predict(oracle.features(found))
    gains_N = expected_gains(boxes, losses_NM, territory.error_at, np.hypot(std_N, oracle.model.noise))
    return _Pool(found, losses_NM, gains_N)


def _promising(
    territory: Territory, found: Candidates, oracle: Oracle, model: ErrorModel, boxes: Boxes
) -> NDArray[np.intp]:
    """Rows of the best by a linear model of knobs and costs, which learns from the process and is far cheaper."""
    sizes_K = np.array(territory.sizes, dtype=np.int64)
    offsets_K = np.cumsum(sizes_K) - sizes_K
    has_ND = np.zeros((len(found.keys_N), int(sizes_K.sum())), dtype=np.float32)
    np.put_along_axis(has_ND, found.indices_NK + offsets_K, 1.0, axis=1)
    logs_NC = (found.logs_NC - found.logs_NC.mean(axis=0)).astype(np.float32)
    inputs_NF = np.column_stack([has_ND, logs_NC, logs_NC**2])
    # Rows are ordered by a hash of the archs, so the first are random ones.
    taught_NF = inputs_NF[:_NUM_TAUGHT]
    mean_N, std_N = model.predict(oracle.features(found.rows(slice(_NUM_TAUGHT))))
    penalty_FF = 1e-2 * np.eye(taught_NF.shape[1], dtype=np.float32)
    centre = mean_N.mean()
    weights_F = np.linalg.solve(taught_NF.T @ taught_NF + penalty_FF, taught_NF.T @ (mean_N - centre))
    losses_NM = found.losses_NM.copy()
    losses_NM[:, territory.error_at] = inputs_NF @ weights_F + centre
    spread = np.hypot(np.hypot(std_N.mean(), model.noise), (mean_N - losses_NM[:_NUM_TAUGHT, territory.error_at]).std())
    gains_N = expected_gains(boxes, losses_NM, territory.error_at, np.full(len(losses_NM), spread))
    return np.argsort(-gains_N, kind="stable")[:_NUM_TAUGHT]


def _greedy(
    pool: _Pool, pending: Candidates, territory: Territory, oracle: Oracle, boxes: Boxes, num_archs: int
) -> list[int]:
    """Rows of the pool. What is chosen, or pending, is believed: its gain is taken and its neighbours are surer."""
    num_free = len(pool.candidates.keys_N)
    losses_NM = np.concatenate([pool.losses_NM, pending.losses_NM])
    covariance_NN, noise_variance = np.zeros((len(losses_NM), len(losses_NM))), 1.0
    if oracle.model is not None:
        features = oracle.features(pool.candidates).joined(oracle.features(pending))
        losses_NM[num_free:, territory.error_at] = oracle.model.predict(features)[0][num_free:]
        covariance_NN, noise_variance = oracle.model.covariance(features, features), oracle.model.noise**2
    is_free_N = np.arange(len(losses_NM)) < num_free
    waiting, chosen = list(range(num_free, len(losses_NM))), list[int]()
    while waiting or (len(chosen) < num_archs and is_free_N.any()):
        if waiting:
            best = waiting.pop()
        else:
            std_N = np.zeros(len(losses_NM))
            if oracle.model is not None:
                std_N = np.sqrt(np.maximum(np.diag(covariance_NN), 0.0) + noise_variance)
            gains_N = expected_gains(boxes, losses_NM, territory.error_at, std_N)
            best = int(np.argmax(np.where(is_free_N, gains_N, -1.0)))
            chosen.append(best)
        is_free_N[best] = False
        with_best_N = covariance_NN[best].copy()
        covariance_NN -= np.outer(with_best_N, with_best_N) / (with_best_N[best] + noise_variance)
        boxes = boxes.without(_believed(losses_NM[best], territory.error_at))
    return chosen


def _believed(losses_M: Array, error_at: int | None) -> Array:
    believed_M = losses_M.copy()
    if error_at is not None:
        believed_M[error_at] = np.exp(losses_M[error_at])
    return believed_M


def _least_violating(found: Candidates) -> Indices:
    return found.indices_NK[np.argsort(found.violations_N, kind="stable")[:_NUM_PARENTS]]
