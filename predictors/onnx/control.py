"""Branches, loops and sequences of an ONNX model: what runs is known beforehand, or the model has no one graph."""

from collections.abc import Callable
from typing import Protocol

import onnx
import torch
from torch import Tensor

from predictors.onnx.nodes import OnnxNode
from predictors.operators import UnknownOperatorError

MOST_STEPS = 10_000
"""Of a loop: one that runs longer is unrolled by nobody."""

Value = Tensor | list[Tensor]


class Runs(Protocol):
    """Tensors and sequences by name, and the way to run a graph among them."""

    def value(self, name: str) -> Value: ...

    def bind(self, name: str, value: Value, like: str = "") -> None:
        """Give a value a name; its precision is that of the name `like`."""

    def run_inner(self, graph: onnx.GraphProto) -> list[str]:
        """Run a branch or a body; the names of its outputs."""


def run_control(runs: Runs, node: OnnxNode) -> bool:
    """Run a node that is no operator on tensors; False if it is one.

    Raises:
        UnknownOperatorError: what runs depends on the network's inputs.
    """
    function = None if node.domain else _CONTROL.get(node.op_type)
    if function is None:
        return False
    function(runs, node)
    return True


# ------------------------------------------------------------------------------------------------------------ private


def _if(runs: Runs, node: OnnxNode) -> None:
    condition = _known(runs, node.inputs[0], "which branch runs")
    branch = node.attributes["then_branch" if condition else "else_branch"]
    for name, inner in zip(node.outputs, runs.run_inner(branch)):
        runs.bind(name, runs.value(inner), inner)


def _loop(runs: Runs, node: OnnxNode) -> None:
    body: onnx.GraphProto = node.attributes["body"]
    names = [value.name for value in body.input]
    given = node.inputs + ("",) * (2 - len(node.inputs))
    most = int(_known(runs, given[0], "how often it runs")) if given[0] else MOST_STEPS + 1
    goes_on = bool(_known(runs, given[1], "whether it runs")) if given[1] else True
    state = [(runs.value(name), name) for name in node.inputs[2:]]
    scanned: list[list[Tensor]] = [[] for _ in node.outputs[len(state) :]]
    scanned_as = ["" for _ in scanned]
    step = 0
    while goes_on and step < most:
        if step >= MOST_STEPS:
            raise UnknownOperatorError(f"it runs more than {MOST_STEPS} times, or nothing known ends it")
        runs.bind(names[0], torch.tensor(step))
        runs.bind(names[1], torch.tensor(True))
        for name, (value, like) in zip(names[2:], state):
            runs.bind(name, value, like)
        outputs = runs.run_inner(body)
        goes_on = bool(_known(runs, outputs[0], "how often it runs"))
        state = [(runs.value(name), name) for name in outputs[1 : 1 + len(state)]]
        for place, name in enumerate(outputs[1 + len(state) :]):
            scanned[place].append(_tensor(runs, name))
            scanned_as[place] = name
        step += 1
    for name, (value, like) in zip(node.outputs, state):
        runs.bind(name, value, like)
    for name, values, like in zip(node.outputs[len(state) :], scanned, scanned_as):
        if name and not values:
            raise UnknownOperatorError("it never runs, and its collected outputs are empty")
        if name:
            runs.bind(name, torch.stack(values), like)


def _scan(runs: Runs, node: OnnxNode) -> None:
    body: onnx.GraphProto = node.attributes["body"]
    num_scanned = node.attributes["num_scan_inputs"]
    num_states = len(node.inputs) - num_scanned
    axes = list(node.attributes.get("scan_input_axes", [0] * num_scanned))
    back = list(node.attributes.get("scan_input_directions", [0] * num_scanned))
    names = [value.name for value in body.input]
    state = [(runs.value(name), name) for name in node.inputs[:num_states]]
    whole = [(_tensor(runs, name), name) for name in node.inputs[num_states:]]
    steps = whole[0][0].shape[axes[0]]
    outputs: list[str] = []
    scanned: list[list[Tensor]] = [[] for _ in node.outputs[num_states:]]
    for step in range(min(steps, MOST_STEPS + 1)):
        if step == MOST_STEPS:
            raise UnknownOperatorError(f"it runs {steps} times; at most {MOST_STEPS} are unrolled")
        for name, (value, like) in zip(names, state):
            runs.bind(name, value, like)
        for name, (tensor, like), axis, direction in zip(names[num_states:], whole, axes, back):
            runs.bind(name, tensor.select(axis, steps - 1 - step if direction else step), like)
        outputs = runs.run_inner(body)
        state = [(runs.value(name), name) for name in outputs[:num_states]]
        for values, name in zip(scanned, outputs[num_states:]):
            values.append(_tensor(runs, name))
    for name, (value, like) in zip(node.outputs, state):
        runs.bind(name, value, like)
    out_axes = node.attributes.get("scan_output_axes", [0] * len(scanned))
    for name, values, like, axis in zip(node.outputs[num_states:], scanned, outputs[num_states:], out_axes):
        if name:
            runs.bind(name, torch.stack(values, axis), like)


def _sequence_at(runs: Runs, node: OnnxNode) -> None:
    place = int(_known(runs, node.inputs[1], "which element it takes"))
    runs.bind(node.outputs[0], _sequence(runs, node.inputs[0])[place], node.inputs[0])


def _sequence_construct(runs: Runs, node: OnnxNode) -> None:
    runs.bind(node.outputs[0], [_tensor(runs, name) for name in node.inputs], next(iter(node.inputs), ""))


def _sequence_insert(runs: Runs, node: OnnxNode) -> None:
    values = list(_sequence(runs, node.inputs[0]))
    has_place = len(node.inputs) > 2 and node.inputs[2]
    place = int(_known(runs, node.inputs[2], "where it inserts")) if has_place else len(values)
    values.insert(place if place >= 0 else len(values) + place, _tensor(runs, node.inputs[1]))
    runs.bind(node.outputs[0], values, node.inputs[1])


def _sequence_erase(runs: Runs, node: OnnxNode) -> None:
    values = list(_sequence(runs, node.inputs[0]))
    values.pop(int(_known(runs, node.inputs[1], "what it erases")) if len(node.inputs) > 1 else -1)
    runs.bind(node.outputs[0], values, node.inputs[0])


def _sequence_length(runs: Runs, node: OnnxNode) -> None:
    runs.bind(node.outputs[0], torch.tensor(len(_sequence(runs, node.inputs[0]))))


def _split_to_sequence(runs: Runs, node: OnnxNode) -> None:
    x, axis = _tensor(runs, node.inputs[0]), node.attributes.get("axis", 0)
    keeps = node.attributes.get("keepdims", 1)
    if len(node.inputs) > 1 and node.inputs[1]:
        split = _tensor(runs, node.inputs[1])
        if split.is_meta:
            raise UnknownOperatorError("how it splits depends on the network's inputs")
        sizes = split.tolist()
        parts = list(torch.split(x, sizes, axis))
    else:
        parts = list(torch.split(x, 1, axis)) if keeps else list(torch.unbind(x, axis))
    runs.bind(node.outputs[0], parts, node.inputs[0])


def _concat_from_sequence(runs: Runs, node: OnnxNode) -> None:
    values, axis = _sequence(runs, node.inputs[0]), node.attributes["axis"]
    found = torch.stack(values, axis) if node.attributes.get("new_axis", 0) else torch.cat(values, axis)
    runs.bind(node.outputs[0], found, node.inputs[0])


def _identity(runs: Runs, node: OnnxNode) -> None:
    runs.bind(node.outputs[0], runs.value(node.inputs[0]), node.inputs[0])


_CONTROL: dict[str, Callable[[Runs, OnnxNode], None]] = {
    "ConcatFromSequence": _concat_from_sequence,
    "Identity": _identity,
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceAt": _sequence_at,
    "SequenceConstruct": _sequence_construct,
    "SequenceEmpty": lambda runs, node: runs.bind(node.outputs[0], []),
    "SequenceErase": _sequence_erase,
    "SequenceInsert": _sequence_insert,
    "SequenceLength": _sequence_length,
    "SplitToSequence": _split_to_sequence,
}


def _known(runs: Runs, name: str, what: str) -> float:
    tensor = _tensor(runs, name)
    if tensor.is_meta:
        raise UnknownOperatorError(
            f"{what} depends on the network's inputs, so it has no one graph; export it with this decided"
        )
    return tensor.reshape(-1)[0].item()


def _tensor(runs: Runs, name: str) -> Tensor:
    value = runs.value(name)
    if isinstance(value, list):
        raise ValueError(f"{name!r} is a sequence; a tensor belongs here")
    return value


def _sequence(runs: Runs, name: str) -> list[Tensor]:
    value = runs.value(name)
    if not isinstance(value, list):
        raise ValueError(f"{name!r} is a tensor; a sequence belongs here")
    return value
