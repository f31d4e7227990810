"""Finished searches for the tests of what is made of them: a real space and device, made-up accuracies."""

import warnings
from dataclasses import replace

import numpy as np

from nas.objectives import losses
from nas.pareto import hypervolume, pareto_front
from nas.result import Candidate, SearchResult
from predictors import LatencyPredictor, LookupTable, Measurement, Prediction, TableHeader, device_from_mapping, fuse
from predictors.efficiency import ExtrapolationWarning
from search_spaces import Space, load_space

OBJECTIVES = ("error", "latency_s", "traffic_bytes", "arithmetic_intensity")


def make_predictor(name: str = "board", space: Space | None = None) -> LatencyPredictor:
    """A device with two levels of memory whose table has the kernels of the smallest subnet but depthwise ones."""
    space = space or load_space("mobilenet_v3_tiny").deployed(64)

    def quantity(value: float, unit: str) -> dict[str, object]:
        return {"value": value, "unit": unit, "source": "made up <for> tests"}

    device = device_from_mapping(
        {
            "name": name, "description": "a board & its GPU", "runtime": "tvm_opencl", "dtype": "float16",
            "peak": {"float16": quantity(100, "GFLOP/s")},
            "memory": [
                {"name": "L2", "bandwidth": quantity(40, "GB/s"), "capacity": quantity(256, "KiB")},
                {"name": "dram", "bandwidth": quantity(10, "GB/s")},
            ],
            "launch": quantity(2, "us"),
            "network_overhead": quantity(100, "us"),
        }
    )  # fmt: skip
    plain = LatencyPredictor(device)
    rng = np.random.default_rng(0)
    entries = {}
    for node in fuse(space.graph(space.smallest()), plain.runtime, device.dtype):
        if node.kernel.kind != "depthwise_conv2d":
            latency_s = plain.estimate(node.kernel).latency_s * float(rng.uniform(1.5, 4.0))
            entries[node.kernel] = Measurement(latency_p50_s=latency_s, spread=0.03, num_runs=20)
    header = TableHeader(
        device=name, runtime="tvm_opencl", runtime_version="0", dtype="float16", threads=1, date="2026-01-01",
        reference_kernel=next(iter(entries)).text,
    )  # fmt: skip
    return LatencyPredictor(device, [LookupTable(header=header, entries=entries)])


def metrics_of(prediction: Prediction, error: float) -> dict[str, float]:
    names = ("latency_s", "traffic_bytes", "arithmetic_intensity", "peak_memory_bytes", "macs", "num_params")
    return {"error": error} | {name: float(getattr(prediction, name)) for name in names}


def make_result(
    num_candidates: int = 40,
    *,
    predictor: LatencyPredictor | None = None,
    constraints: dict[str, float] | None = None,
    space_name: str = "mobilenet_v3_tiny",
    resolution: int = 64,
    batch: int = 1,
    **overrides: object,
) -> SearchResult:
    """A search over a real space in which larger subnets err less, with some noise.

    The predictor's table has the kernels of the smallest subnet alone, so it warns of larger ones, as it should.
    """
    space = load_space(space_name, **overrides)
    deployed_space = space.deployed(resolution, batch)
    predictor = predictor or make_predictor(space=deployed_space)
    constraints = constraints or {}
    rng = np.random.default_rng(1)
    archs = [space.smallest(), space.largest()]
    while len(archs) < num_candidates:
        if (arch := space.sample(rng)) not in archs:
            archs.append(arch)
    candidates = []
    for number, arch in enumerate(archs[:num_candidates]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)
            prediction = predictor.predict(deployed_space.graph(arch))
        error = 0.25 - 0.02 * np.log2(prediction.macs / 1e6) + 0.005 * rng.standard_normal()
        metrics = metrics_of(prediction, float(error))
        feasible = all(metrics[name] <= bound for name, bound in constraints.items())
        candidates.append(
            Candidate(number=number, arch=arch, metrics=metrics, latency_std_s=prediction.std_s, feasible=feasible)
        )
    return finish(
        SearchResult(
            space=space, deployed_space=deployed_space, predictor=predictor, objectives=OBJECTIVES,
            constraints=constraints, candidates=tuple(candidates), front=(), reference_point=(), hypervolumes=(),
            accuracy_s=9.0, total_s=10.0,
        )
    )  # fmt: skip


def finish(result: SearchResult) -> SearchResult:
    """The same candidates with the front, the reference point and the hypervolumes that follow from them."""
    rows = losses([each.metrics for each in result.candidates], result.objectives)
    feasible = np.flatnonzero([each.feasible for each in result.candidates])
    front = feasible[pareto_front(rows[feasible])] if len(feasible) else feasible
    reference = rows.max(axis=0) + 1e-3 * np.abs(rows.max(axis=0))
    volumes = [
        hypervolume(rows[feasible[feasible <= index]], reference) if (feasible <= index).any() else 0.0
        for index in range(len(rows))
    ]
    return replace(
        result,
        front=tuple(sorted(map(int, front), key=lambda index: result.candidates[index].metrics["latency_s"])),
        reference_point=tuple(map(float, reference)),
        hypervolumes=tuple(map(float, volumes)),
    )
