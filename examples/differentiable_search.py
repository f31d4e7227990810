"""A differentiable search: weights and architecture probabilities are learned together, under a latency limit.

As in ProxylessNAS (https://arxiv.org/abs/1812.00332, section 3.3.2) networks are sampled by their probabilities,
weights learn by their loss on training images, logits by their loss on validation images as a reward. What the network
costs needs no sampling: `ExpectedCost` is exact and differentiable, `CostConstraint` holds it at the limit, a growing
price on entropy makes up the mind, and `most_probable_arch` gives the network that keeps the limit.

Optuna then searches the same supernet under the same limit. It may look at as many validation images.

    python examples/differentiable_search.py --hw mobile_gpu --latency-ms 0.7
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from nas import SupernetAccuracy, load_data, run_search
from nas.data import ImageData, Images
from nas.data.inputs import evaluation_input, resized
from predictors import LatencyPredictor, load_device
from predictors.training import (
    ArchitectureLogits,
    CostConstraint,
    ExpectedCost,
    Limit,
    check_reachable,
    most_probable_arch,
)
from search_spaces import Space, load_space

BATCH, NUM_STEPS = 64, 300
WARM_UP = 0.3
"""Share of the steps in which only weights learn: before that, rewards say nothing."""
ENTROPY_PRICE = 0.3
"""Of a nat of undecidedness, in the end."""


@dataclass(frozen=True)
class Searched:
    """What a differentiable search made: the network, the weights, and how many validation images it looked at."""

    arch: dict[str, int]
    judge: SupernetAccuracy
    num_images: int


def differentiable_search(
    space: Space, data: ImageData, limits: list[Limit], num_steps: int, seed: int = 0
) -> Searched:
    """Train a supernet and the probabilities of its networks together; the chosen network keeps the limits."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    deployed = space.deployed(resolution=224)
    check_reachable(deployed, limits)
    supernet, logits = space.supernet(), ArchitectureLogits(space)
    costs = {str(number): ExpectedCost(deployed, limit.predictor, limit.metric) for number, limit in enumerate(limits)}
    constraint = CostConstraint(rate=0.01, **{str(number): limit.value for number, limit in enumerate(limits)})
    weights_optimizer = torch.optim.AdamW(supernet.parameters(), lr=5e-3)
    # A short memory: what the constraint pushed at first would else make what rewards say later count for nothing.
    logits_optimizer = torch.optim.Adam(logits.parameters(), lr=0.1, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(weights_optimizer, num_steps)
    num_images, usual = 0, 0.0
    for step in range(num_steps):
        with torch.no_grad():
            archs = space.decode(sampled(logits, 2))
        x_BCHW, labels_B = batch_of(data, data.train, rng, space.resolution)
        weights_optimizer.zero_grad()
        for arch in (archs[0], space.largest()) if step % 4 == 0 else archs[:1]:  # the largest trains all weights
            supernet.set_arch(arch)
            cross_entropy(supernet(resized(x_BCHW, space.image_size(arch))), labels_B).backward()
        weights_optimizer.step()
        schedule.step()
        if step < WARM_UP * num_steps:
            continue
        x_BCHW, labels_B = batch_of(data, data.valid, rng, space.resolution)
        losses = []
        for arch in archs:
            supernet.set_arch(arch)
            with torch.no_grad():
                losses.append(cross_entropy(supernet(resized(x_BCHW, space.image_size(arch))), labels_B).item())
            num_images += len(labels_B)
        probabilities = logits()
        log_p_N = torch.stack([log_likelihood(space, probabilities, arch) for arch in archs])
        reward_N = torch.tensor(losses).mean() - torch.tensor(losses)  # each beside the other, on the same images
        usual = max(0.9 * usual + 0.1 * float(reward_N.abs().max()), 1e-6)
        reward_N = reward_N / usual  # about 1, beside a constraint that is about 1 where it is exceeded
        expected = {name: cost(probabilities) for name, cost in costs.items()}
        logits_optimizer.zero_grad()
        price = ENTROPY_PRICE * (step / num_steps - WARM_UP) / (1 - WARM_UP)
        (-(reward_N @ log_p_N) + constraint(expected) + price * logits.entropy).backward()
        logits_optimizer.step()
        constraint.update(expected)
    arch = space.canonical(most_probable_arch(deployed, logits(), limits))
    return Searched(arch, SupernetAccuracy(supernet.eval(), data), num_images)


def optuna_search(
    space: Space, predictor: LatencyPredictor, judge: SupernetAccuracy, limit_s: float, num_trials: int
) -> dict[str, int]:
    """The most accurate network that Optuna's NSGA-II finds in the same supernet under the same limit."""
    found = run_search(
        space, predictor, judge, ("error", "latency_s"), deployed_space=space.deployed(resolution=224),
        constraints={"latency_s": limit_s}, num_trials=num_trials,
    )  # fmt: skip
    return dict(min(found.candidates, key=lambda each: each.metrics["error"]).arch)


def sampled(logits: ArchitectureLogits, num: int) -> np.ndarray:
    """Archs drawn by their probabilities, as indices."""
    knobs = [torch.multinomial(each, num, replacement=True) for each in logits().values()]
    return torch.stack(knobs, dim=1).numpy()


def log_likelihood(space: Space, probabilities: dict[str, torch.Tensor], arch: dict[str, int]) -> torch.Tensor:
    values = [probabilities[knob][choices.index(arch[knob])] for knob, choices in space.choices.items()]
    return torch.stack(values).log().sum()


def batch_of(data: ImageData, images: Images, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch = images.read(rng.choice(len(images), BATCH, replace=False))
    return evaluation_input(data, batch.images, size), torch.from_numpy(batch.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hw", default="mobile_gpu")
    parser.add_argument("--latency-ms", type=float, default=0.7)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    space, data = load_space("mobilenet_v3_tiny"), load_data("digits")
    predictor, deployed = LatencyPredictor(load_device(asked.hw)), space.deployed(resolution=224)
    limit = Limit(predictor=predictor, metric="latency_s", value=asked.latency_ms / 1e3)
    start = time.perf_counter()
    learned = differentiable_search(space, data, [limit], asked.steps, asked.seed)
    middle = time.perf_counter()
    num_trials = max(1, learned.num_images // len(data.valid))
    found = optuna_search(space, predictor, learned.judge, limit.value, num_trials)
    print(
        f"{asked.steps} steps, {middle - start:.0f} s; then {num_trials} trials, {time.perf_counter() - middle:.0f} s"
    )
    for name, arch in (("differentiable", learned.arch), ("Optuna", found)):
        latency_ms = predictor.predict(deployed.graph(arch)).latency_s * 1e3
        valid, test = learned.judge(arch), learned.judge.of(arch, data.test)
        print(
            f"{name}: accuracy {valid:.3f} (valid) {test:.3f} (test), latency {latency_ms:.3f} ms of at most "
            f"{asked.latency_ms:g} ms"
        )
        print(f"  {arch}")


if __name__ == "__main__":
    main()
