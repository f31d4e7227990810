"""How layers are connected, as features of archs: exact and free like costs, and they rank errors where costs do not.

Two cells of the same layers cost nearly the same side by side and one behind the other, and are not as accurate. What
tells them apart adds up over the sections of a network: layers with weights on its longest and its shortest path,
windows on a path, and the logarithm of the number of paths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from nas.samplers.canonical import Indices
from predictors.graph import Graph
from predictors.operators import Normalization
from predictors.sections import Position, Section
from search_spaces.space import Space

Array = NDArray[np.float64]

NAMES = ("longest_path", "shortest_path", "windows_on_a_path", "num_paths")
"""Layers with weights (no norms) on the longest and the shortest path; the most layers with a window larger than a
pixel on one path; paths from input to output. Each plus one."""

_MAX_ROWS = 1 << 16
_PIXEL = (1, 1)
_NO_PATH = (-inf, inf, -inf, -inf)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class PathFeatures:
    """Features of the archs of a space by `NAMES`, those that are not the same for all; none where a space does not say
    how its networks are cut into sections. `path_features` makes it.

    Attributes:
        tables: for each place in the networks the columns of the knobs that decide it, their numbers of values, and
            (R, len(NAMES)) summands.
        varying: columns that are not the same for all.
    """

    tables: tuple[tuple[tuple[int, ...], tuple[int, ...], Array], ...]
    varying: tuple[int, ...]

    def __call__(self, indices_NK: Indices) -> dict[str, Array]:
        """Arrays of shape (N,), at least 1, by name."""
        if not self.varying:
            return {}
        sums_NF = np.zeros((len(indices_NK), len(NAMES)))
        for columns, sizes, rows_RF in self.tables:
            places_N = np.ravel_multi_index(tuple(indices_NK[:, columns].T), sizes) if columns else 0
            sums_NF += rows_RF[places_N]
        sums_NF[:, -1] = np.exp(sums_NF[:, -1])
        found_NF = 1.0 + np.where(np.isfinite(sums_NF), sums_NF, 0.0)
        return {NAMES[feature]: found_NF[:, feature] for feature in self.varying}


def path_features(space: Space) -> PathFeatures:
    """What the sections of a space's networks say of paths; of a space that is also there `live`, those of that one."""
    positions: tuple[Position, ...] = tuple(getattr(getattr(space, "live", space), "positions", ()))
    choices = space.choices
    if any(prod(len(choices[knob]) for knob in each.knobs) > _MAX_ROWS for each in positions):
        positions = ()
    tables, known = [], dict[Section, tuple[float, ...]]()
    for position in dict.fromkeys(positions):
        summands = positions.count(position) * _summands(position, choices, known)
        places = tuple(list(choices).index(knob) for knob in position.knobs)
        tables.append((places, tuple(len(choices[knob]) for knob in position.knobs), summands))
    varying = [at for at in range(len(NAMES)) if any((each[2][:, at] != each[2][0, at]).any() for each in tables)]
    return PathFeatures(tables=tuple(tables), varying=tuple(varying))


def paths_of(graph: Graph) -> tuple[float, float, float, float]:
    """Longest and shortest path in layers, most windows on a path, and the logarithm of the number of paths.

    From the first node of a graph to its output. Where constants alone lead there they are -inf, inf, -inf and -inf.
    """
    found = [(0.0, 0.0, 0.0, 0.0)]
    for node in graph.nodes[1:]:
        operator = node.operator
        if not node.inputs:
            found.append(_NO_PATH)
            continue
        is_layer = operator.num_params > 0 and not isinstance(operator, Normalization)
        has_window = max(getattr(operator, "kernel", _PIXEL)) > 1
        longest, shortest, windows, logs = zip(*[found[each] for each in node.inputs])
        found.append(
            (
                is_layer + max(longest),
                is_layer + min(shortest),
                has_window + max(windows),
                logs[0] if len(logs) == 1 else float(np.logaddexp.reduce(logs)),
            )
        )
    (output,) = graph.outputs
    return found[output]


# ------------------------------------------------------------------------------------------------------------ private


def _summands(
    position: Position, choices: Mapping[str, tuple[int, ...]], known: dict[Section, tuple[float, ...]]
) -> Array:
    found = []
    for values in product(*[choices[knob] for knob in position.knobs]):
        section = position.section(dict(zip(position.knobs, values)))
        if section is not None and section not in known:
            known[section] = paths_of(section.graph)
        found.append(known[section] if section else (0.0,) * len(NAMES))
    return np.array(found)
