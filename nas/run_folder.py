"""The folder that a search has left, read again: its config, its space, its front and the subnets that it chose."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.files import locked
from predictors.mapping import read_yaml
from search_spaces.loading import space_from_mapping
from search_spaces.space import Arch, Space

CONTENTS = ("config.yaml", "pareto.csv", "candidates.csv", "report.html", "subnets/")
"""What a finished run has."""

_NEEDED = ("hw", "space", "accuracy", "deploy", "seed")
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A search that has ended.

    Attributes:
        config: as it was composed, plain data.
        deployed_space: whose graphs were costed.
    """

    folder: Path
    config: Mapping[str, Any]
    space: Space
    deployed_space: Space


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontNetwork:
    """A network of the front. `latency_s` is what the search predicted."""

    number: int
    arch: Arch
    latency_s: float

    @property
    def name(self) -> str:
        """Of its files and in tables: 'network_0012'."""
        return f"network_{self.number:04d}"


def read_run(folder: str | Path | None) -> Run:
    """A run by its folder.

    Raises:
        ValueError: there is no run, or it was left by another version; what a run has is listed.
    """
    if folder is None:
        raise ValueError(f"no run was given; add run=FOLDER, of a search that has ended{_nearby()}")
    folder = Path(folder).expanduser()
    path = folder / "config.yaml"
    if not path.is_file():
        found = "has no config.yaml" if folder.is_dir() else "does not exist"
        raise ValueError(f"{str(folder)!r} is no run: it {found}; a run has {', '.join(CONTENTS)}{_nearby()}")
    config = read_yaml(path)
    if missing := [key for key in _NEEDED if key not in config]:
        raise ValueError(f"{path} has no {missing[0]!r}: it is no search's, or another version's; search again")
    try:
        space = space_from_mapping(config["space"])
        deployed_space = space.deployed(config["deploy"]["resolution"], config["deploy"]["batch"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not give a space that this version knows ({error}); search again") from None
    return Run(folder=folder, config=config, space=space, deployed_space=deployed_space)


def front_of(run: Run) -> list[FrontNetwork]:
    """The front by increasing latency.

    Raises:
        ValueError: `pareto.csv` is missing, torn or empty, or has an arch that the space has not.
    """
    path = run.folder / "pareto.csv"
    if not path.is_file():
        raise ValueError(f"{run.folder} has no pareto.csv: its search has not ended; the same command goes on with it")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if missing := [name for name in ("number", "latency_ms", *run.space.choices) if name not in columns]:
            raise ValueError(f"{path} has no column {missing[0]!r}: it is torn, or of another space; search again")
        front = []
        for row in reader:
            where = f"{path}:{reader.line_num}"
            try:
                number, latency_s = int(row["number"]), 1e-3 * float(row["latency_ms"])
                arch = {knob: int(row[knob]) for knob in run.space.choices}
            except (TypeError, ValueError):
                raise ValueError(f"{where}: a number is missing or none; the file is torn") from None
            front.append(FrontNetwork(number=number, arch=_checked(run.space, arch, where), latency_s=latency_s))
    if not front:
        raise ValueError(f"{path} has no networks: none met the constraints")
    return front


def chosen_of(run: Run, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """What `arch.json` says of the subnets that the report chose, by the names of their folders.

    Args:
        names: some of them; None takes all.

    Raises:
        ValueError: there are none, one is unknown (those that exist are listed), or a file is torn or of another space.
    """
    known = {path.parent.name: path for path in sorted(run.folder.glob("subnets/*/arch.json"))}
    if not known:
        raise ValueError(f"{run.folder} has no subnets/NAME/arch.json: the same search, run again, writes them")
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"{run.folder} has no subnet {unknown[0]!r}; it has {list(known)}")
    return {name: _description(run, known[name]) for name in names or known}


def locked_run(run: Run) -> AbstractContextManager[None]:
    """Keep other processes out of a run, as a search does.

    Raises:
        ValueError: another process works on it.
    """
    return locked(run.folder, f"another process works in {run.folder}; wait for it")


# ------------------------------------------------------------------------------------------------------------ private


def _description(run: Run, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        arch, shape = found["arch"], [int(size) for size in found["input_shape"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or of another version ({type(error).__name__}: {error}); "
            "the same search, run again, writes it anew"
        ) from None
    if len(shape) != 4:
        raise ValueError(f"{path}: input_shape is batch, channels, height, width, found {shape}")
    return {**found, "arch": _checked(run.space, arch, str(path)), "input_shape": shape}


def _checked(space: Space, arch: Mapping[str, int], where: str) -> Arch:
    try:
        return space.canonical(arch)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _nearby() -> str:
    """Runs below `outputs`, as the end of a sentence."""
    found = sorted(str(path.parent) for path in Path("outputs").glob("*/*/config.yaml"))
    more = f" and {len(found) - _SHOWN} others" if len(found) > _SHOWN else ""
    return f"; there are {found[:_SHOWN]}{more}" if found else ""
