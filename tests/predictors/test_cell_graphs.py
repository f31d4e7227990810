"""Networks of NAS-Bench-201 and the FBNet space: published counts, hand-derived blocks, and what a converter leaves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.fusion import fuse, load_runtime
from predictors.graph import Graph
from predictors.nasbench201 import NB201_OPERATIONS, parse_nb201
from predictors.operators import Conv2d, Linear
from predictors.validation.cell_graphs import (
    FBNET_SKIP,
    fbnet_graph,
    fold_zeros,
    nb201_graph,
)

SKIPS = ("skip_connect",) * 6
NONES = ("none",) * 6
CELLS = st.tuples(*[st.sampled_from(NB201_OPERATIONS)] * 6)


def products(graph: Graph) -> int:
    """MACs of convolutions and linear layers alone, which the benchmarks count."""
    return sum(node.operator.macs for node in graph.nodes if isinstance(node.operator, Conv2d | Linear))


def num_kernels(operations: tuple[str, ...], runtime: str) -> int:
    return len(fuse(nb201_graph(operations), load_runtime(runtime), "float32"))


def with_operation(edge: int, operation: str, others: tuple[str, ...] = SKIPS) -> tuple[str, ...]:
    return (*others[:edge], operation, *others[edge + 1 :])


def test_parse_reads_what_the_benchmark_writes() -> None:
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    assert parse_nb201(text) == ("nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "none")


@pytest.mark.parametrize(
    "text",
    ["", "|none~0|", "|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "|x~0|+|none~0|none~1|+|none~0|none~1|none~2|"],
)
def test_parse_refuses_what_is_no_arch(text: str) -> None:
    with pytest.raises(ValueError, match="no NAS-Bench-201 arch"):
        parse_nb201(text)


def test_the_largest_cell_has_the_published_counts() -> None:
    graph = nb201_graph(("nor_conv_3x3",) * 6)
    # NAS-Bench-201 gives 220.12 million and 1.531546 million parameters for this arch: the stem 442,368, thirty
    # convolutions a stage of 16 * 16 * 9 * 32 * 32 (the same at all three stages), two reductions of 3,670,016 and the
    # classifier's 640.
    assert products(graph) == 442_368 + 3 * 30 * 16 * 16 * 9 * 32 * 32 + 2 * 3_670_016 + 640 == 220_119_680
    assert graph.num_params == 1_531_546


def test_a_batch_multiplies_macs_but_no_parameters() -> None:
    one, many = nb201_graph(("nor_conv_1x1",) * 6), nb201_graph(("nor_conv_1x1",) * 6, batch=32)
    assert many.macs == 32 * one.macs
    assert many.num_params == one.num_params


def test_eager_pytorch_runs_zeros_and_what_nobody_reads() -> None:
    # fifteen cells: a multiplication by zero where there was a skip; all else stays
    assert num_kernels(with_operation(3, "none"), "torch_eager") == num_kernels(SKIPS, "torch_eager") + 15


def test_a_converter_removes_what_only_zeros_read() -> None:
    # node 2 is read through zeros alone: neither the convolution into it nor the addition there runs in any cell
    unread = with_operation(5, "none", with_operation(1, "nor_conv_3x3"))
    assert num_kernels(unread, "litert") == num_kernels(with_operation(5, "none"), "litert")
    assert num_kernels(unread, "torch_eager") == num_kernels(with_operation(5, "none"), "torch_eager") + 3 * 15


def test_a_disconnected_network_hardly_runs_under_a_converter() -> None:
    # two additions of the last cell, batch norm with ReLU or without, pooling over the image, the classifier
    assert num_kernels(NONES, "litert") <= 6
    assert num_kernels(NONES, "torch_eager") > 15 * (6 + 3)  # each cell multiplies six times and adds three times


@given(CELLS)
def test_zeros_never_add_kernels_under_a_converter(operations: tuple[str, ...]) -> None:
    for edge in range(6):
        assert num_kernels(with_operation(edge, "none", operations), "litert") <= num_kernels(operations, "litert") + 15


@pytest.mark.parametrize(
    ("operations", "folded_edges"),
    [
        # node 1 is a convolution that only zeros read: it goes on into node 2, which it alone makes up, and so to 3
        (with_operation(0, "nor_conv_3x3", NONES), [2, 5]),
        # node 2 sums two convolutions: the product with zero stands behind the sum and is a constant
        (with_operation(1, "nor_conv_3x3", with_operation(0, "nor_conv_3x3", NONES)), [2]),
        # another edge reads node 1: its convolution cannot take the zeros; node 2 is one convolution
        (
            with_operation(
                1, "nor_conv_1x1", with_operation(4, "nor_conv_1x1", with_operation(0, "nor_conv_3x3", NONES))
            ),
            [5],
        ),
        # pooling takes no factor
        (with_operation(1, "avg_pool_3x3", NONES), []),
        (with_operation(0, "avg_pool_3x3", NONES), []),
        (SKIPS, []),
        (NONES, []),
    ],
)
def test_zeros_fold_into_a_convolution_that_stands_alone(operations: tuple[str, ...], folded_edges: list[int]) -> None:
    found = fold_zeros(operations)
    assert [edge for edge in range(6) if found[edge] != operations[edge]] == folded_edges
    assert all(found[edge] == "skip_connect" and operations[edge] == "none" for edge in folded_edges)


def test_an_fbnet_block_is_expansion_depthwise_and_projection() -> None:
    def of(block: int) -> Graph:
        return fbnet_graph([FBNET_SKIP, FBNET_SKIP, block, *[FBNET_SKIP] * 19])

    # layer 2: 24 channels at 32x32, so 72 or 24 inside: 1x1 in, depthwise, 1x1 out
    skip = products(of(FBNET_SKIP))
    assert products(of(2)) - skip == 1024 * (24 * 72 + 9 * 72 + 72 * 24)  # 3x3, expansion 3
    assert products(of(6)) - skip == 1024 * (24 * 72 + 25 * 72 + 72 * 24)  # 5x5, expansion 3
    assert products(of(1)) - skip == 1024 * (24 * 12 + 9 * 24 + 24 * 12)  # two groups halve the 1x1 convolutions


def test_a_skip_that_changes_the_shape_is_a_convolution() -> None:
    # layers 1, 5, 9, 13, 17, 21 change channels; the stem, those six and the head are convolutions
    graph = fbnet_graph([FBNET_SKIP] * 22)
    assert sum(isinstance(node.operator, Conv2d) for node in graph.nodes) == 1 + 6 + 1


@pytest.mark.parametrize("blocks", [[], [0] * 21, [9] * 22, [-1] * 22])
def test_an_fbnet_arch_has_22_known_blocks(blocks: list[int]) -> None:
    with pytest.raises(ValueError, match="22 blocks of 0 to 8"):
        fbnet_graph(blocks)
