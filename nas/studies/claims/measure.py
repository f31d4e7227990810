"""Measure the experiments of the claims on this machine.

    python -m nas.studies.claims.measure --device cpu --out claims_cpu.jsonl      one thread, under five minutes
    python -m nas.studies.claims.measure --device cuda --out claims_gpu.jsonl     under two minutes

On a CPU every case is visited in turn with the others of its experiment, beside a reference (predictors.measure.clock);
on a GPU all cases of an experiment run in one queue, again and again, and the GPU's own time is read. PyTorch does
both; ONNX Runtime and OpenVINO are measured on a CPU where they are installed. `python -m nas.studies claims` reads the
file.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from nas.studies.claims import experiments
from nas.studies.claims.experiments import ACCUMULATE, COPY, NUM_LAYERS, Case
from nas.studies.claims.records import DEVICE, WALL, Machine, Measurements, Record, summary, write_measurements
from nas.studies.claims.runs import Called, Launchable, eager_on_gpu, mixed_chain, passes, product
from predictors.cost import kernel_cost
from predictors.fusion import fuse, load_runtime
from predictors.graph import GraphBuilder
from predictors.measure.backend import Backend, MissingRuntimeError, NoKernelError, open_backend
from predictors.measure.clock import Clock, keep_freed_memory
from predictors.measure.peaks import arithmetic_peaks, bandwidths
from predictors.measure.rounds import Effort, Runnable, visit_all

ALL = (
    "padding", "equal_macs", "common", "depth", "bandwidth", "low_precision", "precision_change", "fusion",
    "peaks", "fusion_compiled",
)  # fmt: skip
"""In the order in which they are measured: what compiles comes last, since it may run out of time."""

_VISITS = {"cpu": 5, "cuda": 15}
_BUDGET_S = {"cpu": 280.0, "cuda": 90.0}
_COMPILED = ("conv", "conv_bn_relu", "conv_relu_bn", "conv_relu", "conv_add_relu", "relu", "bn", "add")
_WARM_UPS = 3
_WALL_RUNS = 40
_PEAK_BYTES = {"cpu": (2**20, 2**24, 2**27), "cuda": (2**24, 2**30)}
_SIZES = {"cpu": (32, 128, 248), "cuda": (32, 128, 256)}
"""Of the maps whose operators are held against the bandwidth. Beyond 32 MiB of memory, which two of the largest on a
CPU just about are, glibc gives back what is freed, and the kernel would be measured clearing pages."""
_CHAINS: dict[str, tuple[tuple[int, ...], int]] = {"cpu": ((1,), 4), "cuda": ((1, 2), 1)}
"""Strides and layers of convolutions whose windows are compared."""
_CPU_RUNTIMES = ("onnxruntime", "openvino", "torch_eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A case under a runtime. `make` builds it; `rules`: of the runtime's file that says what it fuses."""

    case: Case
    runtime: str
    dtype: str
    rules: str
    make: Callable[[], Runnable]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        measure(options.device, options.out, only=options.only, budget_s=options.budget, visits=options.visits)
    except (ValueError, OSError) as error:
        print(f"nas.studies.claims.measure: {error}", file=sys.stderr)
        return 2
    return 0


def measure(
    processor: str,
    path: Path,
    *,
    only: Sequence[str] = ALL,
    budget_s: float | None = None,
    visits: int | None = None,
) -> Measurements:
    """Measure experiments one after the other; the file is written anew after each of them.

    Args:
        processor: "cpu", on one thread, or "cuda".
        only: names out of `ALL`.
        budget_s: nothing further is built after so many seconds; what is left out is printed.
        visits: of each case.

    Raises:
        ValueError: no such experiment or processor.
    """
    if unknown := [name for name in only if name not in ALL]:
        raise ValueError(f"unknown experiments {unknown}; those that are measured are {list(ALL)}")
    if processor == "cuda" and not torch.cuda.is_available():
        raise ValueError("asked for a GPU, but this PyTorch finds none with CUDA; --device cpu measures the processor")
    torch.set_num_threads(1)
    keep_freed_memory()
    begin_s = time.monotonic()
    visits = visits or _VISITS[processor]
    bench = _bench(processor, visits, begin_s + (budget_s or _BUDGET_S[processor]))
    machine = _machine(processor, visits)
    found: list[Record] = []
    for name in (each for each in ALL if each in only):
        if name == "peaks":
            machine = _with_peaks(machine, bench)
        else:
            found += bench.records(name, list(_jobs(name, processor)))
        write_measurements(path, Measurements(machine=machine, records=tuple(found)))
        print(f"{name}: {len(found)} cases so far, {time.monotonic() - begin_s:.0f} s", flush=True)
    return Measurements(machine=machine, records=tuple(found))


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nas.studies.claims.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True, help="what is measured")
    parser.add_argument("--out", type=Path, required=True, help="file of the measurements")
    parser.add_argument("--only", nargs="+", default=list(ALL), help=f"experiments, out of {', '.join(ALL)}")
    parser.add_argument("--budget", type=float, help="seconds after which nothing further is begun (280; a GPU: 90)")
    parser.add_argument("--visits", type=int, help="of each case (5; a GPU: 15)")
    return parser


# What is run: a job for each case, runtime and dtype.


def _jobs(experiment: str, processor: str) -> Iterator[Job]:
    return _cpu_jobs(experiment) if processor == "cpu" else _gpu_jobs(experiment)


def _cases(experiment: str, processor: str) -> list[Case]:
    """Of one image on a CPU and of 32 on a GPU, which would otherwise stand idle; chains also as a user waits for them,
    of one image."""
    batch = 1 if processor == "cpu" else 32
    if experiment == "padding":
        return list(experiments.padding(batch))
    if experiment == "equal_macs":
        return list(experiments.equal_macs(batch))
    if experiment == "common":
        return list(experiments.common(batch, *_CHAINS[processor]))
    if experiment == "depth":
        return [case for each in {1, batch} for case in experiments.depth(each)]
    if experiment == "bandwidth":
        return list(experiments.bandwidth(batch, _SIZES[processor]))
    if experiment == "fusion":
        return list(experiments.fusion(batch))
    if experiment == "fusion_compiled":
        return [case for case in experiments.fusion(batch, (3,)) if case.name in _COMPILED]
    chains = list(experiments.low_precision(batch))
    if experiment == "low_precision":
        return chains
    return [
        replace(case, experiment=experiment)
        for case in chains
        if "depthwise" not in case.family and "add" not in case.family
    ]


def _cpu_jobs(experiment: str) -> Iterator[Job]:
    runtimes = {
        "fusion_compiled": ("torch_compile",), "bandwidth": ("onnxruntime", "torch_eager"),
        "low_precision": ("onnxruntime", "torch_eager"), "precision_change": (),
    }.get(experiment, _CPU_RUNTIMES)  # fmt: skip
    backends = _backends(runtimes)
    cases = _cases(experiment, "cpu")
    for case in cases:
        for name, backend in backends.items():
            yield Job(case=case, runtime=name, dtype="float32", rules=name, make=partial(_network, backend, case))
        if experiment in ("low_precision", "precision_change"):
            yield from _precisions_on_cpu(case)
    if experiment == "bandwidth":
        yield from _passes(cases, "cpu")


def _gpu_jobs(experiment: str) -> Iterator[Job]:
    cases = _cases(experiment, "cuda")
    if experiment == "fusion_compiled":
        backend = open_backend("torch_compile", dtype="float16", processor="cuda")
        for case in cases:
            yield Job(
                case=case, runtime="torch_compile", dtype="float16", rules=backend.name,
                make=partial(_network, backend, case),
            )  # fmt: skip
        return
    dtypes = {
        "low_precision": ("float32", "tf32", "float16", "bfloat16"), "depth": ("float16",), "fusion": ("float16",),
        "precision_change": (),
    }.get(experiment, ("float32", "float16"))  # fmt: skip
    for case in cases:
        for dtype in dtypes:
            yield Job(
                case=case, runtime="torch_eager", dtype=dtype, rules="torch_eager",
                make=partial(eager_on_gpu, case.graph, dtype),
            )  # fmt: skip
        if experiment == "precision_change":
            for low in ("float16", "bfloat16"):
                yield from _mixed(case, "torch_eager", low, "cuda")
    if experiment == "low_precision":
        yield from _products()
    if experiment == "bandwidth":
        yield from _passes(cases, "cuda")


def _backends(names: Sequence[str]) -> dict[str, Backend]:
    """Those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = open_backend(name)
        except MissingRuntimeError as error:
            print(f"left out: {error}")
    return found


def _network(backend: Backend, case: Case) -> Runnable:
    return backend.network(case.graph)


def _precisions_on_cpu(case: Case) -> Iterator[Job]:
    """The same chain in int8 under ONNX Runtime and in bfloat16 under PyTorch."""
    try:
        from nas.studies.claims.quantised import QuantisedAddition, QuantisedChain
    except ImportError as error:
        print(f"left out: int8 needs {error.name}")
        return

    def job(name: str, dtype: str, in_int8: Sequence[bool], *, through_floats: bool = False) -> Job:
        return Job(
            case=replace(case, name=name), runtime="onnxruntime", dtype=dtype, rules="onnxruntime",
            make=partial(QuantisedChain, case.graph, in_int8, through_floats=through_floats),
        )  # fmt: skip

    if case.family.startswith("addition"):
        yield Job(
            case=case, runtime="onnxruntime", dtype="int8", rules="onnxruntime",
            make=partial(QuantisedAddition, case.graph.nodes[0].operator.output_shape),
        )  # fmt: skip
        return
    alternating = [index % 2 == 0 for index in range(NUM_LAYERS)]
    if case.experiment == "low_precision":
        yield job("uniform", "int8", [True] * NUM_LAYERS)
        yield job("through floats", "int8", [True] * NUM_LAYERS, through_floats=True)
    else:
        yield job("high", "int8", [False] * NUM_LAYERS)
        yield job("low", "int8", [True] * NUM_LAYERS)
        yield job("mixed", "int8", alternating)
        yield from _mixed(case, "torch_eager", "bfloat16", "cpu")


def _mixed(case: Case, runtime: str, low: str, processor: str) -> Iterator[Job]:
    """All layers in float32, all in `low`, and in turn; recorded under the low dtype."""
    for name, dtypes in {
        "high": ["float32"] * NUM_LAYERS,
        "low": [low] * NUM_LAYERS,
        "mixed": [low, "float32"] * (NUM_LAYERS // 2),
    }.items():
        yield Job(
            case=replace(case, name=name), runtime=runtime, dtype=low, rules=runtime,
            make=partial(mixed_chain, case.graph, dtypes, processor),
        )  # fmt: skip


def _products() -> Iterator[Job]:
    """Matrix products on a GPU, which PyTorch has in int8 too: of few rows, bound by weights' bytes, and of many."""
    for m, size in ((32, 8192), (8192, 4096)):
        builder = GraphBuilder()
        graph = builder.graph(builder.linear(builder.input((m, size)), size, bias=False))
        case = Case(
            experiment="low_precision", family=f"matrix product of {m} rows, {size} wide", name="uniform", graph=graph
        )
        for dtype in ("float32", "tf32", "float16", "bfloat16", "int8"):
            yield Job(
                case=case,
                runtime="torch_eager",
                dtype=dtype,
                rules="torch_eager",
                make=partial(product, m, size, size, dtype),
            )
        yield Job(
            case=replace(case, name="through floats"), runtime="torch_eager", dtype="int8", rules="torch_eager",
            make=partial(product, m, size, size, "int8", through_floats=True),
        )  # fmt: skip


def _passes(cases: Sequence[Case], processor: str) -> Iterator[Job]:
    """What memory gives at the sizes of the cases: plain passes over as many bytes."""
    for case in {case.family: case for case in cases}.values():
        num_bytes = case.facts["float32_bytes"]
        for name in (COPY, ACCUMULATE):
            builder = GraphBuilder()
            shape = (1, 64, 1, num_bytes // 4 // 64)
            x = builder.input(shape)
            graph = builder.graph(
                builder.elementwise("add", x, builder.input(shape))
                if name == ACCUMULATE
                else builder.activation(x, "relu")
            )  # of the same traffic
            moved = Case(experiment="bandwidth", family=case.family, name=name, graph=graph, facts=case.facts)
            yield Job(
                case=moved, runtime="passes", dtype="float32", rules="torch_eager",
                make=partial(_pass, num_bytes, processor, name),
            )  # fmt: skip


def _pass(num_bytes: int, processor: str, name: str) -> Called:
    return passes(num_bytes, processor)[name]


# How it is timed.


def _bench(processor: str, visits: int, end_s: float) -> "_CpuBench | _GpuBench":
    return _CpuBench(visits, end_s) if processor == "cpu" else _GpuBench(visits, end_s)


class _CpuBench:
    def __init__(self, visits: int, end_s: float) -> None:
        self.clock = Clock()
        self.end_s = end_s
        self.processor = "cpu"
        self._effort = Effort(precision=0.01, min_visits=visits, max_visits=visits)
        self._rng = np.random.default_rng(0)

    def records(self, experiment: str, jobs: Sequence[Job]) -> list[Record]:
        built = _built(experiment, jobs, self.end_s)
        found = visit_all([run for _, run in built], self.clock, self._rng, self._effort)
        return [
            _record(job, DEVICE, (each.levels() * self.clock.reference_s).tolist())
            for (job, _), each in zip(built, found)
        ]


class _GpuBench:
    def __init__(self, visits: int, end_s: float) -> None:
        from predictors.measure.gpu_queue import GpuQueue

        self.end_s = end_s
        self.processor = "cuda"
        self._visits = visits
        self._queue = GpuQueue()

    def records(self, experiment: str, jobs: Sequence[Job]) -> list[Record]:
        """All jobs in one queue, time after time; chains, whose many kernels would fill it, each in its own."""
        built = [(job, _launchable(run)) for job, run in _built(experiment, jobs, self.end_s)]
        groups = [[each] for each in built] if experiment == "depth" else [built]
        found = [record for group in groups if group for record in self._queued(group)]
        if experiment in ("depth", "equal_macs"):
            found += [_record(job, WALL, self._wall_s(run)) for job, run in built]
        return found

    def _queued(self, group: Sequence[tuple[Job, Launchable]]) -> list[Record]:
        # The first call of a stretch finds what the filler left, and is not counted.
        launches = [group[0][1].launch, *(run.launch for _, run in group)]
        hold_s = self._queue.hold_s(lambda: launches)
        seconds_VN = np.array([self._queue.seconds(lambda: launches, hold_s)[1:] for _ in range(self._visits)])
        return [_record(job, DEVICE, seconds_VN[:, index].tolist()) for index, (job, _) in enumerate(group)]

    def _wall_s(self, run: Launchable) -> list[float]:
        """Seconds that a caller waits, medians of a few calls."""
        times = []
        for _ in range(_WALL_RUNS):
            torch.cuda.synchronize()
            begin_s = time.perf_counter()
            run.run()
            times.append(time.perf_counter() - begin_s)
        return [float(np.median(part)) for part in np.array_split(times, self._visits)]


def _built(experiment: str, jobs: Sequence[Job], end_s: float) -> list[tuple[Job, Runnable]]:
    """The jobs that can be run, built and warmed up."""
    found: list[tuple[Job, Runnable]] = []
    for number, job in enumerate(jobs):
        if time.monotonic() > end_s:
            print(f"{experiment}: out of time, {len(jobs) - number} of {len(jobs)} cases are left out")
            break
        try:
            run = job.make()
            for _ in range(_WARM_UPS):
                run.run()
        except (NoKernelError, RuntimeError) as error:  # the latter of compilers that lack something
            print(f"{experiment}, {job.case.name}, {job.runtime}: left out, {str(error).splitlines()[0]}")
            continue
        found.append((job, run))
    return found


def _launchable(run: Runnable) -> Launchable:
    assert isinstance(run, Launchable), f"{run} cannot be issued without waiting for it"
    return run


def _record(job: Job, what: str, seconds: Sequence[float]) -> Record:
    case = job.case
    latency_p50_s, spread = summary(seconds)
    costs = [kernel_cost(each.kernel) for each in fuse(case.graph, load_runtime(job.rules), job.dtype)]
    return Record(
        experiment="fusion" if case.experiment == "fusion_compiled" else case.experiment,
        family=case.family,
        name=case.name,
        runtime=job.runtime,
        dtype=job.dtype,
        what=what,
        macs=case.graph.macs,
        traffic_bytes=sum(cost.read_bytes + cost.weight_bytes + cost.write_bytes for cost in costs),
        latency_p50_s=latency_p50_s,
        spread=spread,
        facts=case.facts,
    )


# Where it is run.


def _machine(processor: str, visits: int) -> Machine:
    names = ("torch", "numpy", *(("onnxruntime", "openvino") if processor == "cpu" else ("triton",)))
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        processor=processor,
        name=torch.cuda.get_device_name(0) if processor == "cuda" else _cpu_name(),
        threads=1,
        num_visits=visits,
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        versions={"python": platform.python_version(), **versions},
    )


def _cpu_name() -> str:
    """The model as Linux tells it, else the architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.machine()


def _with_peaks(machine: Machine, bench: "_CpuBench | _GpuBench") -> Machine:
    """Arithmetic and bandwidths of this machine, for ridge points."""
    processor = bench.processor
    clock = bench.clock if isinstance(bench, _CpuBench) else Clock(processor="cuda")
    sizes = _PEAK_BYTES[processor]
    peaks = arithmetic_peaks(clock, processor, rounds=2)
    rates = bandwidths(clock, sizes, processor, rounds=2)
    return replace(
        machine,
        peaks={name: float(f"{peak.flops_per_s:.4g}") for name, peak in peaks.items()},
        bandwidths={str(size): float(f"{rate.bytes_per_s:.4g}") for size, rate in zip(sizes, rates)},
    )


if __name__ == "__main__":
    sys.exit(main())
