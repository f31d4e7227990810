r"""Fit what is known of measured GPUs, `configs/prior/gpu.jsonl`, from which others are predicted.

    python -m predictors.fit_transfer ../shared/data/neusight_ops --write configs/prior/gpu.jsonl

reads the measurements of https://github.com/sitar-lab/NeuSight (MIT): operators under PyTorch on P4, T4, P100, V100 and
A100. `python -m predictors.validate neusight` says how well each of them is predicted from the others.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.cost import kernel_cost
from predictors.neusight import FILES, Measured, read_operators
from predictors.transfer import DTYPE, TILES, Prior, Shares, Work, gpu_of, kernel_s, together, work_of, write_prior

NUM_FITTED = 500
"""Kernels of a class that one GPU is fitted on; as many others give the scatter. More change no error by a point."""

SOURCE = (
    "fitted by predictors.fit_transfer on operators that github.com/sitar-lab/NeuSight (MIT) measured under PyTorch, "
    "float32; 500 kernels of each class and GPU"
)

_SOFT = 0.1
"""Errors of ln(seconds) beyond this count in proportion, no longer squared."""
_PULL = 0.1
"""Draws what the kernels leave open towards where the fit starts; from 0 to 1 it changes no error by a point."""
_NUM_STARTS = 4
_ITERATIONS = 40
_INSIDE = 1e-9
_STREAM = {"host_s": (3.4e-5, 1e-6, 5e-4), "start_s": (1.5e-5, 5e-6, 6e-5), "memory": (0.75, 0.05, 1.1)}
_PRODUCT = {
    **_STREAM,
    "ramp": (50.0, 0.1, 1000.0),
    "resident": (1.0, 0.02, 8.0),
    "reread": (0.5, 0.003, 50.0),
    "kept": (5.0, 0.1, 1e3),
    "compute": (0.8, 0.02, 1.0),
    "winograd": (0.7, 0.02, 1.0),
    "winograd_ramp": (20.0, 0.1, 1000.0),
    "transform": (0.5, 0.01, 1.1),
}
"""Start, least and greatest value of each number that is fitted."""

_PRODUCTS = ("linear", "matmul", "conv2d")
_OF_WINOGRAD = ("winograd", "winograd_ramp", "transform")


Fitted = Mapping[str, tuple[Shares, float]]
"""Of one GPU: by class its shares and its scatter."""


def fit_gpus(
    folder: Path, classes: Iterable[str] = tuple(FILES), limit: int = 2 * NUM_FITTED
) -> dict[str, dict[str, tuple[Shares, float]]]:
    """Each measured GPU by itself."""
    found: dict[str, dict[str, tuple[Shares, float]]] = {}
    for name in classes:
        for gpu, measured in read_operators(folder, name, limit).items():
            found.setdefault(gpu, {})[name] = fit_gpu(measured, name)
    return found


def prior_of(fitted: Mapping[str, Fitted]) -> Prior:
    """What these GPUs make together."""
    classes = list(next(iter(fitted.values())))
    return Prior(
        gpus=tuple(fitted),
        shares={name: together(members[name][0] for members in fitted.values()) for name in classes},
        scatter={name: _root_mean_square([members[name][1] for members in fitted.values()]) for name in classes},
        source=SOURCE,
    )


def fit_gpu(measured: Measured, name: str) -> tuple[Shares, float]:
    """How one GPU runs kernels of a class, and the scatter of ln(seconds) about it on kernels that were not fitted.

    Least squares of ln(measured / modelled), outliers counting less.
    """
    from scipy.optimize import least_squares  # takes a second to import, and only fits need it

    random = np.random.default_rng(0)
    order = random.permutation(len(measured.seconds_N))
    fitted, others = order[:NUM_FITTED], order[NUM_FITTED : 2 * NUM_FITTED]
    ranges = _ranges(name)
    start, least, greatest = (np.log([values[column] for _, values in ranges]) for column in range(3))
    greatest[:2] = np.log(measured.seconds_N[fitted].min())  # neither host nor start takes longer than any kernel
    gpu = gpu_of(measured.device, DTYPE)

    def errors(logs: NDArray[np.float64], works: Work, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        shares = _shares([key for key, _ in ranges], np.exp(logs))
        difference: NDArray[np.float64] = np.log(kernel_s(shares, works, gpu)) - np.log(measured.seconds_N[chosen])
        return difference

    works = works_of(measured, fitted)
    trials = random.uniform(-1.0, 1.0, (_NUM_STARTS, len(start))) * (np.arange(_NUM_STARTS) > 0)[:, None]
    found = min(
        (
            least_squares(
                lambda logs: np.concatenate([errors(logs, works, fitted), _PULL * (logs - start)]),
                np.clip(start + trial, least + _INSIDE, greatest - _INSIDE),
                bounds=(least, greatest),
                loss="soft_l1",
                f_scale=_SOFT,
                x_scale=0.3,
                max_nfev=_ITERATIONS,
            )
            for trial in trials
        ),
        key=lambda each: float(each.cost),
    )
    left_out = errors(found.x, works_of(measured, others), others)
    return _shares([key for key, _ in ranges], np.exp(found.x)), float(np.sqrt(np.mean(left_out**2)))


def works_of(measured: Measured, chosen: Iterable[int], *, column: bool = False) -> Work:
    """What the model looks at, of N chosen kernels: arrays of (N,), or of (N, 1) as a column, to meet several GPUs."""
    works = [work_of(kernel, kernel_cost(kernel)) for kernel in (measured.kernels[index] for index in chosen)]
    shape = (-1, 1) if column else -1
    return Work(
        **{
            item.name: np.array([getattr(work, item.name) for work in works], np.float64).reshape(shape)
            for item in fields(Work)
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: fit, print, write. Exit code 2 for the user's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m predictors.fit_transfer", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of NeuSight's measurements: device_configs.json, train_*.csv.gz")
    parser.add_argument("--write", type=Path, help="file that the numbers are written to, e.g. configs/prior/gpu.jsonl")
    options = parser.parse_args(arguments)
    try:
        prior = prior_of(fit_gpus(options.folder))
        for name, scatter in prior.scatter.items():
            print(f"{name:12} {len(prior.gpus)} GPUs, scatter of ln(seconds) of each about its own fit {scatter:.2f}")
        if options.write:
            write_prior(options.write, prior)
            print(f"wrote {options.write}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _ranges(name: str) -> list[tuple[str, tuple[float, float, float]]]:
    """Names and ranges of the numbers that a class has; one compute share for each tile."""
    if name not in _PRODUCTS:
        return list(_STREAM.items())
    ranges = {key: value for key, value in _PRODUCT.items() if name == "conv2d" or key not in _OF_WINOGRAD}
    return [(key, value) for key, value in ranges.items() for _ in range(len(TILES) if key == "compute" else 1)]


def _shares(names: Sequence[str], values: NDArray[np.float64]) -> Shares:
    numbers = {name: float(value) for name, value in zip(names, values) if name != "compute"}
    return Shares(compute=tuple(float(value) for name, value in zip(names, values) if name == "compute"), **numbers)


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


if __name__ == "__main__":
    sys.exit(main())
