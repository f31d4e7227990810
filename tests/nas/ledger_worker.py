"""A worker for tests: `python ledger_worker.py URL STUDY LOG SECONDS` works on a study until all 48 networks are done.

Each line of the log is one evaluation that began.
"""

import itertools
import os
import random
import sys
import time
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from nas.ledger import Ledger
from nas.proposals import arch_key
from nas.storage import storage_from

DISTRIBUTIONS = {"width": CategoricalDistribution(tuple(range(8))), "depth": CategoricalDistribution(tuple(range(6)))}
NUM_NETWORKS = 48


def error_of(arch: dict[str, int]) -> float:
    return 1.0 / (1 + arch["width"] + 8 * arch["depth"])


def main(url: str, study_name: str, log: Path, seconds: float) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [StudyDirection.MINIMIZE]
    with Ledger(storage_from(url), study_name, directions, shared=True, beat_s=0.2, stale_s=5.0) as ledger:
        archs = [dict(zip(("width", "depth"), each)) for each in itertools.product(range(8), range(6))]
        random.shuffle(archs)
        known: set[tuple[int, ...]] = set()
        while len(known) < NUM_NETWORKS:
            known |= {arch_key(trial.user_attrs["arch"]) for trial in ledger.news()}
            left = [*ledger.stale(), *(arch for arch in archs if arch_key(arch) not in known)]
            claims = (ledger.claim(arch, arch, DISTRIBUTIONS) for arch in left)
            claim = next((claim for claim in claims if claim is not None), None)
            if claim is None:
                time.sleep(0.1)
                continue
            with log.open("a") as file:
                file.write(f"{os.getpid()} {arch_key(claim.arch)}\n")
            time.sleep(seconds)
            trial = create_trial(
                state=TrialState.COMPLETE,
                params=claim.arch,
                distributions=dict(DISTRIBUTIONS),
                values=[error_of(claim.arch)],
                user_attrs={"arch": claim.arch},
            )
            ledger.finish(claim, trial)
            known.add(arch_key(claim.arch))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
