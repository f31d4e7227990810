"""Where the time of a network goes on a device, kernel by kernel, and what to change.

    python -m predictors.explain timm:resnet18 --hw mobile_gpu
    python -m predictors.explain model.onnx --hw mobile_gpu,mobile_cpu,v100 --html report.html
    python -m predictors.explain my_networks:make --hw v100 --input 8,3,160,160 --dtype int8 --advise

MODEL is a file (.onnx, .pt2 of torch.export.save, .param of ncnn), package.module:callable that makes a torch module
without arguments, timm:NAME, or an arch of a search space. Files of --csv and --json hold SI units; - is the terminal.
"""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from predictors.device import load_device
from predictors.device_writing import write_whole
from predictors.explanation.explaining import Precision
from predictors.explanation.report import Report, make_report
from predictors.explanation.table import report_csv, report_json
from predictors.explanation.terminal import print_report
from predictors.named_networks import read_network
from predictors.network_inputs import parse_input
from predictors.operators import UnknownOperatorError

_WIDTH_OF_FILES = 160
_KERNELS_SHOWN = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        report = _report(options, shlex.join(["python", "-m", "predictors.explain", *arguments]))
        _write(report, options)
        if "-" not in (options.csv, options.json):
            width = _WIDTH_OF_FILES if not sys.stdout.isatty() and "COLUMNS" not in os.environ else None
            print_report(report, Console(width=width, highlight=False), None if options.all else options.top)
    except UnknownOperatorError as error:
        hint = "" if options.allow_unknown else "; --allow-unknown goes on and marks it in the report"
        print(f"predictors.explain: {error}{hint}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"predictors.explain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictors.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--hw", required=True, metavar="NAME,...", help="devices: names or YAML files")
    parser.add_argument("--runtime", help="whose fusion and numbers count; default: that of each device")
    parser.add_argument("--dtype", help="that the network computes in; default: what each device usually deploys")
    parser.add_argument(
        "--requantise", type=_truth, default=True, metavar="true|false",
        help="whether int8 kernels write int8, or floats (default: true)",
    )  # fmt: skip
    parser.add_argument(
        "--exceptions", default="", metavar="WHAT=DTYPE,...",
        help="kinds or module paths, with * for any text, that compute in another dtype, such as softmax=float32",
    )  # fmt: skip
    parser.add_argument(
        "--input", action="append", default=[], metavar="[NAME=]SHAPE[:DTYPE]",
        help="such as 1,3,224,224 or ids=1,128:int64, once for each input; default: the model's own, or 1,3,224,224",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, help="takes the place of the first axis of every input")
    parser.add_argument("--allow-unknown", action="store_true", help="keep operators without a formula, and mark them")
    parser.add_argument("--advise", action="store_true", help="say what to change, with what each change saves")
    parser.add_argument(
        "--top", type=_count, default=_KERNELS_SHOWN, help=f"kernels in the terminal (default: {_KERNELS_SHOWN})"
    )
    parser.add_argument("--all", action="store_true", help="all kernels in the terminal")
    parser.add_argument("--sort", choices=("time", "order"), default="time", help="by time, or as they are executed")
    parser.add_argument("--depth", type=_count, help="modules of a path that name a stage; default: by the paths")
    parser.add_argument("--html", type=Path, metavar="FILE", help="one page with all pictures and tables")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the pictures alone")
    parser.add_argument("--csv", metavar="FILE", help="one row a kernel and device")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    return parser


def _report(options: argparse.Namespace, command: str) -> Report:
    _check_folders(options)
    names = [name for name in options.hw.split(",") if name]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--hw takes one device or different ones, as in mobile_gpu,v100; found {options.hw!r}")
    devices = [load_device(name) for name in names]
    precision = Precision(
        dtype=options.dtype, exceptions=_exceptions(options.exceptions), requantise=options.requantise
    )
    for device in devices:
        device.peak_flops(precision.dtype)
    graph = read_network(
        options.model,
        inputs=[parse_input(text) for text in options.input],
        batch=options.batch,
        allow_unknown=options.allow_unknown,
    )
    return make_report(
        options.model, graph, devices, precision=precision, runtime=options.runtime, depth=options.depth,
        advice=options.advise, by_time=options.sort == "time", command=command,
    )  # fmt: skip


def _write(report: Report, options: argparse.Namespace) -> None:
    for target, text in ((options.csv, report_csv), (options.json, report_json)):
        if target == "-":
            sys.stdout.write(text(report))
        elif target:
            write_whole(Path(target), text(report))
    if options.html:
        from predictors.explanation.page import page

        write_whole(options.html, page(report))
    if options.png:
        from predictors.explanation.pictures import report_png

        write_whole(options.png, report_png(report))


def _check_folders(options: argparse.Namespace) -> None:
    """Before anything is computed."""
    for target in (options.html, options.png, options.csv, options.json):
        if target and not Path(target).parent.is_dir():
            raise ValueError(f"cannot write {str(target)!r}: there is no folder {str(Path(target).parent)!r}")


def _exceptions(text: str) -> dict[str, str]:
    found = {}
    for part in filter(None, text.split(",")):
        what, separator, dtype = part.partition("=")
        if not (what and separator and dtype):
            raise ValueError(f"--exceptions is written as softmax=float32,head.*=float16; found {part!r}")
        found[what] = dtype
    return found


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"it is true or false, found {text!r}")
    return text == "true"


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a number from 1, found {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
