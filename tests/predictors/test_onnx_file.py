"""Files that are no ONNX models, models that break ONNX's rules, and weights that are elsewhere."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import FLOAT, body, floats, model, node, saved, variants

from predictors import UnknownOperatorError, read_onnx


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def outside(name: str, location: str, *dims: int, kind: int = FLOAT, **said: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, dims=dims, data_type=kind, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


# ---------------------------------------------------------------------------------------------- what is no ONNX model


def test_a_folder_is_said_to_be_one_and_its_models_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "a.onnx", [node("Relu", "x")], {"x": (1,)})
    with pytest.raises(ValueError, match=r"is a folder; give the path of an ONNX file; there are \['a\.onnx'\]"):
        read_onnx(tmp_path)


def test_a_missing_file_is_named_with_those_beside_it(tmp_path: Path) -> None:
    for name in "edcba":
        (tmp_path / f"{name}.onnx").touch()
    with pytest.raises(FileNotFoundError, match=r"no ONNX file '.*f\.onnx'; there are \['a\.onnx', .* and 1 more in"):
        read_onnx(tmp_path / "f.onnx")


def test_an_empty_file_is_said_to_be_empty(path: Path) -> None:
    path.touch()
    with pytest.raises(ValueError, match=r"model\.onnx' is no ONNX model: the file is empty"):
        read_onnx(path)


@pytest.mark.parametrize(("opset", "message"), [(10, "so export it anew"), (99, "or install a newer onnx")])
def test_an_opset_that_is_not_known_is_named_with_those_that_are(path: Path, opset: int, message: str) -> None:
    with pytest.raises(ValueError, match=rf"it is of opset {opset}; known are 11 to \d+, .*{message}"):
        read_onnx(saved(path, [node("Relu", "x")], {"x": (1,)}, opset=opset))


def test_a_domain_without_a_version_and_one_without_formulas_are_named(path: Path) -> None:
    foreign = [node("Magic", "x", name="odd", domain="my.own")]
    with pytest.raises(ValueError, match=r"node 'odd' is of domain 'my\.own', of which the model says no version"):
        read_onnx(saved(path, foreign, {"x": (1,)}))
    with pytest.raises(UnknownOperatorError, match=r"ONNX operator my\.own\.Magic of node 'odd': it is not in"):
        read_onnx(saved(path, foreign, {"x": (1,)}, domains=["my.own"]))


# ------------------------------------------------------------------------------------------ models that break the rules


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("Relu", "x"), node("Tanh", "x", name="b")], {}, r"'y' is written twice: by Relu node 'y' and by Tanh"),
        ([node("Relu", "x", "w"), node("Relu", "w")], {"w": floats(1)},
         r"'w' is written twice: by a weight and by Relu"),
        ([node("Relu", "y", "a"), node("Relu", "a")], {}, r"in a circle, among them Relu node 'a', Relu node 'y'"),
        ([node("Relu", "nobody")], {}, r"Relu node 'y' reads 'nobody', which no node, input or weight writes"),
    ],
)  # fmt: skip
def test_names_that_break_the_rules_are_refused(path: Path, nodes: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_onnx(saved(path, nodes, {"x": (1,)}, weights=weights))


def test_two_weights_of_one_name_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="two weights have the name 'w'"):
        read_onnx(saved(path, [node("Add", "x w")], {"x": (1,)}, further=[numpy_helper.from_array(floats(1), "w")] * 2))


def test_an_output_that_nobody_writes_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="'z' is read, but no node before writes it"):
        read_onnx(saved(path, [node("Relu", "x")], {"x": (1,)}, outputs=["z"]))


def test_nodes_in_any_order_are_read_in_theirs(path: Path) -> None:
    nodes = [node("Tanh", "b"), node("Sigmoid", "a", "b"), node("Relu", "x", "a")]
    assert variants(read_onnx(saved(path, nodes, {"x": (1, 4)}))) == ["input", "relu", "sigmoid", "tanh"]


def test_an_input_that_is_no_tensor_is_refused(path: Path) -> None:
    made = model([node("Relu", "x")], {"x": (1,)})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, (1,)))
    made.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="input 'x' is a sequence; only tensors are taken"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("Conv", "x w", kernel_shape=[3, 3], strides="two"), r"Conv of node 'y': Mismatched .* in '.*strides"),
        (node("Conv", "x w"), r"Conv of node 'y': Invalid channel .* it reads 'x' \(1, 4, 8, 8\), 'w' \(4, 3, 3, 3\)"),
        (node("Gemm", "x"), r"Gemm of node 'y': .* has input size 1 not in range"),
        (node("MaxPool", "x"), r"MaxPool of node 'y': Required attribute 'kernel_shape' is missing"),
    ],
)
def test_attributes_and_shapes_that_do_not_fit_are_named_by_their_node(path: Path, made: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_onnx(saved(path, [made], {"x": (1, 4, 8, 8)}, weights={"w": floats(4, 3, 3, 3)}))


def test_weights_that_are_texts_are_refused(path: Path) -> None:
    text = helper.make_tensor("w", TensorProto.STRING, [1], [b"hello"])
    with pytest.raises(ValueError, match="a tensor is of type 'string'; there are formulas for numbers alone"):
        read_onnx(saved(path, [node("Identity", "w")], {"x": (1,)}, further=[text]))


def test_a_weight_whose_numbers_do_not_fill_its_shape_is_refused(path: Path) -> None:
    short = TensorProto(name="w", dims=[4], data_type=FLOAT, raw_data=b"\0" * 8)
    with pytest.raises(ValueError, match=r"'w' of shape \(4,\)"):
        read_onnx(saved(path, [node("Add", "x w")], {"x": (4,)}, further=[short]))


# -------------------------------------------------------------------------------------------------- weights elsewhere


def test_small_numbers_beside_the_model_are_read_where_they_lie(path: Path) -> None:
    (path.parent / "w.bin").write_bytes(b"\xff" * 16 + np.array([2, -1]).tobytes())
    to = outside("s", "w.bin", 2, kind=TensorProto.INT64, offset=16, length=16)
    graph = read_onnx(saved(path, [node("Reshape", "x s")], {"x": (2, 3, 4)}, further=[to]))
    assert graph.nodes[-1].operator.output_shape == (2, 12)


def test_small_numbers_behind_the_end_of_their_file_are_refused(path: Path) -> None:
    (path.parent / "w.bin").write_bytes(b"\0" * 8)
    to = outside("s", "w.bin", 2, kind=TensorProto.INT64)
    with pytest.raises(ValueError, match=r"'s' are said to lie in 'w\.bin': .* bytes 0 to 16, but the file has 8"):
        read_onnx(saved(path, [node("Reshape", "x s")], {"x": (2, 3, 4)}, further=[to]))


def test_a_link_to_weights_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 48)
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    made = saved(folder / "m.onnx", [node("Gemm", "x w")], {"x": (1, 4)}, further=[outside("w", "w.bin", 4, 3)])
    with pytest.raises(ValueError, match=r"'w' are said to lie in 'w\.bin', outside the model's folder"):
        read_onnx(made)


@pytest.mark.parametrize("place", ["constant", "branch"])
def test_weights_of_constants_and_branches_have_to_lie_inside_too(path: Path, place: str) -> None:
    far = outside("w", "../w.bin", 4)
    nodes = [node("Constant", "", "c", value=far), node("Add", "x c")]
    if place == "branch":
        inner = body([node("Identity", "w", "a")], ["a"])
        inner.initializer.append(far)
        nodes = [node("If", "t", then_branch=inner, else_branch=inner)]
    with pytest.raises(ValueError, match="outside the model's folder"):
        read_onnx(saved(path, nodes, {"x": (4,)}, weights={"t": np.array(True)}))


@pytest.mark.skipif(sys.platform != "linux", reason="holes in files and the unit of ru_maxrss are those of Linux")
def test_three_gigabytes_of_weights_beside_the_model_cost_no_memory(path: Path) -> None:
    """A file that is a hole of 3 GB; the greatest memory of the process must not grow by a hundredth of it."""
    size = 3_000_000_000
    (path.parent / "w.bin").touch()
    os.truncate(path.parent / "w.bin", size)
    rows = size // 4 // 1000
    far = outside("w", "w.bin", rows, 1000, offset=0, length=size)
    saved(path, [node("Gemm", "x w")], {"x": (1, rows)}, further=[far])
    read_onnx(saved(path.parent / "small.onnx", [node("Gemm", "x w")], {"x": (1, 4)}, weights={"w": floats(4, 3)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    graph = read_onnx(path)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert graph.macs == rows * 1000
    assert graph.num_params == rows * 1000
    assert grown_bytes < size // 100


def test_sparse_weights_count_as_the_tensors_that_they_are(path: Path) -> None:
    made = model([node("MatMul", "x w")], {"x": (1, 4)})
    values, places = numpy_helper.from_array(np.ones(2, np.float32), "w"), numpy_helper.from_array(np.array([1, 5]), "")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3]))
    path.write_bytes(made.SerializeToString())
    assert read_onnx(path).macs == 4 * 3


# ------------------------------------------------------------------------------------------------------------ functions


def test_functions_of_the_model_are_read_as_what_they_stand_for(path: Path) -> None:
    """A function calls another one, and hands an attribute on."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    leaky = node("LeakyRelu", "a", "b")
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_function("mine", "Leak", ["a"], ["b"], [leaky], opsets, ["slope"])
    call = node("Leak", "r", "b", domain="mine", slope=0.1)
    outer = helper.make_function("mine", "Block", ["a"], ["b"], [node("Relu", "a", "r"), call], opsets)
    made = model([node("Block", "x", "h", domain="mine"), node("Block", "h", domain="mine")], {"x": (1, 4)})
    made.opset_import.append(helper.make_opsetid("mine", 1))
    made.functions.extend([inner, outer])
    path.write_bytes(made.SerializeToString())
    assert variants(read_onnx(path)) == ["input", *["relu", "leaky_relu"] * 2]
