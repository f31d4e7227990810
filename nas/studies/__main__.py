"""Does memory awareness pay? Studies, each one command that can be killed and goes on where it stopped.

    python -m nas.studies ofa            Once-for-All with the ImageNet surrogate, on predicted devices
    python -m nas.studies nasbench201    CIFAR-100 accuracies and measured latencies, from ../shared/data
    python -m nas.studies timm           published networks with measured latencies, from ../shared/data
    python -m nas.studies digits         a supernet that is trained here, its fronts exported and measured here
    python -m nas.studies claims         what is said of memory and latency, each claim tested

Each writes docs/studies/NAME.md, with tables as CSV and pictures in docs/studies/NAME; finished searches are kept in
outputs/studies/NAME.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial

from nas.benchmark.command import exit_code_of
from nas.studies import claims, digits, nasbench201, ofa, timm


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    options.command = shlex.join(["python", "-m", "nas.studies", *given])
    return exit_code_of("nas.studies", partial(options.run, options))


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nas.studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    studies = parser.add_subparsers(required=True, metavar="STUDY")
    for study in (ofa, nasbench201, timm, digits, claims):
        study.add_arguments(studies)
    return parser


if __name__ == "__main__":
    sys.exit(main())
