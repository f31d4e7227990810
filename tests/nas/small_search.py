"""A made-up device and samplers of small populations, for searches that take no time."""

from functools import partial

from optuna.samplers import NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from nas.proposals import MakeSampler


def quantity(value: float, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "made up for tests"}


BOARD = {
    "name": "board", "description": "a board", "runtime": "litert", "dtype": "float32",
    "peak": {"float32": quantity(10, "GFLOP/s")},
    "memory": [{"name": "dram", "bandwidth": quantity(2, "GB/s")}],
}  # fmt: skip
SAMPLERS: dict[str, MakeSampler] = {
    "nsga2": partial(NSGAIISampler, population_size=8),
    "nsga3": partial(NSGAIIISampler, population_size=8),
    "random": RandomSampler,
    "tpe": partial(TPESampler, n_startup_trials=5),
}
