"""The results file: a line of JSON for each finished search, appended at once, so that a killed run goes on."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from nas.benchmark.curves import Steps

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search: a sampler with a seed on a task.

    Attributes:
        budget: evaluations that were asked for; `num_evaluations` is less where the space had no more networks.
        reference_points: losses by name; the first is the one that decides.
        steps: by the same names, how the hypervolume grew as a share of the box below the reference point.
        best: by the same names, the same share of the true front; None where nobody knows it.
        front: losses of the non-dominated evaluations.
        search_s, sampler_s: seconds of the whole search, and those inside of the sampler alone.
        note: what else there is to know, e.g. of the predicted latencies.
    """

    task: str
    sampler: str
    seed: int
    budget: int
    num_evaluations: int
    reference_points: Mapping[str, tuple[float, ...]]
    steps: Mapping[str, Steps]
    best: Mapping[str, float] | None
    front: tuple[tuple[float, ...], ...]
    search_s: float
    sampler_s: float
    note: Mapping[str, float]


def append_run(path: Path, run: Run) -> None:
    """Add a line; several processes may do so at once. What one that was killed left of its last line is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"format": FORMAT, **asdict(run)})
    with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write(f"{line}\n".encode())


def read_runs(path: Path) -> list[Run]:
    """All searches of a file, none if there is no file; of one that is there twice, the one with the larger budget.

    A torn last line is dropped with a warning.

    Raises:
        ValueError: another line is malformed; it is named.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        warnings.warn(f"{path}: the last line is torn and was dropped: {lines.pop()[:60]!r}", stacklevel=2)
    found: dict[tuple[str, str, int], Run] = {}
    for number, line in enumerate(lines, start=1):
        run = _run(line, f"{path}:{number}")
        key = (run.task, run.sampler, run.seed)
        if key not in found or found[key].budget <= run.budget:
            found[key] = run
    return list(found.values())


def is_done(runs: Iterable[Run], task: str, sampler: str, seed: int, budget: int) -> bool:
    """Whether the search is there, with at least this budget."""
    return any((run.task, run.sampler, run.seed) == (task, sampler, seed) and run.budget >= budget for run in runs)


# ------------------------------------------------------------------------------------------------------------ private


def _run(line: str, where: str) -> Run:
    try:
        fields = json.loads(line)
        found = fields.pop("format")
        if found != FORMAT:
            raise ValueError(f"format {found}, this version reads {FORMAT}; choose another results file")
        return Run(
            **fields
            | {
                "reference_points": {name: tuple(point) for name, point in fields["reference_points"].items()},
                "steps": {name: _steps(pairs) for name, pairs in fields["steps"].items()},
                "front": tuple(tuple(point) for point in fields["front"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: no line of a benchmark: {error}") from None


def _steps(pairs: Sequence[Sequence[float]]) -> Steps:
    return tuple((int(number), float(value)) for number, value in pairs)
