"""Hold advice against this machine: what each edit is predicted to save, and what it saves when both networks are run.

    python -m predictors.check_advice timm:mobilenetv2_100 --hw host --runtime onnxruntime
    python -m predictors.check_advice mine.onnx --hw host --runtime onnxruntime --rules windows,concatenation

The network and all edits run in turn, a few runs each, round after round; on one thread CPU time is read. In each round
the least time of each counts, since others can only add to it, against that of the network itself in the same round.
So a busy machine widens the deviations but does not favour one of them.
"""

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictors.advice import RULES, Advice, advise_with
from predictors.device import load_device
from predictors.graph import Graph
from predictors.latency import LatencyPredictor, Prediction
from predictors.measure.backend import Backend, NoKernelError, open_backend
from predictors.measure.clock import Clock, keep_freed_memory
from predictors.measure.options import add_runtime_options
from predictors.measure.session import Settings
from predictors.named_networks import read_network

_RUNS = 5
"""Of a network in a round, behind one that warms up.

On two cores with a load of 14, the ratio of the least times of two equal networks scattered by 3 % from round to round,
that of the medians in units of a reference by 20 % (2026-11-26)."""

_MEDIAN = 1.25
"""Standard error of a median over that of a mean, for normal scatter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAdvice:
    """Advice beside what its edit saves when it is run.

    Attributes:
        gain_s, gain_std_s, share, share_std: measured; None where the edit cannot be run.
        reason: why it cannot.
    """

    advice: Advice
    gain_s: float | None = None
    gain_std_s: float | None = None
    share: float | None = None
    share_std: float | None = None
    reason: str = ""

    @property
    def predicted_share_std(self) -> float:
        """Deviation of the predicted share."""
        return self.advice.gain_std_s * self.advice.share / self.advice.gain_s

    @property
    def distance(self) -> float | None:
        """Difference of predicted and measured share in units of both their deviations."""
        if self.share is None or self.share_std is None:
            return None
        return (self.advice.share - self.share) / hypot(self.share_std, self.predicted_share_std)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A network as predicted and as measured, and all that was advised for it."""

    prediction: Prediction
    measured_s: float
    measured_std_s: float
    advice: tuple[CheckedAdvice, ...]


def check_advice(
    graph: Graph,
    predictor: LatencyPredictor,
    backend: Backend,
    clock: Clock,
    settings: Settings,
    *,
    instances: int = 3,
    rounds: int = 10,
    rules: Sequence[str] = (),
) -> Checked:
    """Advise on a network and run it and all edits, interleaved.

    share = 1 - exp(mean over instances of the median over rounds of ln(edited / network)); its deviation is what the
    scatter over the rounds and that of the instances' medians allow, whichever is larger.

    Args:
        settings: its precision is the deviation of every share that rounds are added for, as long as its budget lasts.
        instances: of each network; where its memory happens to lie makes one up to 10 % slower than another.
        rounds: through all instances of all networks, at least.
        rules: names in `RULES`; none for all.

    Raises:
        NoKernelError: the runtime cannot run the network itself.
    """
    advice = [each for each in advise_with(predictor, graph) if not rules or each.rule in rules]
    reasons = [_obstacle(each.edited, graph, backend) for each in advice]
    runnable = [each for each, reason in zip(advice, reasons) if not reason]
    seconds_RIG = _run([graph, *(each.edited for each in runnable)], backend, clock, settings, instances, rounds)
    measured_s, measured_std_s = _seconds(seconds_RIG[:, :, 0])
    found = {
        id(each): _checked(each, seconds_RIG[:, :, 0], seconds_RIG[:, :, number], measured_s)
        for number, each in enumerate(runnable, start=1)
    }
    return Checked(
        prediction=predictor.predict(graph),
        measured_s=measured_s,
        measured_std_s=measured_std_s,
        advice=tuple(
            found.get(id(each)) or CheckedAdvice(advice=each, reason=reason) for each, reason in zip(advice, reasons)
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    import torch

    options = _parser().parse_args(arguments)
    try:
        rules = tuple(name for name in options.rules.split(",") if name)
        if unknown := sorted(set(rules) - set(RULES)):
            raise ValueError(f"unknown rule {unknown[0]!r}; there are {list(RULES)}")
        for name in ("rounds", "instances"):
            if getattr(options, name) < 1:
                raise ValueError(f"--{name} must be at least 1, found {getattr(options, name)}")
        graph = read_network(options.model)
        device = load_device(options.hw)
        predictor = LatencyPredictor(device, dtype=options.dtype, runtime=options.runtime)
        keep_freed_memory()
        torch.set_num_threads(options.threads)
        backend = open_backend(
            options.runtime, threads=options.threads, dtype=options.dtype, processor=options.processor
        )
        clock = Clock(options.threads, options.processor, device.reference.value if device.reference else inf)
        settings = Settings(precision=options.precision, budget_s=options.budget, seed=options.seed, progress=False)
        checked = check_advice(
            graph, predictor, backend, clock, settings,
            instances=options.instances, rounds=options.rounds, rules=rules,
        )  # fmt: skip
        if options.csv is not None:
            _write(options.csv, options.model, checked)
    except (ValueError, OSError) as error:
        print(f"predictors.check_advice: {error}", file=sys.stderr)
        return 2
    print(_report(options.model, checked))
    return 0


# ------------------------------------------------------------------------------------------------------------ private


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictors.check_advice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a network in one of the forms of predictors.named_networks")
    parser.add_argument("--hw", default="host", help="this machine, profiled under the runtime (default: host)")
    add_runtime_options(parser)
    parser.add_argument("--rules", default="", help="names of rules with commas between them; default: all")
    parser.add_argument("--instances", type=int, default=3, help="of each network (default: 3)")
    parser.add_argument("--rounds", type=int, default=10, help="through all networks, at least (default: 10)")
    parser.add_argument("--precision", type=float, default=0.003, help="deviation of the measured shares to reach")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds for more rounds than the least")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the networks in a round")
    parser.add_argument("--csv", type=Path, help="append one line for each advice to a file")
    return parser


def _obstacle(edited: Graph, graph: Graph, backend: Backend) -> str:
    """Why an edit is not run; empty where it can be."""
    if edited == graph:
        return "another way to run the same network"
    if any(node.dtype not in ("", backend.dtype) or node.write_dtype for node in edited.nodes):
        return f"other precisions than {backend.dtype}"
    try:
        backend.network(edited)
    except NoKernelError as error:
        return str(error)
    return ""


def _run(
    graphs: Sequence[Graph], backend: Backend, clock: Clock, settings: Settings, instances: int, rounds: int
) -> NDArray[np.float64]:
    """The least seconds of each graph in each round, (rounds, instances, graphs), with the reference at its best."""
    end_s = time.monotonic() + settings.budget_s
    rng = np.random.default_rng(settings.seed)
    networks = [[backend.network(graph) for graph in graphs] for _ in range(instances)]
    found: list[NDArray[np.float64]] = []
    reference_R: list[float] = []
    while len(found) < rounds or (time.monotonic() < end_s and _worst_std(np.array(found)) > settings.precision):
        seconds_IG = np.empty((instances, len(graphs)))
        reference_s = inf
        for instance, of_instance in enumerate(networks):
            for number in rng.permutation(len(graphs)):
                samples = clock.samples(of_instance[number].run, 1 + _RUNS)[1:]
                seconds_IG[instance, number] = min(sample.seconds for sample in samples)
                reference_s = min(reference_s, *(sample.reference_s for sample in samples))
        found.append(seconds_IG)
        reference_R.append(reference_s)
    slower_R = np.array(reference_R) / clock.reference_s
    return np.array(found) / slower_R[:, None, None]


def _worst_std(seconds_RIG: NDArray[np.float64]) -> float:
    base_RI, *edited_RI = np.moveaxis(seconds_RIG, 2, 0)
    return max((_share(base_RI, each_RI)[1] for each_RI in edited_RI), default=0.0)


def _share(base_RI: NDArray[np.float64], edited_RI: NDArray[np.float64]) -> tuple[float, float]:
    """What the edit saves of the network's time, and its deviation."""
    log_RI = np.log(edited_RI / base_RI)
    ratio = float(np.exp(np.median(log_RI, axis=0).mean()))
    return 1.0 - ratio, ratio * _std_of_medians(log_RI)


def _seconds(base_RI: NDArray[np.float64]) -> tuple[float, float]:
    log_RI = np.log(base_RI)
    seconds = float(np.exp(np.median(log_RI, axis=0).mean()))
    return seconds, seconds * _std_of_medians(log_RI)


def _std_of_medians(log_RI: NDArray[np.float64]) -> float:
    """Deviation of the mean over instances of the medians over rounds."""
    num_rounds, num_instances = log_RI.shape
    within = between = 0.0
    if num_rounds > 1:
        of_one_I = _MEDIAN * log_RI.std(axis=0, ddof=1) / sqrt(num_rounds)
        within = float(np.sqrt((of_one_I**2).sum())) / num_instances
    if num_instances > 1:
        between = float(np.median(log_RI, axis=0).std(ddof=1)) / sqrt(num_instances)
    return max(within, between)


def _checked(
    advice: Advice, base_RI: NDArray[np.float64], edited_RI: NDArray[np.float64], base_s: float
) -> CheckedAdvice:
    share, share_std = _share(base_RI, edited_RI)
    return CheckedAdvice(
        advice=advice, gain_s=share * base_s, gain_std_s=share_std * base_s, share=share, share_std=share_std
    )


def _report(name: str, checked: Checked) -> str:
    prediction = checked.prediction
    lines = [
        f"{name} on {prediction.device.name}, {prediction.device.runtime}, {prediction.dtype}: "
        f"predicted {prediction.latency_s * 1e3:.3f} +- {prediction.std_s * 1e3:.3f} ms, "
        f"measured {checked.measured_s * 1e3:.3f} +- {checked.measured_std_s * 1e3:.3f} ms"
    ]
    if not checked.advice:
        lines.append("no advice")
    for each in checked.advice:
        advice = each.advice
        lines += ["", f"{advice.rule}: {advice.sentence}"]
        lines.append(_row("predicted", advice.gain_s, advice.gain_std_s, advice.share, each.predicted_share_std))
        if each.gain_s is None or each.gain_std_s is None or each.share is None or each.share_std is None:
            lines.append(f"  not measured: {each.reason}")
        else:
            lines.append(
                f"{_row('measured', each.gain_s, each.gain_std_s, each.share, each.share_std)}"
                f"   {each.distance:+.1f} deviations apart"
            )
    return "\n".join(lines)


def _row(what: str, gain_s: float, gain_std_s: float, share: float, share_std: float) -> str:
    seconds = f"{-gain_s * 1e3:+8.3f} +- {gain_std_s * 1e3:.3f} ms"
    return f"  {what:9} {seconds}   {-share * 100:+6.1f} +- {share_std * 100:.1f} %"


def _write(path: Path, name: str, checked: Checked) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow((
                "network", "device", "rule", "network_predicted_s", "network_measured_s", "predicted_gain_s",
                "predicted_gain_std_s", "predicted_share", "measured_gain_s", "measured_gain_std_s", "measured_share",
                "measured_share_std", "reason", "sentence",
            ))  # fmt: skip
        for each in checked.advice:
            advice = each.advice
            writer.writerow((
                name, checked.prediction.device.name, advice.rule, checked.prediction.latency_s, checked.measured_s,
                advice.gain_s, advice.gain_std_s, advice.share, each.gain_s, each.gain_std_s, each.share,
                each.share_std, each.reason, advice.sentence,
            ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
