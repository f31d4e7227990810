"""Rows of the table of ONNX operators: hand-written nodes, with the costs that follow from their shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_files import floats, kernels, model, node, saved, variants

from predictors import Graph, UnknownOperatorError, read_onnx
from predictors.operators import Constant, Elementwise, Linear, Unknown

INT64 = TensorProto.INT64
IMAGE = (1, 8, 6, 4)
TOKENS = (2, 5, 12)
ORT = "com.microsoft"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def numbers(*values: float, kind: type = np.int64) -> np.ndarray:
    return np.array(values, kind)


def graph_of(path: Path, nodes: Any, inputs: dict[str, Any], weights: dict[str, np.ndarray] | None = None,
             **options: Any) -> Graph:  # fmt: skip
    nodes = nodes if isinstance(nodes, list) else [nodes]
    return read_onnx(saved(path, nodes, inputs, weights=weights, **options))


# ------------------------------------------------------------------------------------------------ windows over images


@pytest.mark.parametrize(
    ("made", "weights", "shape", "macs"),
    [
        # ceil((6 + 1 - 3) / 2) + ... = 3x2 positions of 3x3 windows over 8 channels, to 4: 6 * 4 * 72
        (node("Conv", "x w", strides=[2, 2], auto_pad="SAME_LOWER"), {"w": floats(4, 8, 3, 3)}, (1, 4, 3, 2), 1728),
        # dilation 2 spans 5 of 6 and 5 of 4 + 2 padding: 2x2 positions
        (node("Conv", "x w", dilations=[2, 2], pads=[0, 1, 0, 1]), {"w": floats(4, 8, 3, 3)}, (1, 4, 2, 2), 1152),
        # each of 24 elements of 8 channels meets 2x2 windows of 2 channels in 4 groups: 24 * 8 * 8
        (node("ConvTranspose", "x w", strides=[2, 2], group=4), {"w": floats(8, 2, 2, 2)}, (1, 8, 12, 8), 24 * 8 * 8),
        (node("ConvTranspose", "x w", strides=[2, 2], auto_pad="SAME_UPPER"), {"w": floats(8, 2, 3, 3)}, (1, 2, 12, 8),
         24 * 8 * 18),
        (node("ConvTranspose", "x w", strides=[2, 2], output_shape=[11, 9]), {"w": floats(8, 2, 3, 3)}, (1, 2, 11, 9),
         24 * 8 * 18),
        (node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), {}, (1, 8, 3, 2), None),
        (node("MaxPool", "x", "y i", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), {}, (1, 8, 3, 2), 0),
        (node("GlobalMaxPool", "x"), {}, (1, 8, 1, 1), 0),
        (node("DepthToSpace", "x", blocksize=2), {}, (1, 2, 12, 8), 0),
        (node("DepthToSpace", "x", blocksize=2, mode="CRD"), {}, (1, 2, 12, 8), 0),
        (node("SpaceToDepth", "x", blocksize=2), {}, (1, 32, 3, 2), 0),
        (node("LRN", "x", size=3), {}, IMAGE, None),
        (node("GridSample", "x g"), {"g": floats(1, 3, 3, 2)}, (1, 8, 3, 3), None),
    ],
)  # fmt: skip
def test_a_window_makes_the_shape_and_macs_of_its_formula(
    path: Path, made: Any, weights: Any, shape: Any, macs: int | None
) -> None:
    graph = graph_of(path, made, {"x": IMAGE}, weights)
    assert graph.nodes[graph.outputs[0]].operator.output_shape == shape
    assert macs in (None, graph.macs)


@pytest.mark.parametrize("op_type", ["Conv", "MaxPool", "GlobalAveragePool"])
@pytest.mark.parametrize("axes", [1, 3])
def test_lines_and_volumes_are_read_too(path: Path, op_type: str, axes: int) -> None:
    made = {
        "Conv": node("Conv", "x w"), "MaxPool": node("MaxPool", "x", kernel_shape=[3] * axes),
        "GlobalAveragePool": node("GlobalAveragePool", "x"),
    }[op_type]  # fmt: skip
    graph = graph_of(path, made, {"x": (1, 8, *[5] * axes)}, {"w": floats(4, 8, *[3] * axes)})
    size = 1 if op_type == "GlobalAveragePool" else 3
    assert graph.nodes[graph.outputs[0]].operator.output_shape == (1, 4 if op_type == "Conv" else 8, *[size] * axes)
    assert graph.macs == {"Conv": 4 * 3**axes * 8 * 3**axes}.get(op_type, graph.macs)


@pytest.mark.parametrize(
    ("made", "weights", "opset", "size"),
    [
        (node("Resize", "x - s", mode="linear"), {"s": numbers(1, 1, 2, 2, kind=np.float32)}, 11, (12, 8)),
        (node("Resize", "x - - t", mode="cubic"), {"t": numbers(1, 8, 3, 9)}, 13, (3, 9)),
        (node("Resize", "x - - t", axes=[2, 3]), {"t": numbers(3, 9)}, 18, (3, 9)),
        (node("Resize", "x - s", axes=[3]), {"s": numbers(0.5, kind=np.float32)}, 18, (6, 2)),
        (node("Resize", "x - - t", axes=[2, 3], keep_aspect_ratio_policy="not_larger"), {"t": numbers(3, 3)}, 18,
         (3, 2)),
        (node("Resize", "x - - t", axes=[2, 3], keep_aspect_ratio_policy="not_smaller"), {"t": numbers(3, 3)}, 18,
         (4, 3)),
    ],
)  # fmt: skip
def test_a_resize_takes_its_size_from_wherever_it_stands(
    path: Path, made: Any, weights: Any, opset: int, size: Any
) -> None:
    graph = graph_of(path, made, {"x": IMAGE}, weights, opset=opset)
    assert graph.nodes[-1].operator.kind == "resize"
    assert graph.nodes[-1].operator.output_shape == (1, 8, *size)


def test_a_resize_to_the_same_size_is_nothing(path: Path) -> None:
    graph = graph_of(path, node("Resize", "x - - t"), {"x": IMAGE}, {"t": numbers(*IMAGE)})
    assert variants(graph) == ["input"]


# ------------------------------------------------------------------------------------------------------ data that move


@pytest.mark.parametrize(
    ("made", "weights", "shape"),
    [
        (node("TopK", "x k", "y i"), {"k": numbers(3)}, (2, 5, 3)),
        (node("TopK", "x k", "v y", axis=1), {"k": numbers(2)}, (2, 2, 12)),
        (node("CumSum", "x a"), {"a": np.array(1)}, TOKENS),
        (node("GatherElements", "x i", axis=2), {"i": np.zeros((2, 5, 3), np.int64)}, (2, 5, 3)),
        (node("GatherND", "x i"), {"i": np.zeros((4, 2), np.int64)}, (4, 12)),
        (node("ScatterElements", "x i u", axis=2), {"i": np.zeros((2, 5, 3), np.int64), "u": floats(2, 5, 3)}, TOKENS),
        (node("ScatterND", "x i u"), {"i": np.zeros((4, 2), np.int64), "u": floats(4, 12)}, TOKENS),
        (node("ArgMin", "x", axis=2, keepdims=0), {}, (2, 5)),
        (node("ReduceLogSumExp", "x a", keepdims=0), {"a": numbers(-1)}, (2, 5)),
        (node("ReduceSumSquare", "x a"), {"a": numbers(1)}, (2, 1, 12)),
        (node("LpNormalization", "x", axis=1), {}, TOKENS),
        (node("Einsum", "x x", equation="bij,bkj->bik"), {}, (2, 5, 5)),
        (node("Trilu", "x k"), {"k": np.array(1)}, TOKENS),
        (node("Tile", "x t"), {"t": numbers(1, 2, 1)}, (2, 10, 12)),
        (node("Slice", "x s e a t"), {"s": numbers(-1), "e": numbers(-9), "a": numbers(1), "t": numbers(-2)},
         (2, 3, 12)),
    ],
)  # fmt: skip
def test_data_are_moved_into_the_shape_that_onnx_says(path: Path, made: Any, weights: Any, shape: Any) -> None:
    graph = graph_of(path, made, {"x": TOKENS}, weights)
    assert graph.nodes[graph.outputs[0]].operator.output_shape == shape


def test_known_indices_in_a_row_are_a_slice_whatever_their_shape(path: Path) -> None:
    graph = graph_of(path, node("Gather", "x i", axis=2), {"x": TOKENS}, {"i": np.arange(4, 10).reshape(2, 3)})
    assert variants(graph) == ["input", "slice"]
    assert graph.nodes[-1].operator.output_shape == (2, 5, 2, 3)


def test_a_token_picks_its_row_of_a_table(path: Path) -> None:
    graph = graph_of(path, node("Gather", "w x"), {"x": ((2, 5), INT64)}, {"w": floats(100, 16)})
    assert variants(graph) == ["input", "embedding"]
    assert graph.num_params == 1600


# ---------------------------------------------------------------------------------------- what ONNX Runtime contributes


@pytest.mark.parametrize(
    ("made", "weights", "found"),
    [
        (node("FusedConv", "x w", domain=ORT, activation="Relu"), {"w": floats(4, 8, 1, 1)}, ["conv2d", "relu"]),
        (node("FusedConv", "x w - z", domain=ORT, activation="Sigmoid"),
         {"w": floats(4, 8, 1, 1), "z": floats(1, 4, 6, 4)}, ["conv2d", "add", "sigmoid"]),
        (node("Gelu", "x", domain=ORT), {}, ["gelu"]),
        (node("QuickGelu", "x", domain=ORT), {}, ["silu"]),
        (node("BiasGelu", "x b", domain=ORT), {"b": floats(4)}, ["add", "gelu"]),
        (node("LayerNormalization", "x s b"), {"s": floats(4), "b": floats(4)}, ["layer_norm"]),
        (node("SimplifiedLayerNormalization", "x s"), {"s": floats(4)}, ["rms_norm"]),
        (node("InstanceNormalization", "x s b"), {"s": floats(8), "b": floats(8)}, ["instance_norm"]),
        (node("GroupNormalization", "x s b", num_groups=2), {"s": floats(8), "b": floats(8)}, ["group_norm"]),
        (node("NhwcMaxPool", "x", domain=ORT, kernel_shape=[2, 2]), {}, ["max_pool2d"]),
    ],
)  # fmt: skip
def test_a_fused_operator_is_its_parts(path: Path, made: Any, weights: Any, found: list[str]) -> None:
    graph = graph_of(path, made, {"x": IMAGE}, weights, domains=[ORT], opset=21)
    assert [each for each in kernels(graph) if each not in ("copy", "transpose")] == found


@pytest.mark.parametrize(
    ("op_type", "bias"), [("SkipLayerNormalization", "b c"), ("SkipSimplifiedLayerNormalization", "c")]
)
def test_a_norm_with_its_sum_gives_both(path: Path, op_type: str, bias: str) -> None:
    nodes = [node(op_type, f"x x s {bias}", "n - - h", domain=ORT), node("Mul", "n h")]
    weights = {"s": floats(12), "b": floats(12), "c": floats(12)}
    graph = graph_of(path, nodes, {"x": TOKENS}, weights, domains=[ORT])
    assert kernels(graph)[:2] == ["add", "add"]
    assert kernels(graph)[-1] == "mul"
    assert graph.nodes[-1].inputs == (len(graph.nodes) - 2, len(graph.nodes) - 3)


def test_a_product_may_take_its_matrices_turned(path: Path) -> None:
    graph = graph_of(path, node("FusedMatMul", "x x", domain=ORT, transB=1, alpha=0.1), {"x": TOKENS}, domains=[ORT])
    assert graph.macs == 2 * 5 * 12 * 5
    turned = node("FusedMatMul", "x x", domain=ORT, transBatchA=1)
    with pytest.raises(ValueError, match="FusedMatMul of node 'y': a product that moves its batch axes has no formula"):
        graph_of(path, turned, {"x": TOKENS}, domains=[ORT])


HEADS = {"x": (2, 5, 12), "k": (2, 7, 12), "v": (2, 7, 12)}


@pytest.mark.parametrize(
    ("made", "inputs", "macs"),
    [
        # scores and values: 2 images * 3 heads * 5 * 7 * (4 + 4)
        (node("MultiHeadAttention", "x k v", domain=ORT, num_heads=3), HEADS, 2 * 3 * 5 * 7 * 8),
        (node("MultiHeadAttention", "x", domain=ORT, num_heads=3), {"x": (2, 5, 3, 3, 4)}, 2 * 3 * 5 * 5 * 8),
        (node("MultiHeadAttention", "x k", domain=ORT, num_heads=3), {"x": (2, 5, 12), "k": (2, 7, 3, 2, 4)},
         2 * 3 * 5 * 7 * 8),
        # four tokens before: 11 keys
        (node("MultiHeadAttention", "x k v - - - p p", "y a b", domain=ORT, num_heads=3), {**HEADS, "p": (2, 3, 4, 4)},
         2 * 3 * 5 * 11 * 8),
        # three heads of queries share one of keys
        (node("GroupQueryAttention", "x k v - - s t", domain=ORT, num_heads=3, kv_num_heads=1),
         {"x": (2, 5, 12), "k": (2, 7, 4), "v": (2, 7, 4), "s": ((2,), INT64), "t": ((1,), INT64)}, 2 * 3 * 5 * 7 * 8),
        (node("Attention", "x k v", q_num_heads=3, kv_num_heads=3), HEADS, 2 * 3 * 5 * 7 * 8),
        (node("Attention", "x k v", q_num_heads=3, kv_num_heads=1), {"x": (2, 5, 12), "k": (2, 7, 4), "v": (2, 7, 4)},
         2 * 3 * 5 * 7 * 8),
        (node("Attention", "x k v m", is_causal=0), {**dict.fromkeys("xkv", (2, 3, 5, 4)), "m": (5, 5)},
         2 * 3 * 5 * 5 * 8),
    ],
)  # fmt: skip
def test_attention_stays_whole_and_counts_scores_and_values(path: Path, made: Any, inputs: Any, macs: int) -> None:
    graph = graph_of(path, made, inputs, domains=[ORT], opset=23)
    assert kernels(graph).count("attention") == 1
    assert graph.macs == macs


def test_attention_with_its_linear_layer_counts_both(path: Path) -> None:
    made = node("Attention", "x w b", domain=ORT, num_heads=3)
    graph = graph_of(path, made, {"x": TOKENS}, {"w": floats(12, 36), "b": floats(36)}, domains=[ORT])
    assert graph.macs == 2 * 5 * 12 * 36 + 2 * 3 * 5 * 5 * 8
    assert Linear(shape=TOKENS, out_features=36, bias=True) in [each.operator for each in graph.nodes]


def test_words_segments_and_places_are_added_and_normalized(path: Path) -> None:
    made = node("EmbedLayerNormalization", "x s w p t g b", domain=ORT)
    weights = {"w": floats(100, 12), "p": floats(9, 12), "t": floats(2, 12), "g": floats(12), "b": floats(12)}
    inputs = {"x": ((2, 5), INT64), "s": ((2, 5), INT64)}
    graph = graph_of(path, made, inputs, weights, domains=[ORT])
    assert kernels(graph) == ["embedding", "add", "embedding", "add", "layer_norm"]
    assert graph.num_params == 12 * (100 + 9 + 2 + 1 + 1)


# ------------------------------------------------------------------------------------------- operators without formula


def test_an_unknown_operator_may_be_kept_with_what_it_reads_and_writes(path: Path) -> None:
    """The file says the shape of one output; ONNX's inference tells that of an operator of its own."""
    made = model([node("Magic", "x", "m n", domain="my.own"), node("Det", "m", "d"), node("Relu", "n")],
                 {"x": TOKENS}, domains=["my.own"], outputs=["d", "y"])  # fmt: skip
    for name, shape in (("m", (2, 5, 5)), ("n", (2, 5))):
        made.graph.value_info.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    path.write_bytes(made.SerializeToString())
    with pytest.raises(UnknownOperatorError, match=r"my\.own\.Magic of node 'm': .* allow_unknown=True keeps it"):
        read_onnx(path)
    graph = read_onnx(path, allow_unknown=True)
    assert [each.operator for each in graph.nodes if isinstance(each.operator, Unknown)] == [
        Unknown(name="my.own.Magic", shapes=(TOKENS,), to=(2, 5, 5)),
        Unknown(name="my.own.Magic", shapes=((2, 5, 5),), to=(2, 5)),
        Unknown(name="Det", shapes=((2, 5, 5),), to=(2,)),
    ]
    assert graph.macs == 0


def test_an_unknown_operator_whose_output_nobody_says_is_an_error_all_the_same(path: Path) -> None:
    made = node("Magic", "x", domain="my.own")
    with pytest.raises(UnknownOperatorError, match=r"shape of its output 'y' is not known, .*infer_shapes"):
        read_onnx(saved(path, [made], {"x": TOKENS}, domains=["my.own"]), allow_unknown=True)


@pytest.mark.parametrize(
    ("made", "inputs", "to"),
    [
        # two images of three classes, at most four boxes each: 24 triples
        (node("NonMaxSuppression", "x s m"), {"x": (2, 50, 4), "s": (2, 3, 50)}, (24, 3)),
        (node("NonZero", "x"), {"x": TOKENS}, (3, 120)),
        (node("Unique", "x", "y"), {"x": TOKENS}, (120,)),
        (node("Compress", "x c", axis=1), {"x": TOKENS, "c": ((5,), TensorProto.BOOL)}, TOKENS),
    ],
)  # fmt: skip
def test_what_writes_as_much_as_data_decide_is_unknown_and_writes_the_most(
    path: Path, made: Any, inputs: Any, to: Any
) -> None:
    saved(path, [made], inputs, weights={"m": np.array([4])})
    with pytest.raises(UnknownOperatorError, match="how much it writes depends on data; allow_unknown=True"):
        read_onnx(path)
    assert read_onnx(path, allow_unknown=True).nodes[-1].operator.output_shape == to


def test_a_number_that_a_branch_of_constants_makes_is_part_of_its_reader(path: Path) -> None:
    nodes = [node("Constant", "", "c", value_float=2.0), node("Exp", "c", "e"), node("Mul", "x e")]
    graph = graph_of(path, nodes, {"x": TOKENS})
    assert [each.operator for each in graph.nodes[1:]] == [Elementwise(function="mul", shapes=(TOKENS,))]


def test_weights_that_are_constant_nodes_are_learned_like_the_others(path: Path) -> None:
    """As some exporters write them: a matrix, and a bias."""
    matrix, bias = (onnx.numpy_helper.from_array(floats(*shape)) for shape in ((12, 4), (4,)))
    nodes = [node("Constant", "", "w", value=matrix), node("Constant", "", "b", value=bias),
             node("MatMul", "x w", "h"), node("Add", "h b")]  # fmt: skip
    graph = graph_of(path, nodes, {"x": TOKENS})
    assert [each.operator for each in graph.nodes[1:]] == [Linear(shape=TOKENS, out_features=4, bias=True)]
    added = graph_of(path, [node("Constant", "", "w", value=matrix), node("Add", "x w")], {"x": (12, 4)})
    assert Constant(shape=(12, 4), learned_params=48) in [each.operator for each in added.nodes]
