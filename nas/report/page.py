"""report.html: one file with everything in it, readable without a network."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import yaml

from nas.constraints import other_devices
from nas.export import input_shape
from nas.objectives import metric_named
from nas.report import figures, style
from nas.report.breakdown import (
    accuracy_text,
    constraint_texts,
    deployed_shape,
    drawable,
    error_name,
    failures_text,
    front_predictions,
    latency_text,
    longest_bar_s,
    metric_text,
    provenance_shares,
    size_text,
)
from nas.report.chosen import ChosenSubnet
from nas.report.yardstick import TITLE
from nas.result import Ending, SearchResult
from predictors.explanation.document import document, figure_html, section, shares_bar, sources_table, table
from predictors.explanation.text import number_text
from predictors.latency import Prediction

_DISTRIBUTIONS = ("ridgeline-nas", "torch", "optuna", "numpy", "onnx", "plotly")
_SUBNET_FILES = ("arch.json", "weights.safetensors", "model.onnx")


def page(
    result: SearchResult,
    chosen: Sequence[ChosenSubnet],
    *,
    command: str,
    config_text: str,
    exported: bool,
    after: str = "",
    yardstick: str = "",
) -> str:
    """The whole report as one HTML text. `exported`: the chosen subnets' files stand in `subnets/`; `after`: a section
    on what happened to them since, HTML already; `yardstick`: what `yardstick_section` says.
    """
    title = f"{result.space.name} on {result.predictor.device.name}"
    sections = (
        _summary(result, exported),
        section("The front", _front(result, chosen)),
        section("Chosen subnets", _chosen(result, chosen, exported)),
        after,
        section("Where the time goes", _kernels(chosen)),
        section("Under the roofline", _roofline(result, chosen)),
        section("Progress of the search", _hypervolume(result)),
        section(TITLE, yardstick) if yardstick else "",
        section("How this was made", _provenance(result, command, config_text)),
    )
    return document(title, "".join(sections))


# ----------------------------------------------------------------------------------------------------------- sections


def _summary(result: SearchResult, exported: bool) -> str:
    predictor, device = result.predictor, result.predictor.device
    num_feasible = sum(candidate.feasible for candidate in result.candidates)
    constraints = " and ".join(constraint_texts(result.constraints))
    met = f" {num_feasible} of them meet {constraints}." if constraints else ""
    front = f"{len(result.front)} form the Pareto front" if result.front else "None is feasible, so there is no front"
    objectives = ", ".join(
        error_name(result) if name == "error" else metric_named(name).title for name in result.objectives
    )
    batch, _, height, width = input_shape(result.deployed_space.graph(result.space.largest()))
    judged = "Accuracies" if result.judgement.is_accuracy else f"{result.judgement.name.capitalize()}s"
    trained = f"{result.space.resolution}x{result.space.resolution}"
    apart = (
        f" The two differ: {judged.lower()} rank subnets on those images and promise nothing about larger ones."
        if (height, width) != (result.space.resolution,) * 2
        else ""
    )
    origin = f" {result.judgement.origin}," if result.judgement.origin else ""
    weights = ", with the weights of the exported subnets" if exported else ""
    return "".join(
        (
            f'<p class="lead">{len(result.candidates)} different networks of the space '
            f"<b>{escape(result.space.name)}</b> were scored for <b>{escape(device.name)}</b> "
            f"({escape(device.description)}), runtime {escape(predictor.runtime.name)}, {escape(predictor.dtype)}"
            f"{escape(_elsewhere(result))}.{escape(met)} {front} for {escape(objectives)}.{_early_end(result)}</p>",
            _failures(result),
            f"<p>Costs are those of the network as deployed: images of up to {height}x{width} pixels, "
            f"batch {batch}. {judged} are{escape(origin)} for images of up to {trained} pixels, "
            f"{result.space.num_classes} classes{weights}.{apart}</p>",
            f"<p>Where the predicted time of {'the front' if result.front else 'all candidates'} comes from:</p>",
            _provenance_bar(front_predictions(result)),
        )
    )


def _early_end(result: SearchResult) -> str:
    return "" if result.ending is Ending.FINISHED else f" The search ended early: {escape(result.ending.value)}."


def _elsewhere(result: SearchResult) -> str:
    """', and for mobile_cpu and v100', where costs on more devices were searched for or bounded."""
    others = other_devices(tuple(result.candidates[0].metrics), {})
    return f", and for {' and '.join(others)}" if others else ""


def _failures(result: SearchResult) -> str:
    if not result.failures:
        return ""
    first = result.failures[0]
    shown = f"{first.error.rstrip()}\n\narch: {dict(first.arch)}"
    return (
        f"<p>{escape(failures_text(result))}</p>"
        f"<details><summary>The first failure</summary><pre>{escape(shown)}</pre></details>"
    )


def _front(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> str:
    files = '<a href="pareto.csv">pareto.csv</a> has the front, <a href="candidates.csv">candidates.csv</a> everything'
    return (
        "<p>Lower left is better; for intensity, lower right. Point at a candidate for its arch and all its figures. "
        "The menu under the picture changes the axis; drag to zoom, double-click to go back. Candidates of the front "
        "away from the line are there for another objective.</p>"
        f"{figure_html(figures.front_figure(result, chosen))}"
        f'<p class="note">{files}.</p>'
    )


def _chosen(result: SearchResult, chosen: Sequence[ChosenSubnet], exported: bool) -> str:
    costs = [name for name in chosen[0].candidate.metrics if name not in {"error", "latency_s"}]
    candidates = [subnet.candidate for subnet in chosen]
    rows = [
        ["candidate", *(str(each.number) for each in candidates)],
        [result.judgement.name, *(accuracy_text(result, each) for each in candidates)],
        ["latency", *(latency_text(each) for each in candidates)],
        *(
            [escape(metric_named(name).title), *(metric_text(each.metrics, name) for each in candidates)]
            for name in costs
        ),
        ["deployed image", *(size_text(deployed_shape(result, each)) for each in candidates)],
        ["arch", *(f"<details><summary>show</summary>{_arch_html(each.arch)}</details>" for each in candidates)],
        ["files", *(_links(subnet) if exported else "not exported" for subnet in chosen)],
    ]
    return table(["", *(subnet.title for subnet in chosen)], rows)


def _links(subnet: ChosenSubnet) -> str:
    return "<br>".join(f'<a href="subnets/{escape(subnet.name)}/{file}">{file}</a>' for file in _SUBNET_FILES)


def _kernels(chosen: Sequence[ChosenSubnet]) -> str:
    limit_ms = 1.03e3 * max(longest_bar_s(subnet.prediction) for subnet in chosen)
    parts = ["<p>Predicted time by kind of kernel. The pictures share one scale.</p>"]
    for subnet in chosen:
        prediction = subnet.prediction
        latency = latency_text(subnet.candidate)
        parts.append(f"<h3>{escape(subnet.title)}: {latency}, {len(prediction.kernels)} kernels</h3>")
        parts.append(figure_html(figures.kernels_figure(prediction, limit_ms)))
        parts.append(f"<details><summary>Every kernel</summary>{_kernel_table(prediction)}</details>")
    return "".join(parts)


def _kernel_table(prediction: Prediction) -> str:
    header = ["name", "kind", "time (us)", "std (us)", "share", "bound", "FLOP/byte", "provenance", "kernel"]
    rows = [
        [
            escape(kernel.name),
            escape(kernel.kernel.kind),
            number_text(1e6 * kernel.latency_s),
            number_text(1e6 * kernel.std_s),
            f"{kernel.latency_s / prediction.latency_s:.1%}",
            kernel.bound,
            number_text(kernel.cost.arithmetic_intensity),
            kernel.provenance,
            f"<code>{escape(kernel.kernel.text)}</code>",
        ]
        for kernel in prediction.kernels
    ]
    return table(header, rows, numbers=(2, 3, 4, 6), texts=(8,))


def _roofline(result: SearchResult, chosen: Sequence[ChosenSubnet]) -> str:
    device, dtype = result.predictor.device, result.predictor.dtype
    hidden = [
        f"{len(prediction.kernels) - len(drawable(prediction))} of {len(prediction.kernels)}"
        for prediction in (subnet.prediction for subnet in chosen)
    ]
    return (
        f"<p>Each mark is a kernel; its area grows with its share of the network's time. Under a slope memory "
        f"decides, under the flat roof the peak of {number_text(device.peak_flops(dtype) / 1e9)} GFLOP/s in "
        f"{escape(dtype)} does. Kernels that only move data have no place here "
        f"({', '.join(hidden)} kernels of the networks).</p>"
        f"{figure_html(figures.roofline_figure(result, chosen))}"
    )


def _hypervolume(result: SearchResult) -> str:
    reference = ", ".join(
        f"{error_name(result) if name == 'error' else metric_named(name).title} "
        f"{metric_text({name: -loss if metric_named(name).maximise else loss}, name)}"
        for name, loss in zip(result.objectives, result.reference_point)
    )
    share = result.accuracy_s / result.total_s if result.total_s else 0.0
    judged = "accuracies" if result.judgement.is_accuracy else f"{result.judgement.name}s"
    return (
        f"<p>The volume that the front dominates, up to the reference point ({escape(reference)}).</p>"
        f"{figure_html(figures.hypervolume_figure(result))}"
        f'<p class="note">The search took {result.total_s:.1f} s, {share:.0%} of it for {judged}.</p>'
    )


def _provenance(result: SearchResult, command: str, config_text: str) -> str:
    seed = (yaml.safe_load(config_text) or {}).get("seed", "not in the config")
    versions = {name: importlib.metadata.version(name) for name in _DISTRIBUTIONS}
    facts = {"python": platform.python_version(), **versions, "platform": platform.platform(), "seed": seed}
    device = result.predictor.device
    return (
        f"<h3>Command</h3><pre>{escape(command)}</pre><h3>Versions and seed</h3>"
        f"{table(['what', 'value'], [[escape(name), escape(str(value))] for name, value in facts.items()])}"
        f"<h3>Sources of the numbers of {escape(device.name)}</h3>{sources_table(device.sources())}"
        f"<details><summary>Composed config</summary><pre>{escape(config_text)}</pre></details>"
    )


# -------------------------------------------------------------------------------------------------------------- pieces


def _provenance_bar(predictions: Iterable[Prediction]) -> str:
    return shares_bar(provenance_shares(predictions), style.PROVENANCE_COLORS, style.PROVENANCE_WORDS)


def _arch_html(arch: Mapping[str, int]) -> str:
    return "<br>".join(f"<code>{escape(knob)}: {value}</code>" for knob, value in arch.items())
