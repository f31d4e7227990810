"""Comparisons with made-up networks, for tests of their report: judged as real ones are."""

from collections.abc import Mapping, Sequence

import numpy as np

from nas.compare.judging import reference_point_of, standing, versus_all
from nas.compare.records import (
    BestKnown,
    Chosen,
    Comparison,
    Estimate,
    Strategy,
    Sweep,
    SweepPoint,
    Why,
)
from nas.compare.statistics import seeds_needed

OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "flops_only": ("error", "macs"),
    "memory_aware": ("error", "latency_s", "traffic_bytes", "arithmetic_intensity"),
    "latency_only": ("error", "latency_s"),
    "params_only": ("error", "num_params"),
    "traffic_only": ("error", "traffic_bytes"),
    "random": ("error", "latency_s"),
}
SLOWNESS = {
    "flops_only": 1.14,
    "memory_aware": 1.03,
    "latency_only": 1.02,
    "params_only": 1.5,
    "traffic_only": 1.09,
    "random": 1.3,
}
NUM_NETWORKS = 14


def best_front() -> BestKnown:
    errors = np.linspace(0.222, 0.42, 30)
    return BestKnown(
        archs=tuple({"depth": at, "width": 0} for at in range(30)),
        losses_B2=np.column_stack([errors, best_seconds(errors)])[::-1],
        text="the exact front of the whole space",
    )


def best_seconds(errors: np.ndarray) -> np.ndarray:
    return 2e-3 + 1.2e-3 * (0.45 - errors) / (errors - 0.19)


def chosen_of(strategy: str, seed: int, slowness: float, *, noise: float = 0.02, unknown: int = 0) -> Chosen:
    """A front that is so much slower than the best known one; its most accurate network differs from seed to seed."""
    rng = np.random.default_rng([seed, *strategy.encode()])
    errors = np.sort(rng.uniform(0.226, 0.41, NUM_NETWORKS))
    errors[0], errors[-1] = rng.uniform(0.224, 0.232), 0.41
    seconds = best_seconds(errors) * (1.0 + (slowness - 1.0) * rng.uniform(0.8, 1.2)) * np.exp(noise * rng.random(14))
    archs = tuple({"depth": at, "width": 1 + seed} for at in range(NUM_NETWORKS))
    return Chosen(
        strategy=strategy,
        seed=seed,
        archs=archs,
        losses_F2=np.column_stack([errors, seconds]),
        num_unknown=unknown,
    )


def why_of(strategy: str, slowness: float, *, intensity: float | None = None, seeds: int = 10) -> Why:
    memory = min(0.42 * slowness, 0.9)
    overhead = 0.05
    launch = 0.12
    return Why(
        strategy=strategy,
        bound_shares={
            "compute": 1.0 - memory - launch - overhead,
            "memory": memory,
            "launch": launch,
            "overhead": overhead,
        },
        intensity=around(intensity or 24.0 / slowness, seeds),
        macs=around(3.1e8 / slowness, seeds),
        traffic_bytes=around(2.6e7, seeds),
        num_kernels=around(71.0, seeds),
        depthwise_time=around(0.24 * slowness, seeds),
        depthwise_macs=around(0.06, seeds),
        num_networks=14 * seeds,
    )


def around(value: float, seeds: int) -> Estimate:
    half = 0.01 * value if seeds > 1 else float("nan")
    return Estimate(value=value, low=value - half, high=value + half)


def sweep_of(pays_from: float | None = 15.0) -> Sweep:
    factors = [2.0**power for power in range(4, -5, -1)]
    points = tuple(
        SweepPoint(
            factor=factor,
            ridge_point=20.0 / factor,
            latency_ratio=1.0 - 0.16 * float(1.0 / (1.0 + (factor / 1.0))),
            memory_share=float(1.0 / (1.0 + factor)),
        )
        for factor in factors
    )
    return Sweep(
        points=points, own=points[4], gain=0.05, pays_from=pays_from, text="chosen from the whole space, exactly"
    )


def made_up(
    strategies: Sequence[str] = ("flops_only", "memory_aware"),
    num_seeds: int = 10,
    *,
    slowness: Mapping[str, float] = SLOWNESS,
    noise: float = 0.02,
    with_limits: bool = True,
    with_sweep: bool = True,
    with_whys: bool = True,
    intensity: Mapping[str, float] | None = None,
    title: str = "mobile_gpu",
    judged: str = "top-1",
    unknown: int = 0,
    is_measured: bool = False,
    yardstick_text: str = "latency predicted for mobile_gpu (TVM with OpenCL, float16)",
    ridge_point: float = 40.4,
    chosen: Mapping[str, tuple[Chosen, ...]] | None = None,
) -> Comparison:
    best = best_front()
    seeds = tuple(range(num_seeds))
    if chosen is None:
        chosen = {
            name: tuple(chosen_of(name, seed, slowness.get(name, 1.2), noise=noise, unknown=unknown) for seed in seeds)
            for name in strategies
        }
    reference_point = reference_point_of(best)
    standings = {
        name: standing(name, of_name, of_name, best, reference_point, [21.4 + each.seed for each in of_name])
        for name, of_name in chosen.items()
    }
    rng = np.random.default_rng(0)
    limits = {
        name: Chosen(
            strategy=name,
            seed=0,
            archs=best.archs,
            losses_F2=best.losses_B2
            * [1.0, 1.0 + 0.7 * (slowness.get(name, 1.2) - 1.0)]
            * np.exp(0.02 * rng.random((30, 2)) * [0.0, 1.0]),
        )
        for name in strategies
        if with_limits and len(OBJECTIVES.get(name, ())) == 2 and name != "random"
    }
    return Comparison(
        title=title,
        space_name="mobilenet_v3",
        device_name="mobile_gpu",
        judged=judged,
        baseline="flops_only",
        strategies=tuple(
            Strategy(
                name=name, objectives=OBJECTIVES.get(name, ("error", "peak_memory_bytes")), is_random=name == "random"
            )
            for name in strategies
        ),
        seeds=seeds,
        num_trials=400,
        sampler="nsga2",
        yardstick_text=yardstick_text,
        is_measured=is_measured,
        chosen=chosen,
        best=best,
        reference_point=reference_point,
        limits=limits,
        standings=standings,
        versus=versus_all(chosen, standings, "flops_only", best),
        whys={
            name: why_of(name, slowness.get(name, 1.2), intensity=(intensity or {}).get(name), seeds=num_seeds)
            for name in strategies
        }
        if with_whys
        else {},
        ridge_point=ridge_point,
        sweep=sweep_of() if with_sweep else None,
        num_seeds_needed=seeds_needed(len(strategies) - 1),
    )
