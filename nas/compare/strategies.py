"""What searches may look at: groups of objectives, shipped or the user's own, and drawing at random."""

from collections.abc import Sequence
from pathlib import Path

from nas.compare.records import Strategy
from nas.objectives import metric_named, objectives_from_mapping
from predictors.mapping import read_yaml
from predictors.operators import nearest_names
from predictors.paths import shipped, user_folders

RANDOM = "random"
"""No file: networks are drawn instead of searched for, and error and latency choose among them."""


def strategies_from_names(names: Sequence[str]) -> tuple[Strategy, ...]:
    """Strategies by the names of files in `configs/objectives`, `./objectives` or `$RIDGELINE_HOME/objectives`.

    >>> strategies_from_names(["flops_only", "random"])[1].objectives
    ('error', 'latency_s')

    Raises:
        ValueError: an unknown or repeated name, a group of the user's that hides behind a shipped one, or one that
            does not look at the error.
    """
    if not names:
        raise ValueError(f"strategies: there are none; known are {known_strategies()}")
    if repeated := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise ValueError(f"strategies: {repeated[0]!r} stands there {list(names).count(repeated[0])} times")
    return tuple(_strategy(str(name)) for name in names)


def known_strategies() -> list[str]:
    """Names of all that there are."""
    folders = (*user_folders("objectives"), shipped("objectives"))
    return sorted({RANDOM, *(path.stem for folder in folders for path in folder.glob("*.yaml"))})


# ------------------------------------------------------------------------------------------------------------ private


def _strategy(name: str) -> Strategy:
    path = _file(name)
    if name == RANDOM:
        return Strategy(name=RANDOM, objectives=("error", "latency_s"), is_random=True)
    if path is None:
        known = known_strategies()
        raise ValueError(f"strategies: unknown {name!r}{nearest_names(name, known)}; there are {known}")
    try:
        objectives = objectives_from_mapping(read_yaml(path))
    except ValueError as error:
        raise ValueError(f"strategies: {path}: {error}") from None
    if "error" not in objectives:
        found = " and ".join(metric_named(each).title for each in objectives)
        raise ValueError(
            f"strategies: {name!r} looks at {found} alone; all are judged by error against latency, so each has to "
            f"have 'error' among its metrics ({path})"
        )
    return Strategy(name=name, objectives=objectives)


def _file(name: str) -> Path | None:
    """Of a group; the user's own may not have a name that is taken."""
    own = next((path for folder in user_folders("objectives") if (path := folder / f"{name}.yaml").is_file()), None)
    its = shipped("objectives") / f"{name}.yaml"
    if own is not None and (name == RANDOM or its.is_file()):
        whose = "drawing at random" if name == RANDOM else "a shipped group"
        raise ValueError(f"strategies: {own} has the name of {whose}; rename it, so that it is clear which is meant")
    return own or (its if its.is_file() else None)
