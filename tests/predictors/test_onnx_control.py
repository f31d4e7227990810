"""Branches, loops and sequences: what runs is known beforehand, and leaves the operators that run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_files import body, floats, kernels, node, saved

from predictors import UnknownOperatorError, read_onnx
from predictors.operators import Concat

TRUE, FALSE = np.array(True), np.array(False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_a_branch_reads_what_is_around_it_and_brings_its_own_weights(path: Path) -> None:
    inner = body([node("MatMul", "h w", "a")], ["a"], weights={"w": floats(4, 2)})
    other = body([node("Tanh", "h", "b")], ["b"])
    nodes = [node("Relu", "x", "h"), node("If", "c", then_branch=inner, else_branch=other)]
    graph = read_onnx(saved(path, nodes, {"x": (1, 4)}, weights={"c": TRUE}))
    assert kernels(graph) == ["relu", "linear"]
    assert graph.num_params == 8


def test_a_branch_that_a_shape_decides_is_taken(path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s one", "n"), node("Equal", "n four", "c"),
        node("If", "c", then_branch=body([node("Relu", "x", "a")], ["a"]),
             else_branch=body([node("Tanh", "x", "b")], ["b"])),
    ]  # fmt: skip
    weights = {"one": np.array(1), "four": np.array(4)}
    assert kernels(read_onnx(saved(path, nodes, {"x": (1, 4)}, weights=weights))) == ["relu"]
    assert kernels(read_onnx(saved(path, nodes, {"x": (1, 5)}, weights=weights))) == ["tanh"]


@pytest.mark.parametrize("what", ["which branch runs", "how often it runs"])
def test_what_the_inputs_decide_has_no_one_graph(path: Path, what: str) -> None:
    inner = body([node("Relu", "x", "a")], ["a"])
    step = body([node("Identity", "c", "d"), node("Relu", "h", "k")], ["d", "k"], ["i", "c", "h"])
    nodes = {
        "which branch runs": [node("If", "t", then_branch=inner, else_branch=inner)],
        "how often it runs": [node("Loop", "n - x", body=step)],
    }
    inputs = {"x": (1, 4), "t": ((1,), TensorProto.BOOL), "n": ((1,), TensorProto.INT64)}
    with pytest.raises(UnknownOperatorError, match=rf"{what} depends on the network's inputs"):
        read_onnx(saved(path, nodes[what], inputs))


def loop(*nodes: Any, outputs: Any = ("d", "k"), condition: str = "c") -> Any:
    return body([node("Identity", condition, "d"), *nodes], outputs, ["i", "c", "h"])


def test_a_loop_is_as_many_operators_as_it_has_steps(path: Path) -> None:
    nodes = [node("Loop", "n t x", body=loop(node("MatMul", "h w", "k")))]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"n": np.array(3), "t": TRUE, "w": floats(4, 4)}))
    assert kernels(graph) == ["linear"] * 3
    assert graph.macs == 3 * 2 * 4 * 4


def test_a_loop_ends_where_its_condition_does(path: Path) -> None:
    """It counts to two; the step that finds it has run as well."""
    step = body([node("Less", "i two", "d"), node("Relu", "h", "k")], ["d", "k"], ["i", "c", "h"])
    nodes = [node("Loop", "- t x", body=step)]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"t": TRUE, "two": np.array(2)}))
    assert kernels(graph) == ["relu"] * 3


def test_a_loop_that_nothing_ends_is_refused(path: Path) -> None:
    nodes = [node("Loop", "- t x", body=loop(node("Identity", "h", "k")))]
    with pytest.raises(UnknownOperatorError, match="it runs more than 10000 times, or nothing known ends it"):
        read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"t": TRUE}))


def test_what_a_loop_collects_is_joined_along_a_new_axis(path: Path) -> None:
    step = loop(node("Relu", "h", "k"), node("Tanh", "k", "z"), outputs=["d", "k", "z"])
    graph = read_onnx(saved(path, [node("Loop", "n t x", "last y", body=step)], {"x": (2, 4)},
                            weights={"n": np.array(3), "t": TRUE}))  # fmt: skip
    assert kernels(graph).count("tanh") == 3
    assert graph.nodes[-1].operator == Concat(shapes=((1, 2, 4),) * 3, axis=0)


def test_a_loop_that_never_runs_hands_on_what_it_got(path: Path) -> None:
    nodes = [node("Loop", "n f x", "h", body=loop(node("Tanh", "h", "k"))), node("Relu", "h")]
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights={"n": np.array(3), "f": FALSE}))
    assert kernels(graph) == ["relu"]


def test_a_scan_runs_once_for_each_slice(path: Path) -> None:
    """Five steps of one product each; the state is handed on, its values are collected."""
    step = body(
        [node("Add", "h e", "a"), node("MatMul", "a w", "k"), node("Identity", "k", "z")], ["k", "z"], ["h", "e"]
    )
    nodes = [node("Scan", "s x", "last y", body=step, num_scan_inputs=1)]
    graph = read_onnx(saved(path, nodes, {"s": (2, 4), "x": (5, 2, 4)}, weights={"w": floats(4, 4)}))
    assert kernels(graph).count("linear") == 5
    assert graph.nodes[graph.outputs[0]].operator.output_shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("SplitToSequence", "x", "s", axis=1), node("SequenceAt", "s two")], (2, 1)),
        ([node("SplitToSequence", "x", "s", axis=1, keepdims=0), node("SequenceAt", "s two")], (2,)),
        ([node("SplitToSequence", "x sizes", "s", axis=1), node("SequenceAt", "s one")], (2, 3)),
        ([node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", axis=1)], (2, 8)),
        ([node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", axis=1, new_axis=1)], (2, 2, 4)),
        ([node("SequenceEmpty", "", "e"), node("SequenceInsert", "e x", "s"), node("SequenceInsert", "s x", "t"),
          node("SequenceErase", "t", "u"), node("ConcatFromSequence", "u", axis=0)], (2, 4)),
        ([node("SequenceConstruct", "x x", "s"), node("SequenceLength", "s", "n"), node("Unsqueeze", "n zero", "m"),
          node("Concat", "m m4", "to", axis=0), node("Reshape", "x to")], (2, 4)),
    ],
)  # fmt: skip
def test_sequences_hold_tensors_by_their_places(path: Path, nodes: Any, shape: Any) -> None:
    weights = {"one": np.array(1), "two": np.array(2), "zero": np.array([0]), "m4": np.array([-1]),
               "sizes": np.array([1, 3])}  # fmt: skip
    graph = read_onnx(saved(path, nodes, {"x": (2, 4)}, weights=weights))
    assert graph.nodes[graph.outputs[0]].operator.output_shape == shape


def test_a_sequence_where_a_tensor_belongs_is_refused(path: Path) -> None:
    nodes = [node("SequenceConstruct", "x x", "s"), node("Relu", "s")]
    with pytest.raises(ValueError, match="Relu of node 'y': 's' is a sequence"):
        read_onnx(saved(path, nodes, {"x": (2, 4)}))
