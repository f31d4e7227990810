"""Measure this machine with PyTorch: peaks, bandwidths, launch cost and a table of kernels.

    python -m predictors.profile --device host

writes `host.yaml` and its table into `$RIDGELINE_HOME/hw`, from where `load_device("host")` and `hw=host` take them.
Killed, the same command goes on where it stopped: kernels that are in the table are not measured again.
"""

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from predictors.cost import kernel_cost
from predictors.device import Device, device_from_mapping
from predictors.fit_efficiency import Observation, class_model, fit, leave_one_network_out, with_spread
from predictors.fusion import Kernel, fuse, load_runtime
from predictors.graph import Graph
from predictors.lookup_table import LookupTable, TableHeader, append_measurement
from predictors.measure.clock import REFERENCE_KERNEL, Clock, keep_freed_memory, measure_kernels
from predictors.measure.ladder import ladder
from predictors.measure.peaks import WORKING_SETS_BYTES, copy_bandwidths, gemm_peak, launch_cost_s, memory_levels
from predictors.measure.torch_network import NoTorchKernelError, TorchNetwork
from predictors.paths import home

NAME, RUNTIME, DTYPE = "host", "torch_eager", "float32"

_BATCH = 5
_PEAK_STEPS = 3
_FOLDS = 4

_Carrier = tuple[Graph, Mapping[int, Kernel]]


def profile_host(
    folder: str | Path | None = None,
    *,
    graphs: Sequence[Graph] = (),
    threads: int = 1,
    budget_s: float = 60.0,
    progress: bool = True,
    seed: int = 0,
) -> Device:
    """Measure this machine and leave `host.yaml` and `host-torch_eager-float32.jsonl` in a folder.

    Networks that hold kernels which are not in the table yet run node by node, as many as the budget allows; every few
    networks their kernels go into the table, so that a killed profile goes on. `host.yaml` is written last, whole.

    Args:
        folder: where to write; None takes the folder of the user's devices, `$RIDGELINE_HOME/hw`.
        graphs: networks whose kernels are measured beside a ladder of the usual kernels at many sizes.
        threads: that PyTorch computes with, at least 1.
        budget_s: seconds for the table; the peaks take a few more.

    Raises:
        ValueError: the table in the folder was measured otherwise, e.g. with another version of torch; or none of the
            graphs can be run in PyTorch.
        OSError: the folder cannot be written.
    """
    if threads < 1 or not budget_s > 0:
        raise ValueError(f"threads and budget_s must be positive, found {threads} and {budget_s}")
    folder = Path(folder) if folder is not None else home() / "hw"
    table_path = folder / f"{NAME}-{RUNTIME}-{DTYPE}.jsonl"
    table = LookupTable.open(table_path, _header(threads))
    carriers = _carriers((*ladder(), *graphs), table.entries)
    keep_freed_memory()
    with _computing_with(threads), tqdm(total=_PEAK_STEPS + len(carriers), disable=not progress) as bar:
        clock = Clock(threads)
        mapping = _peaks(clock, _source(threads), bar)
        _fill_table(table_path, carriers, clock, np.random.default_rng(seed), budget_s, bar)
    mapping["tables"] = [table_path.name]
    mapping["efficiency"] = {DTYPE: _class_efficiencies(device_from_mapping(mapping, str(table_path)))}
    path = folder / f"{NAME}.yaml"
    device = device_from_mapping(mapping, str(path))
    _write(path, yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=120))
    return device


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m predictors.profile", description="Measure this machine.")
    parser.add_argument("--device", choices=[NAME], default=NAME, help="what to measure: this machine")
    parser.add_argument("--space", help="search space whose kernels are measured beside the usual ones")
    parser.add_argument("--resolution", type=int, help="of the space as deployed, in pixels; by default its own")
    parser.add_argument("--networks", type=int, default=30, help="random networks that stand for the space")
    parser.add_argument("--threads", type=int, default=1, help="that PyTorch computes with")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for the table of kernels")
    parser.add_argument("--out", type=Path, help="folder to write to; by default the one of your own devices")
    options = parser.parse_args(arguments)
    folder = options.out or home() / "hw"
    try:
        graphs = _graphs_of(options.space, options.resolution, options.networks) if options.space else ()
        device = profile_host(folder, graphs=graphs, threads=options.threads, budget_s=options.budget)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(_summary(device, folder))
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _graphs_of(space_name: str, resolution: int | None, num_networks: int) -> list[Graph]:
    """Random networks of a search space. Spaces stand on this floor, so only this command reaches up, by name."""
    space = resolve_name("search_spaces:load_space")(space_name).deployed(resolution=resolution)
    rng = np.random.default_rng(0)
    return [space.graph(space.sample(rng)) for _ in range(num_networks)]


def _summary(device: Device, folder: Path) -> str:
    num_kernels = sum(len(LookupTable.read(path).entries) for path in device.tables)
    levels = ", ".join(f"{level.bandwidth.value / 1e9:.3g} GB/s ({level.name})" for level in device.memory)
    return (
        f"{device.description}: {device.peak_flops() / 1e9:.3g} GFLOP/s in {device.dtype}; {levels}; "
        f"{device.launch_s * 1e6:.3g} us a kernel\n"
        f"wrote {folder / f'{device.name}.yaml'}\n"
        f"and   {device.tables[0]} with {num_kernels} measured kernels"
    )


def _header(threads: int) -> TableHeader:
    return TableHeader(
        device=NAME,
        runtime=RUNTIME,
        runtime_version=torch.__version__,
        dtype=DTYPE,
        threads=threads,
        date=date.today().isoformat(),
        reference_kernel=REFERENCE_KERNEL,
    )


def _source(threads: int) -> str:
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    return f"measured {date.today().isoformat()}, {_cpu_model()}, torch {torch.__version__}, {counted}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _computing_with(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def _quantity(value: float, unit: str, source: str) -> dict[str, Any]:
    return {"value": _rounded(value), "unit": unit, "source": source}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _peaks(clock: Clock, source: str, bar: tqdm) -> dict[str, Any]:
    """The device's mapping as far as it is known without a table."""
    bar.set_description("arithmetic peak")
    flops, size = gemm_peak(clock)
    bar.update()
    bar.set_description("bandwidths")
    bandwidths = copy_bandwidths(clock)
    bar.update()
    bar.set_description("launch cost")
    launch_s = launch_cost_s(clock)
    bar.update()
    memory = []
    for level in memory_levels(WORKING_SETS_BYTES, bandwidths):
        entry: dict[str, Any] = {"name": "dram"}
        if level.capacity_bytes is not None:
            entry = {
                "name": f"cache of {level.capacity_bytes // 1024} KiB",
                "capacity": _quantity(level.capacity_bytes / 1024, "KiB", f"{source}; bandwidth falls beyond it"),
            }
        memory.append({**entry, "bandwidth": _quantity(level.bytes_per_s / 1e9, "GB/s", f"{source}; torch copy_")})
    return {
        "name": NAME,
        "description": _cpu_model(),
        "runtime": RUNTIME,
        "dtype": DTYPE,
        "peak": {DTYPE: _quantity(flops / 1e9, "GFLOP/s", f"{source}; product of {size}x{size} matrices")},
        "memory": memory,
        "launch": _quantity(launch_s * 1e6, "us", f"{source}; chain of relu on 8 elements"),
    }


def _carriers(graphs: Iterable[Graph], known: Collection[Kernel]) -> list[_Carrier]:
    """Graphs that hold kernels which neither the table nor an earlier graph has, with the kernel of each node."""
    runtime = load_runtime(RUNTIME)
    seen = set(known)
    found: list[_Carrier] = []
    for graph in graphs:
        kernels = {node.nodes[0]: node.kernel for node in fuse(graph, runtime, DTYPE)}
        if not seen.issuperset(kernels.values()):
            found.append((graph, kernels))
            seen.update(kernels.values())
    return found


def _fill_table(
    path: Path, carriers: Sequence[_Carrier], clock: Clock, rng: np.random.Generator, budget_s: float, bar: tqdm
) -> None:
    """Measure a few networks at a time until all are done or the budget is spent, and say what was left out."""
    bar.set_description("kernels")
    end_s = time.monotonic() + budget_s
    known = set(LookupTable.read(path).entries)
    refused: list[str] = []
    for start in range(0, len(carriers), _BATCH):
        if start and time.monotonic() > end_s:
            warnings.warn(f"the budget of {budget_s:g} s left {len(carriers) - start} networks out", stacklevel=3)
            break
        networks = []
        for graph, kernels in carriers[start : start + _BATCH]:
            try:
                networks.append((TorchNetwork(graph), kernels))
            except NoTorchKernelError as error:
                refused.append(str(error))
        for kernel, measurement in measure_kernels(networks, clock, rng).items():
            if kernel not in known:
                append_measurement(path, kernel, measurement)
                known.add(kernel)
        bar.update(len(carriers[start : start + _BATCH]))
    if not known:
        raise ValueError(f"no network can be run in PyTorch: {refused[0]}")
    if refused:
        warnings.warn(f"{len(refused)} networks cannot be run in PyTorch and were left out: {refused[0]}", stacklevel=3)


def _class_efficiencies(device: Device) -> dict[str, dict[str, Any]]:
    """For kernels of a class that are far from all measured ones; the spread is that of kernels left out of the fit."""
    source = f"{device.launch.source if device.launch else ''}; fitted to {device.tables[0].name}"
    found = [
        Observation(kernel=kernel, cost=kernel_cost(kernel), latency_s=entry.latency_p50_s, network=str(index % _FOLDS))
        for index, (kernel, entry) in enumerate(LookupTable.read(device.tables[0]).entries.items())
    ]
    classes = with_spread(fit(found, device, source), leave_one_network_out(found, class_model(device)))
    return {
        name: {
            **{
                key: _rounded(getattr(each, key))
                for key in ("compute", "read", "write", "fixed_s", "spread")
                if getattr(each, key) > 0.0
            },
            "num_kernels": each.num_kernels,
            "source": each.source,
        }
        for name, each in classes.items()
    }


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
