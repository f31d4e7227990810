"""The claims about compute and memory traffic, each held against measurements: `python -m nas.studies claims`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

DATA = Path("../shared/data")
DOCS = Path("docs/studies")
MEASUREMENTS = ("claims_cpu.jsonl", "claims_gpu.jsonl")
"""In `data` of the documents' folder: what `python -m nas.studies.claims.measure` wrote."""


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command's options."""
    parser = subparsers.add_parser("claims", help="what is said of compute, traffic and latency, each claim tested")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the tables (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CLAIM", help="print these claims only, and write no document")
    parser.add_argument(
        "--measurements", type=Path, nargs="+", metavar="FILE",
        help="of nas.studies.claims.measure (default: those in data of the documents' folder)",
    )  # fmt: skip
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the document (default: %(default)s)")
    parser.set_defaults(run=_run)


# ------------------------------------------------------------------------------------------------------------ private


def _run(options: argparse.Namespace, console: "Console") -> None:
    from nas.studies.claims.study import run  # what measures on a bare machine imports this package, too

    run(options, console)
