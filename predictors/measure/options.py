"""Options that the measuring commands share."""

import argparse

from predictors.measure.backend import RUNTIMES


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Under which runtime, and how it runs."""
    parser.add_argument("--runtime", default="torch_eager", choices=RUNTIMES, help="default: torch_eager")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor", default="cpu", choices=("cpu", "cuda"))
