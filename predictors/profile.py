"""Measure this machine under a runtime: peaks, bandwidths, launch cost and a table of kernels.

    python -m predictors.profile --device host --runtime onnxruntime --space mobilenet_v3

writes `host.yaml` and its table into `$RIDGELINE_HOME/hw`, from where `load_device("host")` and `hw=host` take them.
Other runtimes that were measured before stay in the file: `hw=host runtime=openvino` takes one of them. Killed, the
same command goes on where it stopped; `--again` measures everything anew and says what has changed.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timezone
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from predictors.device import Device, device_from_mapping
from predictors.device_writing import write_whole
from predictors.fusion import Kernel, Runtime, load_runtime
from predictors.graph import Graph
from predictors.graph_file import read_graphs
from predictors.latency import LatencyPredictor, Prediction
from predictors.lookup_table import LookupTable, TableHeader
from predictors.mapping import read_yaml
from predictors.measure.backend import Backend, open_backend, queues
from predictors.measure.clock import REFERENCE_KERNELS, Clock, keep_freed_memory
from predictors.measure.device_file import (
    changes,
    class_efficiencies,
    dump,
    measured_source,
    processor_name,
    quantity,
)
from predictors.measure.find_fusion import FoundFusion, compare_rules, compare_with_steps, find_fusion
from predictors.measure.isolated import Bench
from predictors.measure.ladder import ladder
from predictors.measure.machine import host_seconds, launch_s, machine_numbers
from predictors.measure.options import add_runtime_options
from predictors.measure.picture import draw_roofline
from predictors.measure.plan import MakePlan, graphs_plan, kernels_plan, pieces_plan, space_plan
from predictors.measure.session import (
    Filled,
    Plan,
    Settings,
    fill_table,
    isolated_seconds,
    repeated_seconds,
    whole_network_seconds,
)
from predictors.named_networks import load_space, read_network
from predictors.network_inputs import parse_input
from predictors.paths import home, shipped

HOST = "host"

_SPACE_NETWORKS_CHECKED = 8
_NOTES_SHOWN = 5
_NETWORKS_ISSUED = 6
_KEPT = ("alignment", "energy_per_mac", "energy_per_byte")
"""Of a device's file: what a profile does not find out."""
_BUSY = 0.5
"""On a shared machine that was otherwise idle the reference was 35 % slower than at its best in the mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One whole network against the table, all in seconds. None of its own times went into the table.

    Attributes:
        isolated_s: sum of its kernels measured by themselves; None where that was not asked for.
    """

    measured_s: float
    prediction: Prediction
    isolated_s: float | None = None

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.prediction.latency_s / self.measured_s - 1.0


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a profile leaves: the device, where its files lie, and what there is to say about it."""

    device: Device
    path: Path
    table: Path
    filled: Filled
    checks: tuple[Check, ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def profile_machine(
    make_plan: MakePlan | None = None,
    *,
    name: str = HOST,
    folder: str | Path | None = None,
    runtime: str = "torch_eager",
    dtype: str = "float32",
    threads: int = 1,
    processor: str = "cpu",
    settings: Settings | None = None,
    again: bool = False,
    fusion: bool = False,
    isolated: bool = False,
) -> Profile:
    """Measure this machine and leave `NAME.yaml`, a table, a picture and the checked networks in a folder.

    Args:
        make_plan: what to measure, from `predictors.measure.plan`; None takes a ladder of the usual kernels.
        name: of the device; a shipped device's name is refused.
        folder: where to write; None takes the folder of the user's devices, `$RIDGELINE_HOME/hw`.
        runtime: one of `predictors.measure.backend.RUNTIMES`.
        dtype: that networks compute in.
        threads: that they compute with.
        processor: 'cpu' or 'cuda'.
        settings: precision, budget and the like.
        again: measure everything anew; the old table is kept beside the new one.
        fusion: find by measuring what the runtime fuses; the rules go into the device file and apply to it.
        isolated: measure the kernels of the checked networks by themselves as well, to compare.

    Raises:
        MissingRuntimeError: the runtime's package is not installed.
        ValueError: the table in the folder was measured otherwise, e.g. with another version of the runtime; or nothing
            of the plan can be run.
        OSError: the folder cannot be written.
    """
    settings = settings or Settings()
    folder = Path(folder) if folder is not None else home() / "hw"
    _check_name(name, folder)
    path = folder / f"{name}.yaml"
    before = read_yaml(path) if path.is_file() else {}
    notes: list[str] = []
    keep_freed_memory()
    with _threads_restored():
        backend = open_backend(runtime, threads=threads, dtype=dtype, processor=processor)
        runtime = backend.name
        table_path = folder / f"{name}-{runtime}-{dtype}.jsonl"
        torch.set_num_threads(threads)
        old_table = _put_aside(table_path) if again else None
        LookupTable.open(table_path, _header(name, backend, processor))
        clock = Clock(threads, processor, _reference_s(before))
        source = measured_source(f"{runtime} {backend.version}", threads)
        mapping = _machine(name, backend, clock, before)
        section = _launch_and_fusion(backend, clock, settings, before, notes, find=fusion)
        mapping = _with_section(mapping, before, runtime, section)
        predictor = LatencyPredictor(device_from_mapping(mapping, str(path)), dtype=dtype, runtime=runtime)
        plan = (make_plan or graphs_plan(ladder()))(backend, predictor)
        if queues(backend):
            section |= _host_numbers(plan, backend, predictor.runtime, f"{source}; issuing kernels of networks")
        bench = Bench(backend=backend, clock=clock, launch_s=predictor.device.launch_s)
        filled = fill_table(table_path, plan, bench, predictor.runtime, settings)
        table = LookupTable.read(table_path)
        if not table.entries:
            raise ValueError(
                f"nothing of the plan can be run in {runtime!r}: {next(iter(table.failures.values()), '')}"
            )
        known = before.get("runtimes", {}).get(runtime, {})  # of other dtypes
        section["tables"] = [*(each for each in known.get("tables", []) if each != table_path.name), table_path.name]
        classes = class_efficiencies(predictor.device, table, f"{source}; fitted to its table")
        section["efficiency"] = {**known.get("efficiency", {}), dtype: classes}
        mapping["reference"] = quantity(
            clock.reference_s * 1e6, "us", measured_source(REFERENCE_KERNELS[processor], threads)
        )
        mapping = _with_section(mapping, before, runtime, section)
        device = device_from_mapping(mapping, str(path))
        write_whole(path, dump(mapping))
        checks = _checks(plan.check, device, bench, settings, isolated=isolated)
    if clock.drift > _BUSY:
        notes.append(f"the machine was busy: its reference ran {clock.drift:.0%} slower than its best in the mean")
    if old_table is not None:
        notes += _kernel_changes(LookupTable.read(old_table), table)
    _write_checks(folder / f"{name}-{runtime}-{dtype}-checks.csv", checks)
    draw_roofline(folder / f"{name}-{runtime}-{dtype}.png", device, table)
    return Profile(
        device=device,
        path=path,
        table=table_path,
        filled=filled,
        checks=checks,
        changes=tuple(changes(before, mapping)),
        notes=tuple(notes),
    )


def profile_host(graphs: Sequence[Graph]) -> Device:
    """This machine under PyTorch, on the usual kernels and those of some graphs, within a minute or two."""
    plan = graphs_plan((*ladder(), *graphs))
    return profile_machine(plan, settings=Settings(budget_s=60.0, precision=0.03)).device


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        profile = profile_machine(
            _plan(options),
            name=options.device,
            folder=options.out,
            runtime=options.runtime,
            dtype=options.dtype,
            threads=options.threads,
            processor=options.processor,
            settings=Settings(
                precision=options.precision, budget_s=options.budget, seed=options.seed, progress=sys.stderr.isatty()
            ),
            again=options.again,
            fusion=options.find_fusion,
            isolated=options.isolated,
        )
    except (ValueError, OSError) as error:
        print(f"predictors.profile: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("predictors.profile: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(_summary(profile))
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictors.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default=HOST, help="name that the device gets (default: host)")
    add_runtime_options(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--space", help="kernels of a search space, a name in configs/space or a YAML file")
    what.add_argument(
        "--model", help="kernels of a model: a torch.export file (*.pt2), an ONNX file, or package.module:callable"
    )
    what.add_argument(
        "--graphs",
        type=Path,
        help="kernels of the networks in a file that predictors.measure_networks --write-graphs made",
    )
    what.add_argument("--kernels", type=Path, help="a text file with one kernel a line, each measured by itself")
    parser.add_argument("--input", help="shape that --model takes, where it does not say; default: 1,3,224,224")
    parser.add_argument("--resolution", type=int, help="of the space's largest input; default: that of the space")
    parser.add_argument("--batch", type=int, default=1, help="images at once in the networks of --space (default: 1)")
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="of the kernels of --space or --graphs, the most telling first"
    )
    parser.add_argument("--check", type=int, default=_SPACE_NETWORKS_CHECKED, help="networks to check the table on")
    parser.add_argument("--budget", type=float, default=1500.0, help="seconds for the table (default: 1500)")
    parser.add_argument("--precision", type=float, default=0.01, help="relative standard error of a network's time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="measure everything anew and say what has changed")
    parser.add_argument("--find-fusion", action="store_true", help="find out by measuring what the runtime fuses")
    parser.add_argument("--isolated", action="store_true", help="measure kernels by themselves as well, to compare")
    parser.add_argument("--out", type=Path, help="folder to write into; default: that of your devices")
    return parser


def _plan(options: argparse.Namespace) -> MakePlan | None:
    if options.space:
        space = load_space(options.space, options.resolution, options.batch)

        def draw(rng: np.random.Generator) -> Graph:
            graph: Graph = space.graph(space.sample(rng))
            return graph

        return space_plan(draw, fraction=options.fraction, num_check=options.check, seed=options.seed)
    if options.model:
        inputs = [parse_input(options.input)] if options.input else []
        return graphs_plan([read_network(options.model, inputs=inputs)])
    if options.graphs:
        graphs = list(read_graphs(options.graphs).values())
        return graphs_plan(graphs) if options.fraction == 1.0 else pieces_plan(graphs, fraction=options.fraction)
    return kernels_plan(options.kernels) if options.kernels else None


def _check_name(name: str, folder: Path) -> None:
    """Only a checkout's own `configs/hw` takes a shipped device's name: there its table is renewed."""
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"a device's name has letters, digits, _ and -, found {name!r}")
    is_shipped = name != HOST and (shipped("hw") / f"{name}.yaml").is_file()
    if is_shipped and folder.resolve() != shipped("hw").resolve():
        raise ValueError(f"device {name!r} is shipped with ridgeline; give yours another name")


def _header(name: str, backend: Backend, processor: str) -> TableHeader:
    return TableHeader(
        device=name,
        runtime=backend.name,
        runtime_version=backend.version,
        dtype=backend.dtype,
        threads=backend.threads,
        date=date.today().isoformat(),
        reference_kernel=REFERENCE_KERNELS[processor],
        options=backend.options,
    )


def _put_aside(path: Path) -> Path | None:
    """Keep an old table under the time at which a new one takes its place."""
    if not path.exists():
        return None
    kept = path.with_name(f"{path.stem}-until-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}.jsonl")
    path.rename(kept)
    return kept


@contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _reference_s(before: Mapping[str, Any]) -> float:
    return float(before["reference"]["value"]) * 1e-6 if "reference" in before else inf


def _machine(name: str, backend: Backend, clock: Clock, before: Mapping[str, Any]) -> dict[str, Any]:
    """The machine's own numbers; its description and peaks in other dtypes that were measured before stay."""
    numbers = machine_numbers(backend, clock)
    processor = processor_name() if clock.processor == "cpu" else torch.cuda.get_device_name()
    return {
        "name": name,
        "description": before.get("description", processor),
        "runtime": backend.name,
        "dtype": backend.dtype,
        "peak": {**before.get("peak", {}), **numbers.peak},
        "memory": numbers.memory,
        **numbers.processor,
        **{key: before[key] for key in _KEPT if key in before},
    }


def _with_section(
    mapping: Mapping[str, Any], before: Mapping[str, Any], runtime: str, section: Mapping[str, Any]
) -> dict[str, Any]:
    """The device file with this runtime's numbers beside those of the runtimes that were measured before."""
    return {**mapping, "runtimes": {**before.get("runtimes", {}), runtime: dict(section)}}


def _launch_and_fusion(
    backend: Backend, clock: Clock, settings: Settings, before: Mapping[str, Any], notes: list[str], *, find: bool
) -> dict[str, Any]:
    """The runtime's section of the device file as far as it is known without a table; `notes` grows."""
    source = measured_source(f"{backend.name} {backend.version}", backend.threads)
    section: dict[str, Any] = {"launch": quantity(launch_s(backend, clock, settings) * 1e6, "us", source)}
    if find:
        found = find_fusion(repeated_seconds(backend, clock), backend.dtype)
        section["fusion"] = found.rules
        notes += _fusion_notes(found, backend)
    elif "fusion" in (known := before.get("runtimes", {}).get(backend.name, {})):
        section["fusion"] = known["fusion"]
    return section


def _host_numbers(plan: Plan, backend: Backend, runtime: Runtime, source: str) -> dict[str, Any]:
    """What the host takes where kernels queue, as keys of the runtime's section."""
    graphs = (plan.networks or plan.check or ladder())[:_NETWORKS_ISSUED]
    found = host_seconds(graphs, backend, runtime)
    return {
        "host_launch": quantity(found.of_kernel * 1e6, "us", source),
        "host_launch_of": {name: quantity(each * 1e6, "us", source) for name, each in sorted(found.of_class.items())},
        "network_overhead": quantity(found.of_network * 1e6, "us", source),
    }


def _fusion_notes(found: FoundFusion, backend: Backend) -> list[str]:
    """Where the measured rules differ from the runtime's file, and from the graph that the runtime itself made."""
    notes = [
        f"{len(found.pairs)} chains of operators were tried for fusion; {len(found.notes)} stayed unsure, which counts "
        f"as not fused, or do not follow from the rules, {len(found.skipped)} cannot be run",
        *(f"  {note}" for note in (*found.notes[:_NOTES_SHOWN], *found.skipped[:_NOTES_SHOWN])),
    ]
    notes += compare_rules(found, load_runtime(backend.name)) or ["the measured rules are those of the runtime's file"]
    graph = ladder()[0]
    if (profile := backend.profile(graph)) is not None:
        profile.run()
        steps, _ = profile.finish()
        notes += compare_with_steps(found, graph, steps) or ["the measured rules are those of the runtime's own graph"]
    return notes


def _checks(
    graphs: Sequence[Graph], device: Device, bench: Bench, settings: Settings, *, isolated: bool
) -> tuple[Check, ...]:
    predictor = LatencyPredictor(device, dtype=bench.backend.dtype)
    predictions = [predictor.predict(graph) for graph in graphs]
    measured = whole_network_seconds(graphs, bench.backend, bench.clock, settings) if graphs else []
    sums: list[float | None] = [None] * len(graphs)
    if isolated:
        needed = {node.kernel for prediction in predictions for node in prediction.kernel_nodes}
        alone = isolated_seconds(needed, bench, settings)
        sums = [_sum_of(alone, prediction) for prediction in predictions]
    return tuple(
        Check(measured_s=seconds, prediction=prediction, isolated_s=alone_s)
        for seconds, prediction, alone_s in zip(measured, predictions, sums)
    )


def _sum_of(seconds: Mapping[Kernel, float], prediction: Prediction) -> float | None:
    kernels = [node.kernel for node in prediction.kernel_nodes]
    return sum(seconds[kernel] for kernel in kernels) if all(kernel in seconds for kernel in kernels) else None


def _kernel_changes(old: LookupTable, new: LookupTable) -> list[str]:
    """How far the kernels of two tables lie apart."""
    ratios = {
        kernel: new.entries[kernel].latency_p50_s / entry.latency_p50_s
        for kernel, entry in old.entries.items()
        if kernel in new.entries
    }
    if not ratios:
        return ["the old table and the new one have no kernel in common"]
    far = sorted(ratios, key=lambda kernel: abs(np.log(ratios[kernel])), reverse=True)[:3]
    return [
        f"{len(ratios)} kernels were measured before: median difference "
        f"{median(abs(ratio - 1.0) for ratio in ratios.values()):.1%}, as a whole {median(ratios.values()) - 1.0:+.1%}",
        *(f"  {ratios[kernel] - 1.0:+.0%}: {kernel.text}" for kernel in far),
    ]


def _write_checks(path: Path, checks: Sequence[Check]) -> None:
    if not checks:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["macs", "num_kernels", "measured_ms", "predicted_ms", "std_ms", "coverage", "isolated_sum_ms"])
    for check in checks:
        prediction = check.prediction
        writer.writerow([
            prediction.macs, len(prediction.kernel_nodes), f"{check.measured_s * 1e3:.5g}",
            f"{prediction.latency_s * 1e3:.5g}", f"{prediction.std_s * 1e3:.3g}", f"{prediction.coverage:.3f}",
            "" if check.isolated_s is None else f"{check.isolated_s * 1e3:.5g}",
        ])  # fmt: skip
    write_whole(path, text.getvalue())


def _summary(profile: Profile) -> str:
    device = profile.device
    table = LookupTable.read(profile.table)
    levels = ", ".join(f"{level.bandwidth.value / 1e9:.3g} GB/s ({level.name})" for level in device.memory)
    lines = [
        f"{device.description}, {device.runtime}: {device.peak_flops(table.header.dtype) / 1e9:.4g} GFLOP/s in "
        f"{table.header.dtype}; {levels}; {device.launch_s * 1e6:.3g} us a kernel",
        f"{len(table.entries)} kernels measured, {len(table.failures)} failed; "
        f"{profile.filled.num_repeated} visits were taken again",
        *(f"  failed: {reason}" for reason in sorted(set(table.failures.values()))[:5]),
        *(f"  run as one, although the rules say apart: {each}" for each in profile.filled.not_told_apart[:5]),
        *_check_lines(profile.checks),
        *([f"changed since the last profile: {len(profile.changes)}"] if profile.changes else []),
        *(f"  {each}" for each in profile.changes),
        *profile.notes,
        f"wrote {profile.path}",
        f"and   {profile.table}",
        f"      {profile.table.with_suffix('.png')}",
    ]
    return "\n".join(lines)


def _check_lines(checks: Sequence[Check]) -> list[str]:
    if not checks:
        return []
    errors = [abs(check.error) for check in checks]
    share = median(check.prediction.coverage for check in checks)
    lines = [
        f"{len(checks)} whole networks that were not profiled: error {np.mean(errors):.1%} in the mean, worst "
        f"{max(errors):.1%}; {share:.0%} of their time is measured, the rest is interpolated"
    ]
    alone = [check.isolated_s / check.measured_s - 1.0 for check in checks if check.isolated_s is not None]
    if alone:
        lines.append(f"  the sum of their kernels measured by themselves: {np.mean(alone):+.0%} in the mean")
    return lines


if __name__ == "__main__":
    sys.exit(main())
