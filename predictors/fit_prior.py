"""Learn what devices reach under ncnn, `configs/prior/ncnn_cpu.jsonl` and `ncnn_vulkan.jsonl`: priors for `calibrate`.

    python -m predictors.fit_prior ../shared/data/ncnn_benchmark --kind cpu --write configs/prior/ncnn_cpu.jsonl

reads the benchmark of https://github.com/Tencent/ncnn (BSD-3-Clause): up to 35 networks on phones, boards and PCs.
`python -m predictors.validate ncnn` says how well a chip is predicted with what the others reach, and
`predictors.validation.ncnn.SHEETS` which peaks and bandwidths the rates are relative to.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from predictors.class_prior import ClassPrior, learn_class_prior, write_class_prior
from predictors.validation.ncnn import SHEETS, read_networks, read_runs


def fit_prior(folder: Path, kind: str) -> ClassPrior:
    """The prior of all runs of a kind, 'cpu' or 'vulkan'."""
    networks = read_networks(folder / "param")
    runs = [run for run in read_runs(folder / "ncnn_bench.csv") if run.device.name == kind]
    devices = [
        (run.device, [(networks[name][0], seconds, networks[name][1]) for name, seconds in run.seconds.items()])
        for run in runs
    ]
    source = (
        f"{len(runs)} runs of ncnn on {len({run.chip for run in runs})} chips, {kind}, of github.com/Tencent/ncnn "
        "(BSD-3-Clause), fitted by predictors.fit_prior"
    )
    return learn_class_prior(devices, source=source, runtime="ncnn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: learn, print, write. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m predictors.fit_prior", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of ncnn's benchmark: ncnn_bench.csv, param")
    parser.add_argument("--kind", choices=sorted(SHEETS), required=True, help="which runs")
    parser.add_argument("--write", type=Path, help="file that the prior is written to")
    options = parser.parse_args(arguments)
    try:
        prior = fit_prior(options.folder, options.kind)
        print(f"{prior.source}; {len(prior.terms)} rates, networks err by {prior.rates.noise:.3f} beside them")
        if options.write:
            write_class_prior(options.write, prior)
            print(f"wrote {options.write}, {options.write.stat().st_size / 1e3:.0f} kB")
    except (ValueError, OSError) as error:
        print(f"predictors.fit_prior: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
