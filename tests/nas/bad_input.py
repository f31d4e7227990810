"""What a command says to bad input."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


def check_refused(
    run: Callable[..., Any],
    overrides: Sequence[str],
    expected: Sequence[str],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence with these parts and exit code 2; nothing is left behind, and no secret told."""
    before = sorted(workplace.rglob("*"))
    with pytest.raises(SystemExit) as left:
        run(*overrides)
    written = capsys.readouterr().err
    assert left.value.code == 2
    assert written.startswith("error: ")
    assert written.count("\n") == 1
    assert [part for part in expected if part not in written] == []
    assert "secret" not in written
    assert sorted(workplace.rglob("*")) == before
