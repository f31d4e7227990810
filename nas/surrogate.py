"""Accuracies from a regression that was fitted on published subnets: no data, no weights, microseconds an arch.

The regression is additive in log(ceiling - accuracy): what a block's kernel and expansion and a stage's depth save of
the distance to a ceiling, and what pairs of these save together within a stage, and depths of different stages. Its
coefficients lie in `configs/surrogate/NAME.jsonl`, made by `python -m nas.fit_surrogate`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nas.data import ImageData
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe
from predictors.operators import nearest_names
from predictors.paths import shipped
from search_spaces.space import Space

FORMAT = 1
_SETTABLE = ("resolutions", "width_multiplier", "num_classes", "in_channels")
"""Fields that a command sets without choosing another space."""


class Term(NamedTuple):
    """What an arch has or lacks: `knob >= value`; of a block's knobs, only where the stage is so deep."""

    knob: str
    value: int
    stage: int
    block: int
    """0 for the depth of the stage."""

    @property
    def text(self) -> str:
        return f"{self.knob}>={self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FromSurrogate:
    """The regression of a name in configs/surrogate, or of a file."""

    needs_data: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    name: str = "ofa_mobilenet_v3_w1.0_r224"

    def check(self, space: Space, data: ImageData | None) -> None:
        load_surrogate(self.name).check(space)

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        return hashlib.sha256(_file(self.name).read_bytes()).hexdigest()

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        surrogate = load_surrogate(self.name)
        surrogate.check(space)
        return Scoring(
            accuracy=SurrogateAccuracy(surrogate=surrogate, space=space),
            judgement=Judgement(
                origin=f"estimates of {surrogate.what}, by a regression with a cross-validated error of "
                f"{100 * surrogate.rmse:.2f} points"
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateAccuracy:
    """What a search asks: one arch of a space that the surrogate knows, a fraction in 0..1."""

    surrogate: "Surrogate"
    space: Space

    def __post_init__(self) -> None:
        self.surrogate.check(self.space)

    def __call__(self, arch: Mapping[str, int]) -> float:
        return float(self.surrogate.estimates(terms_of(self.space, self.space.encode([arch])))[0][0])


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """accuracy = ceiling - exp(intercept + sum of coefficients of the terms and pairs of terms that an arch has).

    Attributes:
        what: it estimates, for a person.
        knows: fields of the spaces that it was fitted for, and their values.
        ceiling: fraction in 0..1 that no estimate reaches.
        single: coefficients by `Term.text`.
        pairs: coefficients by two of them.
        spread: a matrix S for (1, terms) t of an arch: (ceiling - accuracy) * |S t| is what the fit does not know.
        noise: standard deviation of what the model lacks and of the published accuracies themselves, a fraction.
        rmse: root mean squared error of cross-validation, a fraction.
    """

    name: str
    what: str
    knows: Mapping[str, Any]
    ceiling: float
    intercept: float
    single: Mapping[str, float]
    pairs: Mapping[tuple[str, str], float]
    spread: np.ndarray
    noise: float
    rmse: float

    def of_many(self, space: Space, archs: Sequence[Mapping[str, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Accuracies and their standard deviations, fractions in 0..1, both of shape (len(archs),).

        Raises:
            ValueError: a space that this surrogate does not know (see `check`), or an arch that is not of the space.
        """
        self.check(space)
        return self.estimates(terms_of(space, space.encode(archs)))

    def estimates(self, has_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracies and their standard deviations of archs that have these terms, as `terms_of` gives them."""
        logs_N = self.logs(has_NT)
        distance_N = np.exp(logs_N)
        unknown_N = np.linalg.norm(np.column_stack([np.ones(len(has_NT)), has_NT]) @ self.spread.T, axis=1)
        return np.clip(self.ceiling - distance_N, 0.0, 1.0), np.hypot(self.noise, distance_N * unknown_N)

    def logs(self, has_NT: np.ndarray) -> np.ndarray:
        """ln(ceiling - accuracy) of archs that have these terms: shape (N,)."""
        pairs_N = ((has_NT @ self._of_pairs) * has_NT).sum(axis=1)
        logs_N: np.ndarray = self.intercept + has_NT @ self._of_single + pairs_N
        return logs_N

    def check(self, space: Space) -> None:
        """Raise ValueError unless the space is of the networks that the surrogate was fitted on."""
        found = {field: _plain(space.identity.get(field, "none")) for field in self.knows}
        others = [field for field, known in self.knows.items() if found[field] != known]
        if not others:
            return
        settable = [field for field in others if field in _SETTABLE]
        named = others[0] if len(settable) < len(others) else settable[0]
        settings = [f'"space.{field}={json.dumps(self.knows[field])}"' for field in settable]
        if len(settable) < len(others):
            settings = ["space=mobilenet_v3", f'"space.resolutions={json.dumps(self.knows["resolutions"])}"']
        raise ValueError(
            f"surrogate {self.name!r} knows {self.what}; space {space.name!r} has {named} {found[named]!r} instead of "
            f"{self.knows[named]!r}; set {' '.join(settings)}"
        )

    @cached_property
    def _of_single(self) -> np.ndarray:
        return np.array(list(self.single.values()))

    @cached_property
    def _of_pairs(self) -> np.ndarray:
        place = {name: index for index, name in enumerate(self.single)}
        matrix = np.zeros((len(place), len(place)))
        for (one, other), coefficient in self.pairs.items():
            matrix[place[one], place[other]] = coefficient
        return matrix


def load_surrogate(name: str) -> Surrogate:
    """The surrogate of a name in configs/surrogate, or of a .jsonl file.

    Raises:
        ValueError: there is none, or the file is malformed; the line is named.
    """
    path = _file(name)
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
    try:
        header, *rows = lines
        if header["format"] != FORMAT:
            raise ValueError(f"{path} has format {header['format']}, this version reads {FORMAT}; fit it again")
        found = [(row["has"], row["coefficient"]) for row in rows]
        single = {names[0]: float(value) for names, value in found if len(names) == 1}
        spread = np.zeros((len(single) + 1, len(single) + 1))
        spread[np.triu_indices(len(spread))] = header["spread"]
        return Surrogate(
            name=header["name"],
            what=header["what"],
            knows=header["space"],
            ceiling=header["ceiling"],
            intercept=header["intercept"],
            single=single,
            pairs={(names[0], names[1]): float(value) for names, value in found if len(names) == 2},
            spread=spread,
            noise=header["noise"],
            rmse=header["cross_validation"]["rmse"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is no surrogate: {type(error).__name__} {error}; fit it again") from None


def terms(space: Space) -> tuple[Term, ...]:
    """What archs of a space of stages and blocks may have, in the order of the network."""
    found = []
    for knob, values in space.choices.items():
        if not knob.startswith("stage"):
            continue
        stage, _, rest = knob.removeprefix("stage").partition("_")
        block = int(rest.removeprefix("block").partition("_")[0]) if rest.startswith("block") else 0
        found += [Term(knob, value, int(stage), block) for value in values[1:]]
    return tuple(found)


def pairs(terms: Sequence[Term]) -> tuple[tuple[int, int], ...]:
    """Places of terms whose products count: those of a stage, and depths of different stages.

    Two values of one knob make no pair: the larger implies the smaller.
    """
    return tuple(
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(terms), 2)
        if one.knob != other.knob and (one.stage == other.stage or one.block == other.block == 0)
        if not _implied(one, other)
    )


def terms_of(space: Space, indices: np.ndarray) -> np.ndarray:
    """Which terms archs have: 0 or 1, float64 of shape (num_archs, num_terms).

    Args:
        indices: archs as `Space.encode` gives them, canonical or not.
    """
    knobs = list(space.choices)
    columns = {knob: np.array(space.choices[knob])[indices[:, place]] for place, knob in enumerate(knobs)}
    has = []
    for term in terms(space):
        column = columns[term.knob] >= term.value
        has.append(column & (columns[f"stage{term.stage}_depth"] >= term.block) if term.block else column)
    return np.stack(has, axis=1).astype(np.float64)


# ------------------------------------------------------------------------------------------------------------ private


def _implied(depth: Term, other: Term) -> bool:
    """Whether the second term, of a block, is only there where the first, of its stage's depth, is."""
    return depth.block == 0 and depth.stage == other.stage and 0 < depth.value <= other.block


def _file(name: str) -> Path:
    if name.endswith(".jsonl"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"surrogate file {name!r} does not exist")
        return path
    known = sorted(path.stem for path in shipped("surrogate").glob("*.jsonl"))
    if name not in known:
        raise ValueError(f"unknown surrogate {name!r}{nearest_names(name, known)}; there are {known}")
    return shipped("surrogate") / f"{name}.jsonl"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
