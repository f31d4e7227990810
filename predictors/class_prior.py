"""What devices of one sort reach, learned from whole networks that were measured on them: a prior for `calibrate`.

Rates are relative to the peaks and the bandwidth that the devices' files say, so the file of a device that uses a prior
should get its own in the same way (docs/bring_your_device.md).

A file holds fitted coefficients and no measurement, in JSON Lines: a header, then a line for each term.

    {"format": "ridgeline-class-prior", "version": 1, "source": "...", "noise": 0.1, "terms": 79}
    {"term": ["float32", "conv2d_1x1", "bytes"], "mean": 0.7, "factor": [0.4, ..., 0.2], "centres": [0.3, 1.4, ...]}

`mean` is that of ln(rate), `factor` a row of the lower triangular L of the covariance L L^T, which stays positive
definite when its numbers are rounded, `centres` ln(rate) in each centre. `predictors.fit_prior` made those that ship.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import get_args

import numpy as np

from predictors.class_terms import Resource, Term, all_terms, prior_from_device, term_amounts, term_matrix
from predictors.device import Device
from predictors.device_writing import file_to_write, write_whole
from predictors.fusion import Runtime
from predictors.graph import Graph
from predictors.json_lines import read_records
from predictors.latency import LatencyPredictor
from predictors.mapping import check_keys, check_type
from predictors.operators import nearest_names
from predictors.paths import shipped
from predictors.rates import Array, RatePrior, learn_prior
from predictors.unmeasured import UNKNOWN_EFFICIENCY

MIN_DEVICES = 3
MIN_NETWORKS = 3

NUM_CENTRES = 32
"""Sorts of devices that a prior tells apart. Median error of ncnn's CPUs: 13.5 % with each run as a sort of its own,
13.6 with 32, 14.8 with 16, 15.3 with none; of its 29 GPUs 24.0 with each, 20.5 with none."""

FORMAT, VERSION = "ridgeline-class-prior", 1

_HEADER = ("format", "version", "source", "noise", "terms")
_ROW = ("term", "mean", "factor", "centres")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ClassPrior:
    """What other devices reach: a prior of the rates of these terms. `source`: whose, and under which licence."""

    terms: tuple[Term, ...]
    rates: RatePrior
    source: str


def learn_class_prior(
    devices: Sequence[tuple[Device, Sequence[tuple[Graph, float] | tuple[Graph, float, str | None]]]],
    *,
    source: str,
    runtime: Runtime | str | None = None,
    num_centres: int = NUM_CENTRES,
) -> ClassPrior:
    """The mean and covariance of what devices reach, from whole networks that were measured on each.

    `predictors.rates.learn_prior` says how. With other threads or clocks a device counts as another one.

    Args:
        devices: each with its networks and seconds, and their dtype where it is not the device's, as for `calibrate`.
        source: whose measurements these are.
        runtime: whose fusion rules hold; None takes those of each device.
        num_centres: into how many sorts the devices are summed up; none where there are not twice as many devices.

    Raises:
        ValueError: fewer than three devices, fewer than three networks of one, a time that is not positive.
    """
    if len(devices) < MIN_DEVICES:
        raise ValueError(f"a prior is learned from at least {MIN_DEVICES} devices, found {len(devices)}")
    amounts_DN, seconds_DN = [], []
    for place, (device, measured) in enumerate(devices):
        where = f"device {place} {device.name!r}"
        if len(measured) < MIN_NETWORKS:
            raise ValueError(f"{where}: a prior needs at least {MIN_NETWORKS} networks of each, found {len(measured)}")
        if bad := [each[1] for each in measured if not (isfinite(each[1]) and each[1] > 0.0)]:
            raise ValueError(f"{where}: a time is positive and finite, found {bad[0]!r} s")
        predictor = LatencyPredictor(device, (), runtime=runtime)
        amounts_DN.append(
            [
                term_amounts(graph, device, predictor.runtime, (*dtype, None)[0] or device.dtype)
                for graph, _, *dtype in measured
            ]
        )
        seconds_DN.append(np.array([each[1] for each in measured], dtype=np.float64))
    return prior_of_amounts(devices[0][0], amounts_DN, seconds_DN, source=source, num_centres=num_centres)


def prior_of_amounts(
    device: Device,
    amounts_DN: Sequence[Sequence[Mapping[Term, float]]],
    seconds_DN: Sequence[Array],
    *,
    source: str,
    num_centres: int = NUM_CENTRES,
) -> ClassPrior:
    """`learn_class_prior` of networks whose `term_amounts` are known.

    Args:
        device: one whose file says from where learning starts, and what few devices leave open.
    """
    terms = all_terms(row for rows in amounts_DN for row in rows)
    start = prior_from_device(device, terms, UNKNOWN_EFFICIENCY, device.dtype)
    learned = learn_prior([term_matrix(rows, terms) for rows in amounts_DN], seconds_DN, start)
    assert learned.centres_DT is not None
    rates = replace(learned, centres_DT=_few(learned.centres_DT, learned.covariance_TT, num_centres))
    return ClassPrior(terms=tuple(terms), rates=rates, source=source)


def read_class_prior(name: str | Path) -> ClassPrior:
    """A prior that comes with the package, by its name, or one of your own, by the path of a .jsonl file.

    Raises:
        ValueError: no such prior, or a file that is none; it says the line.
    """
    path = _file(name)
    records = read_records(path)
    if not records or records[0].get("format") != FORMAT:
        raise ValueError(f"{path}:1: no file of a prior; its first line has format {FORMAT!r}")
    header, *rows = records
    check_keys(header, _HEADER, _HEADER, f"{path}:1")
    if header["version"] != VERSION:
        raise ValueError(f"{path}:1: version {header['version']!r}; this release reads version {VERSION}")
    if header["terms"] != len(rows):
        raise ValueError(f"{path}:1: the file has {len(rows)} terms, its header says {header['terms']!r}")
    terms, means = [], []
    centres: list[list[float]] = []
    factor_TT = np.zeros((len(rows), len(rows)))
    for index, row in enumerate(rows):
        where = f"{path}:{index + 2}"
        check_keys(row, _ROW, _ROW, where)
        terms.append(_term(row["term"], where))
        means += _numbers([row["mean"]], 1, where)
        factor_TT[index, : index + 1] = _numbers(row["factor"], index + 1, where)
        if factor_TT[index, index] <= 0.0:
            raise ValueError(f"{where}: the last number of 'factor' must be positive, found {factor_TT[index, index]}")
        num_centres = len(centres[0]) if centres else len(check_type(row["centres"], list, where))
        centres.append(_numbers(row["centres"], num_centres, where))
    centres_DT = np.array(centres).T
    [noise] = _numbers([header["noise"]], 1, f"{path}:1")
    rates = RatePrior(
        mean_T=np.array(means),
        covariance_TT=factor_TT @ factor_TT.T,
        noise=noise,
        centres_DT=centres_DT if centres_DT.size else None,
    )
    return ClassPrior(terms=tuple(terms), rates=rates, source=check_type(header["source"], str, f"{path}:1"))


def write_class_prior(path: str | Path, prior: ClassPrior) -> None:
    """Write a file that `read_class_prior` reads, whole or not at all; numbers with four digits.

    Raises:
        ValueError: the file's name does not end in .jsonl, or its folder does not exist.
    """
    path = file_to_write(path, ".jsonl", "prior")
    rates = prior.rates
    factor_TT = np.linalg.cholesky(rates.covariance_TT)
    centres_DT = np.empty((0, len(prior.terms))) if rates.centres_DT is None else rates.centres_DT
    header = (FORMAT, VERSION, prior.source, *_short([rates.noise]), len(prior.terms))
    lines = [dict(zip(_HEADER, header))]
    for index, term in enumerate(prior.terms):
        name = [term.dtype, term.kernel_class, term.resource]
        numbers = (*_short(rates.mean_T[[index]]), _short(factor_TT[index, : index + 1]), _short(centres_DT[:, index]))
        lines.append(dict(zip(_ROW, (name, *numbers))))
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


# ------------------------------------------------------------------------------------------------------------ private


def _few(centres_DT: Array, covariance_TT: Array, count: int) -> Array | None:
    """Means of so many groups of devices that are alike, in units of what devices differ by (Ward's clusters).

    Source: Ward, "Hierarchical grouping to optimize an objective function", JASA 58, 1963.
    """
    if not 0 < 2 * count <= len(centres_DT):
        return None
    from scipy.cluster.hierarchy import fclusterdata  # takes a while to import, and only learning needs it

    white_DT = np.linalg.solve(np.linalg.cholesky(covariance_TT), centres_DT.T).T
    group_D = fclusterdata(white_DT, count, criterion="maxclust", method="ward")
    return np.array([centres_DT[group_D == group].mean(axis=0) for group in np.unique(group_D)])


def _file(name: str | Path) -> Path:
    path = Path(name).expanduser()
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise ValueError(f"prior file {str(name)!r} does not exist")
        return path
    files = {file.stem: file for file in sorted(shipped("prior").glob("*.jsonl")) if _is_class_prior(file)}
    if str(name) not in files:
        raise ValueError(
            f"unknown prior {str(name)!r}{nearest_names(str(name), files)}; there are {list(files)}, and files of your "
            "own, which end in .jsonl"
        )
    return files[str(name)]


def _is_class_prior(file: Path) -> bool:
    with file.open(encoding="utf-8") as lines:
        return FORMAT in lines.readline()


def _term(value: object, where: str) -> Term:
    match value:
        case [str(dtype), str(kernel_class), ("compute" | "bytes" | "kernels") as resource]:
            return Term(dtype, kernel_class, resource)
    raise ValueError(f"{where}: a term is a dtype, a class and one of {list(get_args(Resource))}, found {value!r}")


def _numbers(values: object, count: int, where: str) -> list[float]:
    found = values if isinstance(values, list) else []
    if len(found) != count or not all(type(each) in (int, float) and isfinite(each) for each in found):
        raise ValueError(f"{where}: expected {count} finite number{'' if count == 1 else 's'}, found {values!r}")
    return [float(each) for each in found]


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
