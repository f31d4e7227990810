"""Finished searches as JSON Lines, each appended at once, so that a comparison that is killed goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas.compare.records import Outcome
from nas.files import one_at_a_time
from predictors.json_lines import append_records, read_records
from predictors.mapping import check_keys

FORMAT = 1

_KEYS = ("format", "asked", "strategy", "seed", "indices", "errors", "chosen", "seconds")


def append_outcome(path: Path, outcome: Outcome, asked: str) -> None:
    """Add a line; several processes may do so at once. What one that was killed left of its last line is cut off.

    Args:
        asked: digest of all that determines the search.
    """
    record = {
        "format": FORMAT,
        "asked": asked,
        "strategy": outcome.strategy,
        "seed": outcome.seed,
        "indices": outcome.indices_NK.tolist(),
        "errors": outcome.errors_N.tolist(),
        "chosen": list(outcome.chosen),
        "seconds": outcome.seconds,
    }
    with one_at_a_time(path.with_name(f".{path.name}.lock")):
        append_records(path, [record])


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Finished searches by what was asked, none if there is no file; of two of one question, the first.

    A torn last line is dropped with a warning.

    Raises:
        ValueError: another line is malformed; it is named.
    """
    found: dict[str, Outcome] = {}
    for number, record in enumerate(read_records(path) if path.exists() else [], start=1):
        asked, outcome = _outcome(record, f"{path}:{number}")
        found.setdefault(asked, outcome)
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _outcome(record: Mapping[str, Any], where: str) -> tuple[str, Outcome]:
    keys = check_keys(record, _KEYS, _KEYS, where)
    if keys["format"] != FORMAT:
        raise ValueError(f"{where}: format {keys['format']}, this version reads {FORMAT}; choose another run_dir")
    try:
        errors_N = np.array(keys["errors"], dtype=np.float64)
        return str(keys["asked"]), Outcome(
            strategy=str(keys["strategy"]),
            seed=int(keys["seed"]),
            indices_NK=np.array(keys["indices"], dtype=np.int64).reshape(len(errors_N), -1),
            errors_N=errors_N,
            chosen=tuple(int(each) for each in keys["chosen"]),
            seconds=float(keys["seconds"]),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: no finished search: {error}") from None
