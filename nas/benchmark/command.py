"""What commands share that print tables: a console, and mistakes as one sentence and an exit code."""

import sys
from collections.abc import Callable

import optuna
from rich.console import Console

_PASS_WIDTH = 180


def exit_code_of(command: str, run: Callable[[Console], None]) -> int:
    """Run it, and say on stderr what a person can mend: 2, or 130 after Ctrl-C; anything else keeps its traceback."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(width=None if sys.stdout.isatty() else _PASS_WIDTH)
    try:
        run(console)
    except (ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
