"""How often strategies that are the same are told apart: `python tests/nas/false_claims.py` draws 600 comparisons."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np

from nas.compare.judging import reference_point_of, standing, versus_all
from nas.compare.records import BestKnown, Chosen, Comparison, Floats, Versus
from nas.compare.report.verdict import Verdict, verdict_of
from nas.compare.statistics import seeds_needed
from nas.pareto import pareto_front

STRATEGIES = ("baseline", "a", "b", "c", "d", "e")
CLAIMS = {Verdict.FASTER, Verdict.SLOWER}


def drawn_fronts(rng: np.random.Generator, num_seeds: int, num_trials: int = 60) -> list[Floats]:
    """Fronts of random searches among networks that are the more accurate the longer they take, roughly."""
    found = []
    for _ in range(num_seeds):
        seconds_N = 0.01 * rng.lognormal(0.0, 0.5, num_trials)
        errors_N = 0.2 + 0.1 * np.exp(-60.0 * seconds_N) * rng.uniform(0.5, 1.5, num_trials)
        losses_N2 = np.column_stack([errors_N, seconds_N])
        found.append(losses_N2[pareto_front(losses_N2)])
    return found


def best_in(fronts: Sequence[Floats]) -> BestKnown:
    losses_N2 = np.unique(np.concatenate(fronts), axis=0)
    losses_N2 = losses_N2[pareto_front(losses_N2)]
    return BestKnown(archs=(), losses_B2=losses_N2[np.argsort(losses_N2[:, 1])], text="the best of all")


def judge(fronts: dict[str, Sequence[Floats]], baseline: str, best: BestKnown) -> dict[str, Versus]:
    """Fronts of each strategy by seed."""
    chosen = {
        name: [
            Chosen(strategy=name, seed=seed, archs=({},) * len(losses_F2), losses_F2=losses_F2)
            for seed, losses_F2 in enumerate(each)
        ]
        for name, each in fronts.items()
    }
    reference_point = reference_point_of(best)
    standings = {
        name: standing(name, each, None, best, reference_point, [1.0] * len(each)) for name, each in chosen.items()
    }
    return versus_all(chosen, standings, baseline, best)


def verdict(versus: Versus, *, num_seeds: int, num_others: int) -> Verdict:
    asked = SimpleNamespace(seeds=range(num_seeds), num_seeds_needed=seeds_needed(num_others), judged="accuracy")
    return verdict_of(versus, cast(Comparison, asked))


def compare_the_same(rng: np.random.Generator, num_seeds: int) -> dict[str, Versus]:
    """Strategies that all draw from the same networks, held against the first."""
    fronts = {name: drawn_fronts(rng, num_seeds) for name in STRATEGIES}
    return judge(fronts, STRATEGIES[0], best_in([each for of_one in fronts.values() for each in of_one]))


def is_claimed(found: dict[str, Versus], num_seeds: int) -> bool:
    """Of any strategy."""
    return bool(CLAIMS & {verdict(each, num_seeds=num_seeds, num_others=len(found)) for each in found.values()})


if __name__ == "__main__":
    for num_seeds in (10, 20):
        rng = np.random.default_rng(0)
        drawn = [compare_the_same(rng, num_seeds) for _ in range(600)]
        every = [versus for found in drawn for versus in found.values()]
        any_p_holm = [min(each.latency_p_holm for each in found.values()) for found in drawn]
        any_volume_p_holm = [min(each.hypervolume_p_holm for each in found.values()) for found in drawn]
        headlines = [each.headline_ratio for each in every if each.headline_ratio is not None]
        excluded = [each.low > 1.0 or each.high < 1.0 for each in headlines]
        print(
            f"{num_seeds} seeds: anything claimed in {100 * np.mean([is_claimed(f, num_seeds) for f in drawn]):.1f} % "
            f"of {len(drawn)} comparisons; by the rank test of latencies alone "
            f"{100 * np.mean(np.array(any_p_holm) < 0.05):.1f} %, of hypervolumes "
            f"{100 * np.mean(np.array(any_volume_p_holm) < 0.05):.1f} %; of single headlines the interval excludes "
            f"no difference in {100 * np.mean(excluded):.1f} %, the uncorrected test in "
            f"{100 * np.mean([each.latency_p < 0.05 for each in every]):.1f} %",
            flush=True,
        )
