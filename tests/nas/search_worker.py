"""A worker for tests: `python search_worker.py URL STUDY LOG NUM_WORKERS` joins a search of 30 networks.

Each line of the log is one evaluation that began.
"""

import sys
import time
from functools import partial
from pathlib import Path

import optuna
from optuna.samplers import NSGAIISampler

from nas.study import run_search
from predictors import LatencyPredictor, load_device
from search_spaces import load_space
from search_spaces.space import Arch

NUM_TRIALS = 30


def accuracy(arch: Arch, log: Path) -> float:
    with log.open("a") as file:
        file.write(f". {sorted(arch.items())}\n")
    time.sleep(0.2)
    return 1.0 - 1.0 / (1.0 + sum(arch.values()) / 10.0)


def main(url: str, study_name: str, log: Path, num_workers: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result = run_search(
        load_space("mobilenet_v3_tiny", resolutions=[32]),
        LatencyPredictor(load_device("v100")),
        partial(accuracy, log=log),
        num_trials=NUM_TRIALS,
        sampler=partial(NSGAIISampler, population_size=8),
        storage=url,
        study_name=study_name,
        num_workers=num_workers,
    )
    print(len(result.candidates))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
