"""Does "at most 5 ms" mean at most 5 ms? Many searches by gradients, each with a limit and a seed of its own.

Probabilities of the networks of `mobilenet_v3` are learned against a made-up loss: each value of each knob has a merit
that is drawn by the seed, larger values mostly have more of it, with less and less gained; every step sees it with
noise. Since merits add up, the best network under the limit is known, and so is how much of its merit was reached.
Three ways to end at a network are compared; see `WAYS`.

    python examples/limit_study.py
    python examples/limit_study.py --limits mobile_gpu.latency_s --runs 5
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from predictors import LatencyPredictor, load_device
from predictors.training import (
    ArchitectureLogits,
    CostConstraint,
    ExpectedCost,
    Limit,
    cost_penalty,
    most_probable_arch,
)
from search_spaces import Space, load_space

LIMITS = (
    "mobile_gpu.latency_s", "mobile_cpu.latency_s", "edge_tpu.latency_s", "h200.latency_s", "mobile_cpu.traffic_bytes",
    "mobile_cpu.peak_memory_bytes", "mobile_gpu.latency_s+mobile_cpu.latency_s",
    "mobile_gpu.latency_s+mobile_cpu.peak_memory_bytes",
)  # fmt: skip
WAYS = {
    "power": "MnasNet's power as a term of the loss, each knob's most probable value",
    "constraint": "CostConstraint, each knob's most probable value",
    "held": "CostConstraint, most_probable_arch under the limits",
}


@dataclass(frozen=True)
class Run:
    """Where a search ended: by how much the network exceeds its limit (below it: negative), and the share of the merit
    that the best network under the limit has."""

    excess: float
    attained: float


def limits_at(space: Space, names: str, share: float, merits: Mapping[str, torch.Tensor]) -> list[Limit]:
    """Limits so far from what the smallest network costs to what the best one does: so they bind."""
    best = {knob: values[int(merits[knob].argmax())] for knob, values in space.choices.items()}
    found = []
    for name in names.split("+"):
        device, metric = name.split(".")
        graphs = (space.graph(space.smallest()), space.graph(best))
        least, most = (getattr(predictor(device).predict(graph), metric) for graph in graphs)
        found.append(Limit(predictor=predictor(device), metric=metric, value=least + share * (most - least)))
    return found


def search(space: Space, names: str, share: float, seed: int, num_steps: int) -> dict[str, Run]:
    """Where each way ends, by name."""
    merits = merits_of(space, seed)
    limits = limits_at(space, names, share, merits)
    best = most_probable_arch(space, {knob: (50 * each).softmax(0) for knob, each in merits.items()}, limits)
    least, most = merit(space, space.smallest(), merits), merit(space, best, merits)
    power = learned(space, limits, merits, seed, num_steps, with_power=True)
    constraint = learned(space, limits, merits, seed, num_steps, with_power=False)
    archs = {
        "power": power.arch(),
        "constraint": constraint.arch(),
        "held": most_probable_arch(space, constraint(), limits),
    }
    excesses = {
        way: max(float(limit.excess(space, space.encode([arch]))[0]) for limit in limits) for way, arch in archs.items()
    }
    return {
        way: Run(excesses[way], (merit(space, arch, merits) - least) / (most - least)) for way, arch in archs.items()
    }


def learned(
    space: Space, limits: list[Limit], merits: Mapping[str, torch.Tensor], seed: int, num_steps: int, with_power: bool
) -> ArchitectureLogits:
    """Logits that were learned by noisy merits and a constraint, or a penalty."""
    torch.manual_seed(seed)
    logits = ArchitectureLogits(space)
    costs = {str(number): ExpectedCost(space, each.predictor, each.metric) for number, each in enumerate(limits)}
    constraint = CostConstraint(**{str(number): each.value for number, each in enumerate(limits)})
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.1)
    merits_V = torch.cat([*merits.values()])
    for _ in range(num_steps):
        probabilities = logits()
        loss = -probabilities.flat_V @ (merits_V + 0.1 * merits_V.std() * torch.randn(len(merits_V)))
        expected = {name: cost(probabilities) for name, cost in costs.items()}
        if with_power:
            loss = loss + sum(
                cost_penalty(expected[name], limit, 1.0, "power") for name, limit in constraint.limits.items()
            )
        else:
            loss = loss + constraint(expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        constraint.update(expected)
    return logits


def merits_of(space: Space, seed: int) -> dict[str, torch.Tensor]:
    """Of the values of each knob; those of the best values of all knobs together are about 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for knob, values in space.choices.items():
        rising_V = np.linspace(0, 1, len(values)) ** 0.5 + 0.2 * rng.normal(size=len(values))
        found[knob] = torch.tensor(rng.gamma(2.0) / 2 / len(space.choices) * rising_V, dtype=torch.float32)
    return found


def merit(space: Space, arch: Mapping[str, int], merits: Mapping[str, torch.Tensor]) -> float:
    return sum(float(merits[knob][values.index(arch[knob])]) for knob, values in space.choices.items())


@cache
def predictor(device: str) -> LatencyPredictor:
    return LatencyPredictor(load_device(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="mobilenet_v3")
    parser.add_argument("--limits", nargs="+", default=LIMITS, help="DEVICE.METRIC; several at once are joined by +")
    parser.add_argument("--runs", type=int, default=20, help="seeds, each with a limit of its own")
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    space = load_space(asked.space)
    shares = np.linspace(0.1, 0.9, asked.runs)
    every: list[dict[str, Run]] = []
    for names in asked.limits:
        runs = [search(space, names, share, seed, asked.steps) for seed, share in enumerate(shares)]
        every += runs
        for way in WAYS:
            print(f"{names:50s} {way:10s} {described([run[way] for run in runs])}", flush=True)
    for way, meaning in WAYS.items():
        print(f"{'all':50s} {way:10s} {described([run[way] for run in every])}  ({meaning})")


def described(runs: list[Run]) -> str:
    excess_N = np.array([each.excess for each in runs])
    below_N = -excess_N[excess_N <= 0]
    below = f"below it: median {np.median(below_N):.1%}, most {below_N.max():.1%}" if len(below_N) else "none below"
    attained = np.mean([each.attained for each in runs if each.excess <= 0] or [np.nan])
    return f"{len(below_N)} of {len(runs)} keep the limit; {below}; worst {excess_N.max():+.1%}; merit {attained:.1%}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
