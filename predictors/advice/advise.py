"""Advice: what to change in a network so that it takes less time on a device, each with what it saves.

Nothing is a rule of thumb: every rule edits the network, and the gain is the difference of two predictions.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from predictors.advice.activations import unfused_activation
from predictors.advice.alignment import alignment
from predictors.advice.blocks import small_blocks
from predictors.advice.concatenation import concatenation
from predictors.advice.depthwise import depthwise
from predictors.advice.gain import Gain, gain_between
from predictors.advice.launches import graph_runtime, merging
from predictors.advice.normalization import activation_before_norm
from predictors.advice.precisions import conversions, integer_precision, lower_precision
from predictors.advice.rearrangement import rearrangement
from predictors.advice.resolution import resolution
from predictors.advice.rule import Context, Edit, Rule, milliseconds
from predictors.advice.windows import windows
from predictors.device import Device
from predictors.efficiency import ExtrapolationWarning
from predictors.fusion import Runtime
from predictors.graph import Graph
from predictors.latency import LatencyPredictor

RULES: Mapping[str, Rule] = MappingProxyType({
    "alignment": alignment,
    "activation before norm": activation_before_norm,
    "unfused activation": unfused_activation,
    "depthwise": depthwise,
    "windows": windows,
    "rearrangement": rearrangement,
    "merging": merging,
    "small blocks": small_blocks,
    "graph runtime": graph_runtime,
    "concatenation": concatenation,
    "int8": integer_precision,
    "lower precision": lower_precision,
    "conversions": conversions,
    "resolution": resolution,
})  # fmt: skip
"""By the name that `Advice.rule` has."""

LEAST_SHARE = 0.005
"""A gain below this share of the network's time is not told."""

LEAST_DEVIATIONS = 1.0
"""Nor one below so many of its standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A change that saves time on the device.

    Attributes:
        rule: name in `RULES`.
        sentence: what to change where, and what that saves.
        gain_s, gain_std_s: predicted seconds, and their standard deviation.
        share: of the network's time.
        module_paths: what changes.
        edited: the network as changed.
        change: the sentence without what that saves, where that is shown beside it.
    """

    rule: str
    sentence: str
    gain_s: float
    gain_std_s: float
    share: float
    module_paths: tuple[str, ...]
    edited: Graph = field(repr=False)
    change: str = ""


def advise(
    graph: Graph, device: Device, *, dtype: str | None = None, runtime: Runtime | str | None = None
) -> tuple[Advice, ...]:
    """What to change in a network, the most saving first; nothing where nothing matters.

    gain = predict(graph) - predict(edited graph), in seconds. Told are gains of at least `LEAST_SHARE` of the network's
    time and `LEAST_DEVIATIONS` of the gain's own deviation (`predictors.advice.gain`). Edits are alternatives: their
    gains do not add up. Whether accuracy allows an edit is not known here.

    Args:
        device, dtype, runtime: as `LatencyPredictor` takes them.

    Raises:
        ValueError: the device has no peak for the dtype.
    """
    return advise_with(LatencyPredictor(device, dtype=dtype, runtime=runtime), graph)


def advise_with(predictor: LatencyPredictor, graph: Graph) -> tuple[Advice, ...]:
    """`advise` by a predictor that there is already: nothing is learned anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the deviation of the gain says it
        context = Context(predictor=predictor, prediction=predictor.predict(graph))
        found = [each for name, rule in RULES.items() for each in _told(name, rule, graph, context)]
    return tuple(sorted(found, key=lambda advice: -advice.gain_s))


# ------------------------------------------------------------------------------------------------------------ private


def _told(name: str, rule: Rule, graph: Graph, context: Context) -> Iterator[Advice]:
    for edit in rule(graph, context):
        gain = _gain(edit, context)
        if gain.share >= LEAST_SHARE and gain.gain_s >= LEAST_DEVIATIONS * gain.std_s:
            yield Advice(
                rule=name,
                sentence=f"{edit.text} (-{milliseconds(gain.gain_s)}, -{_percent(gain.share)})",
                gain_s=gain.gain_s,
                gain_std_s=gain.std_s,
                share=gain.share,
                module_paths=edit.module_paths,
                edited=edit.graph,
                change=edit.text,
            )


def _gain(edit: Edit, context: Context) -> Gain:
    return gain_between(context.prediction, edit.prediction) if edit.prediction else context.gain(edit.graph)


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.0995 else f"{share * 100:.0f} %"
