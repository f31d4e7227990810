"""Measure whole networks on this machine, in several passes, to hold predictions against.

    python -m predictors.measure_networks --runtime ncnn --space mobilenet_v3 --timm resnet18 --out times
    python -m predictors.validate --measured times --hw host --calibrate 10

Killed, the same command goes on where it stopped. `--write-graphs FILE` writes the networks as text and measures
nothing; `--graphs FILE` takes them from there, so that every runtime is given the same ones.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from math import inf
from pathlib import Path

import numpy as np

from predictors.graph import Graph
from predictors.graph_file import read_graphs, write_graphs
from predictors.lookup_table import TableHeader
from predictors.mapping import read_yaml
from predictors.named_networks import load_space, timm_network
from predictors.network_times import NetworkTimes
from predictors.paths import home


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        networks = _networks(options)
        if options.write_graphs is not None:
            write_graphs(options.write_graphs, networks)
            print(f"wrote {len(networks)} networks to {options.write_graphs}")
            return 0
        if options.out is None:
            raise ValueError("--out FILE says where the times go")
        _measure(options, networks)
    except (ValueError, OSError) as error:
        print(f"predictors.measure_networks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("predictors.measure_networks: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    found = NetworkTimes.read(options.out)
    for name, reason in sorted(found.failures.items()):
        print(f"cannot be run: {name}: {reason}")
    print(f"{len(found.graphs)} networks in {len(found.passes)} passes{_repeatability(found)}: {options.out}")
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    from predictors.measure.networks import Repeats
    from predictors.measure.options import add_runtime_options

    parser = argparse.ArgumentParser(
        prog="python -m predictors.measure_networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--space", help="random networks of a search space, a name in configs/space or a YAML file")
    parser.add_argument("--num", type=int, default=40, help="how many of them (default: 40)")
    parser.add_argument("--resolution", type=int, help="of the space's largest input; default: that of the space")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice and order")
    parser.add_argument("--timm", default="", help="networks of timm, NAME[@RESOLUTION], with commas between them")
    parser.add_argument("--graphs", type=Path, help="networks of a file that --write-graphs wrote")
    parser.add_argument("--write-graphs", type=Path, help="write the networks to a file and measure nothing")
    add_runtime_options(parser)
    parser.add_argument("--device", default="host", help="name of the profiled device (default: host)")
    usual = Repeats()
    for name, what in (
        ("passes", "through all networks"),
        ("instances", "of each network in a pass"),
        ("visits", "to each instance, at least"),
    ):
        default = getattr(usual, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--precision", type=float, default=0.01, help="relative standard error of an instance's time")
    parser.add_argument(
        "--budget", type=float, default=1500.0, help="seconds for more visits than the least (default: 1500)"
    )
    parser.add_argument("--out", type=Path, help="file of the times")
    return parser


def _networks(options: argparse.Namespace) -> dict[str, Graph]:
    found: dict[str, Graph] = dict(read_graphs(options.graphs)) if options.graphs else {}
    if options.space:
        if options.num < 1:
            raise ValueError(f"--num must be at least 1, found {options.num}")
        space = load_space(options.space, options.resolution)
        rng = np.random.default_rng(options.seed)
        found |= {f"{space.name}_{index:02d}": space.graph(space.sample(rng)) for index in range(options.num)}
    found |= {name: timm_network(name) for name in options.timm.split(",") if name}
    if not found:
        raise ValueError(
            "no networks; name a space with --space, networks of timm with --timm, or a file with --graphs"
        )
    return found


def _measure(options: argparse.Namespace, networks: dict[str, Graph]) -> None:
    import torch

    from predictors.measure.backend import open_backend
    from predictors.measure.clock import REFERENCE_KERNELS, Clock, keep_freed_memory
    from predictors.measure.networks import Repeats, measure_networks
    from predictors.measure.session import Settings

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    repeats = Repeats(passes=options.passes, instances=options.instances, visits=options.visits)
    settings = Settings(
        precision=options.precision, budget_s=options.budget, seed=options.seed, progress=sys.stderr.isatty()
    )
    backend = open_backend(options.runtime, threads=options.threads, dtype=options.dtype, processor=options.processor)
    header = TableHeader(
        device=options.device,
        runtime=backend.name,
        runtime_version=backend.version,
        dtype=backend.dtype,
        threads=backend.threads,
        date=date.today().isoformat(),
        reference_kernel=REFERENCE_KERNELS[options.processor],
        options=backend.options,
    )
    NetworkTimes.open(options.out, header)
    clock = Clock(options.threads, options.processor, _best_reference_s(options.device))
    measure_networks(options.out, networks, backend, clock, settings, repeats)


def _best_reference_s(device: str) -> float:
    """What the device's profile found, so that its times and these are in the same seconds."""
    path = home() / "hw" / f"{device}.yaml"
    return float(read_yaml(path)["reference"]["value"]) * 1e-6 if path.is_file() else inf


def _repeatability(found: NetworkTimes) -> str:
    if len(found.passes) < 2:
        return ""
    odd_s, even_s = found.halves()
    apart = [abs(even_s[name] / odd_s[name] - 1.0) for name in odd_s if name in even_s]
    return f", whose even and odd ones differ by {np.mean(apart):.1%} in the mean" if apart else ""


if __name__ == "__main__":
    sys.exit(main())
