"""Fits a surrogate on published accuracies of subnets: `python -m nas.fit_surrogate FILE.csv... --output FILE.jsonl`.

The files are those of IntelLabs/DyNAS-T (`Sub-network`, `Top-1 Acc (%)`); the same subnets come in several of them,
and their lists give values to blocks that a subnet does not have, so archs are made canonical and repeated ones are one
row. No row gets into the file that is written, only coefficients.

The regression is ridge regression of log(ceiling - accuracy): each coefficient has a Gaussian prior, wide for single
terms and narrower for pairs, and an accuracy's error is the same all over in points, so rows are weighted by
(ceiling - accuracy)^2. Ceiling, ridge and the width for pairs are those of least error in cross-validation by arch.
"""

import argparse
import ast
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from nas.files import write_text
from nas.surrogate import FORMAT, pairs, terms, terms_of
from search_spaces.loading import load_space
from search_spaces.space import Arch, Space

CEILINGS = (0.79, 0.795, 0.80, 0.81)
RIDGES = (0.1, 0.3, 1.0)
PAIR_VARIANCES = (0.003, 0.01, 0.03)
DEPTH_PAIRS = 10.0
"""Depths of different stages have this much wider a prior than other pairs."""
INTERCEPT_VARIANCE = 30.0
NUM_FOLDS = 10
DIGITS = 6
KNOWN_FIELDS = (
    "class", "num_classes", "in_channels", "resolutions", "kernels", "expansions", "depths", "stage_widths",
    "stage_strides", "stage_se", "stage_activations", "stem_width", "head_width", "feature_width", "width_multiplier",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Distinct archs, their mean accuracies, how often each was measured, and in which files."""

    archs: tuple[Arch, ...]
    accuracies: np.ndarray
    counts: np.ndarray
    files: tuple[frozenset[str], ...]
    repeat_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    ceiling: float
    ridge: float
    pair_variance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Of all archs: an intercept, single terms and pairs; `variances` are the priors' of the columns."""

    x_NF: np.ndarray
    num_terms: int
    is_depth_pair: np.ndarray

    def variances(self, pair_variance: float) -> np.ndarray:
        of_pairs = pair_variance * np.where(self.is_depth_pair, DEPTH_PAIRS, 1.0)
        return np.concatenate([[INTERCEPT_VARIANCE], np.ones(self.num_terms), of_pairs])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, choose, fit, write, and print how well archs and files that were left out are estimated."""
    parser = argparse.ArgumentParser(prog="python -m nas.fit_surrogate", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="CSV files of DyNAS-T for OFA-MobileNetV3, width 1.0")
    parser.add_argument(
        "--output", type=Path, required=True, help="the .jsonl file to write; its name is the surrogate's"
    )
    parser.add_argument("--date", required=True, help="of the fit, as it shall stand in the file")
    asked = parser.parse_args(arguments)
    space = load_space("mobilenet_v3", resolutions=[224])
    try:
        text = fitted_text(space, asked.files, name=asked.output.stem, date=asked.date)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    write_text(asked.output, text)
    print(f"{asked.output} is written")


def fitted_text(space: Space, files: Sequence[Path], *, name: str, date: str) -> str:
    """The content of a surrogate's file."""
    published = read_published(space, files)
    features = features_of(space, published.archs)
    settings = chosen_settings(features, published)
    estimates = cross_validated(features, published, settings, seed=1)
    scores = _scores(estimates, published.accuracies)
    print(
        f"{len(published.archs)} archs, {settings}; repeated measurements differ by "
        f"{100 * published.repeat_std:.3f} points (std)"
    )
    print(f"{NUM_FOLDS}-fold by arch: {_shown(scores)}")
    for file in sorted({each for found in published.files for each in found}):
        left_out = np.array([file in found for found in published.files])
        estimate = _estimates(features, published, settings, ~left_out)[left_out]
        print(
            f"without {file}: {_shown(_scores(estimate, published.accuracies[left_out]))} on its {left_out.sum()} archs"
        )
    coefficients = _solved(features, published, settings, np.ones(len(published.archs), dtype=bool))
    noise, spread = _uncertainty(features, published, settings, estimates)
    names = [term.text for term in terms(space)]
    header = {
        "format": FORMAT,
        "name": name,
        "what": "ImageNet top-1 of subnets of Once-for-All's MobileNetV3, width 1.0, at 224 pixels",
        "source": "accuracies published by IntelLabs/DyNAS-T (https://github.com/IntelLabs/DyNAS-T), "
        + ", ".join(path.name for path in files),
        "licence": "Apache-2.0 of the accuracies; the coefficients are facts derived from them",
        "date": date,
        "fitted_with": f"python -m nas.fit_surrogate {' '.join(path.name for path in files)} --output {name}.jsonl "
        f"--date {date}",
        "formula": "accuracy = ceiling - exp(intercept + sum of the coefficients whose terms the arch has)",
        "space": {field: _plain(space.identity[field]) for field in KNOWN_FIELDS},
        "num_archs": len(published.archs),
        "cross_validation": {"folds": NUM_FOLDS, **{key: _rounded(value) for key, value in scores.items()}},
        "ceiling": settings.ceiling,
        "ridge": settings.ridge,
        "pair_variance": settings.pair_variance,
        "intercept": _rounded(coefficients[0]),
        "noise": _rounded(noise),
        "spread": [_rounded(each, 4) for each in spread[np.triu_indices(len(spread))]],
    }
    labels = [[each] for each in names] + [[names[i], names[j]] for i, j in pairs(terms(space))]
    rows = [{"has": label, "coefficient": _rounded(value)} for label, value in zip(labels, coefficients[1:])]
    return "".join(f"{json.dumps(each)}\n" for each in (header, *rows))


def read_published(space: Space, files: Sequence[Path]) -> Published:
    """Accuracies as fractions, one row for each canonical arch.

    Raises:
        ValueError: a file that cannot be read, lacks a column, or has a subnet of another space; the line is named.
    """
    measured: dict[tuple[int, ...], list[tuple[float, str]]] = {}
    archs: dict[tuple[int, ...], Arch] = {}
    for path in files:
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        for number, row in enumerate(rows, start=2):
            try:
                arch = space.canonical(_arch(ast.literal_eval(row["Sub-network"])))
                accuracy = float(row["Top-1 Acc (%)"]) / 100
            except (KeyError, ValueError, SyntaxError, TypeError, IndexError) as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            if not 0 < accuracy < min(CEILINGS):
                raise ValueError(
                    f"{path}:{number}: an accuracy of {100 * accuracy:g} % is not in 0..{100 * min(CEILINGS):g}"
                )
            key = tuple(arch.values())
            archs[key] = arch
            measured.setdefault(key, []).append((accuracy, path.name))
    if len(archs) < 2 * NUM_FOLDS:
        raise ValueError(f"{len(archs)} different archs are too few for a fit; {2 * NUM_FOLDS} are the least")
    repeats = [
        np.var([each for each, _ in found], ddof=1) for found in measured.values() if len({f for _, f in found}) > 1
    ]
    return Published(
        archs=tuple(archs.values()),
        accuracies=np.array([np.mean([each for each, _ in found]) for found in measured.values()]),
        counts=np.array([float(len(found)) for found in measured.values()]),
        files=tuple(frozenset(file for _, file in found) for found in measured.values()),
        repeat_std=float(np.sqrt(np.mean(repeats))) if repeats else 0.0,
    )


def features_of(space: Space, archs: Sequence[Arch]) -> Features:
    has_NT = terms_of(space, space.encode(archs))
    known = terms(space)
    places = pairs(known)
    products = [has_NT[:, i] * has_NT[:, j] for i, j in places]
    return Features(
        x_NF=np.column_stack([np.ones(len(has_NT)), has_NT, *products]),
        num_terms=len(known),
        is_depth_pair=np.array([known[i].stage != known[j].stage for i, j in places]),
    )


def chosen_settings(features: Features, published: Published) -> Settings:
    """Those of the least squared error in cross-validation."""
    tried = [
        Settings(ceiling=ceiling, ridge=ridge, pair_variance=variance)
        for ceiling, ridge, variance in product(CEILINGS, RIDGES, PAIR_VARIANCES)
    ]
    errors = [np.mean((cross_validated(features, published, each) - published.accuracies) ** 2) for each in tried]
    return tried[int(np.argmin(errors))]


def cross_validated(features: Features, published: Published, settings: Settings, seed: int = 0) -> np.ndarray:
    """Estimates of every arch by fits that never saw it, of shape (num_archs,)."""
    folds = np.random.default_rng(seed).permutation(len(published.archs)) % NUM_FOLDS
    estimates = np.empty(len(folds))
    for fold in range(NUM_FOLDS):
        estimates[folds == fold] = _estimates(features, published, settings, folds != fold)[folds == fold]
    return estimates


# ------------------------------------------------------------------------------------------------------------ private


def _arch(subnet: dict[str, Any]) -> Arch:
    """An arch of ours from `{'ks': [...], 'e': [...], 'd': [...], 'r': [224]}`, four blocks a stage."""
    if list(subnet["r"]) != [224] or subnet["wid"] is not None:
        raise ValueError(f"resolution {subnet['r']} and width {subnet['wid']}; expected [224] and None")
    arch: Arch = {}
    blocks = len(subnet["ks"]) // len(subnet["d"])
    for stage, depth in enumerate(subnet["d"]):
        arch[f"stage{stage + 1}_depth"] = depth
        for block in range(blocks):
            for name, key in (("kernel", "ks"), ("expansion", "e")):
                arch[f"stage{stage + 1}_block{block + 1}_{name}"] = subnet[key][stage * blocks + block]
    return arch


def _weights(published: Published, settings: Settings, rows: np.ndarray) -> np.ndarray:
    weights: np.ndarray = published.counts[rows] * (settings.ceiling - published.accuracies[rows]) ** 2
    normalised: np.ndarray = weights / weights.mean()
    return normalised


def _normal_matrix(features: Features, published: Published, settings: Settings, rows: np.ndarray) -> np.ndarray:
    x_NF = features.x_NF[rows]
    weighted = x_NF.T @ (x_NF * _weights(published, settings, rows)[:, None])
    matrix: np.ndarray = weighted + np.diag(settings.ridge / features.variances(settings.pair_variance))
    return matrix


def _solved(features: Features, published: Published, settings: Settings, rows: np.ndarray) -> np.ndarray:
    logs = np.log(settings.ceiling - published.accuracies[rows])
    right = features.x_NF[rows].T @ (_weights(published, settings, rows) * logs)
    solution: np.ndarray = np.linalg.solve(_normal_matrix(features, published, settings, rows), right)
    return solution


def _estimates(features: Features, published: Published, settings: Settings, rows: np.ndarray) -> np.ndarray:
    """Of all archs, by a fit on those of `rows`."""
    estimates: np.ndarray = settings.ceiling - np.exp(features.x_NF @ _solved(features, published, settings, rows))
    return estimates


def _uncertainty(
    features: Features, published: Published, settings: Settings, estimates: np.ndarray
) -> tuple[float, np.ndarray]:
    """Noise, and the triangular S of `Surrogate`: of a fit with single terms alone, whose matrix is small.

    Its scale is such that the errors of cross-validation are as large as these deviations say.
    """
    single = Features(
        x_NF=features.x_NF[:, : features.num_terms + 1],
        num_terms=features.num_terms,
        is_depth_pair=np.zeros(0, dtype=bool),
    )
    matrix = _normal_matrix(single, published, settings, np.ones(len(estimates), dtype=bool))
    root = np.linalg.cholesky(np.linalg.inv(matrix)).T
    unknown = (settings.ceiling - estimates) * np.linalg.norm(single.x_NF @ root.T, axis=1)
    squared = (estimates - published.accuracies) ** 2
    (noise_2, scale_2), *_ = np.linalg.lstsq(np.column_stack([np.ones(len(unknown)), unknown**2]), squared, rcond=None)
    floor = max(published.repeat_std**2, 0.25 * squared.mean())
    if scale_2 <= 0 or noise_2 < floor:
        noise_2 = max(noise_2, floor)
        scale_2 = max(0.0, (squared.mean() - noise_2) / (unknown**2).mean())
    return float(np.sqrt(noise_2)), np.sqrt(scale_2) * root


def _scores(estimates: np.ndarray, accuracies: np.ndarray) -> dict[str, float]:
    errors = estimates - accuracies
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "largest": float(np.abs(errors).max()),
        "bias": float(errors.mean()),
        "kendall": float(kendalltau(estimates, accuracies).statistic),
    }


def _shown(scores: dict[str, float]) -> str:
    rmse, largest, bias = (100 * scores[key] for key in ("rmse", "largest", "bias"))
    return f"RMSE {rmse:.3f}, largest error {largest:.3f}, bias {bias:+.3f} points, Kendall {scores['kendall']:.3f}"


def _rounded(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    main()
