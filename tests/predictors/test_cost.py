import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import Cost, GraphBuilder, fuse, kernel_cost, load_runtime, peak_memory_bytes
from predictors.cost import bytes_per_element
from predictors.fusion import make_kernel
from predictors.operators import Activation, Conv2d, Elementwise, Linear, Normalization

TVM = load_runtime("tvm_opencl")
EAGER = load_runtime("torch_eager")


def only_cost(builder, x, dtype="float32", alignment=1):
    (node,) = fuse(builder.graph(x), TVM, dtype)
    return kernel_cost(node.kernel, alignment)


def test_a_fused_conv_bn_relu_reads_once_writes_once_and_holds_one_bias_a_channel():
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 8, 10, 10)), 16, 3)
    cost = only_cost(builder, builder.activation(builder.batch_norm(x), "relu"))
    assert cost.macs == 16 * 10 * 10 * 8 * 3 * 3  # the batch norm folds: no macs of its own
    assert cost.read_bytes == 8 * 10 * 10 * 4
    assert cost.weight_bytes == (16 * 8 * 3 * 3 + 16) * 4  # weights, and the bias that the batch norm leaves
    assert cost.write_bytes == 16 * 10 * 10 * 4
    assert cost.traffic_bytes == 3200 + 4672 + 6400
    assert cost.arithmetic_intensity == pytest.approx(2 * 115200 / 14272)


def test_a_batch_norm_folds_into_a_bias_that_is_there():
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 8, 10, 10)), 16, 3, bias=True)
    assert only_cost(builder, builder.batch_norm(x)).weight_bytes == (16 * 8 * 3 * 3 + 16) * 4


def test_a_batch_norm_alone_reads_scale_and_shift():
    norm = Normalization(shape=(1, 16, 10, 10), method="batch_norm", affine_params=32)
    cost = kernel_cost(make_kernel(norm, (), "float32"))
    assert (cost.macs, cost.weight_bytes) == (2 * 1600, 2 * 16 * 4)


def test_23_channels_cost_what_24_cost_at_alignment_4():
    def cost(channels, alignment):
        builder = GraphBuilder()
        x = builder.conv2d(builder.input((1, channels, 10, 10)), channels, 3)
        return only_cost(builder, builder.activation(builder.batch_norm(x), "relu"), alignment=alignment)

    assert cost(23, 4).traffic_bytes == 24 * 100 * 4 * 2 + (24 * 24 * 9 + 24) * 4
    assert cost(23, 4) == cost(24, 4) == cost(24, 1)
    assert cost(23, 1).macs == 23 * 100 * 23 * 9


def test_a_residual_addition_costs_one_more_read():
    builder = GraphBuilder()
    x = builder.input((1, 8, 10, 10))
    plain = only_cost(builder, builder.conv2d(x, 8, 3))
    builder = GraphBuilder()
    x = builder.input((1, 8, 10, 10))
    added = only_cost(builder, builder.elementwise("add", builder.conv2d(x, 8, 3), x))
    assert added.read_bytes - plain.read_bytes == 8 * 10 * 10 * 4
    assert added.write_bytes == plain.write_bytes


def test_a_squeeze_and_excitation_multiply_reads_one_value_a_channel():
    scale = Elementwise(function="mul", shapes=((1, 8, 10, 10), (1, 8, 1, 1)))
    alone = kernel_cost(make_kernel(scale, (), "float16"), 4)
    assert (alone.read_bytes, alone.write_bytes) == ((800 + 8) * 2, 800 * 2)
    conv = Conv2d(in_channels=8, out_channels=8, height=10, width=10, kernel=(1, 1))
    fused = kernel_cost(make_kernel(conv, (scale,), "float16"), 4)
    assert fused.read_bytes == (800 + 8) * 2


def test_padded_groups_never_make_a_follower_read_less_than_nothing():
    # 8 groups of 3 channels become 8 groups of 4 at alignment 4; the activation sees 24 channels, not 32
    conv = Conv2d(in_channels=24, out_channels=24, height=5, width=5, kernel=(3, 3), padding=(1, 1), groups=8)
    relu = Activation(shape=(1, 24, 5, 5), function="relu")
    alone = kernel_cost(make_kernel(conv, (), "float32"), 4)
    fused = kernel_cost(make_kernel(conv, (relu,), "float32"), 4)
    assert fused.read_bytes == alone.read_bytes == 32 * 25 * 4


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("int8", 1)])
def test_bytes_follow_the_dtype_and_macs_do_not(dtype, size):
    cost = kernel_cost(make_kernel(Linear(shape=(1, 64), out_features=10), (), dtype))
    assert cost.traffic_bytes == (64 + 64 * 10 + 10) * size
    assert (cost.macs, cost.flops) == (640, 1280)


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="unknown dtype 'fp16'; known are"):
        bytes_per_element("fp16")


def test_costs_add_up_and_nothing_has_no_intensity():
    assert Cost(macs=1, read_bytes=2) + Cost(macs=10, write_bytes=5) == Cost(macs=11, read_bytes=2, write_bytes=5)
    assert Cost().arithmetic_intensity == 0.0


def test_peak_memory_of_a_diamond_is_its_widest_moment():
    # input 4x4x4 -> a (8 channels) -> b = relu(a), c = conv(a, 8 channels) -> d = b + c; nothing fused
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 4))
    a = builder.conv2d(x, 8, 1)
    b = builder.activation(a, "relu")
    c = builder.conv2d(a, 8, 1)
    graph = builder.graph(builder.elementwise("add", b, c))
    tensor = {"x": 4 * 16, "a": 8 * 16, "b": 8 * 16, "c": 8 * 16, "d": 8 * 16}
    weights = 4 * 8 + 8 * 8
    # alive while running: a: x a = 192; b: a b = 256; c: a b c = 384; d: b c d = 384
    assert peak_memory_bytes(graph, fuse(graph, EAGER, "float32"), "float32") == 4 * (
        weights + tensor["a"] + tensor["b"] + tensor["c"]
    )


def test_outputs_live_to_the_end_and_inputs_from_the_start():
    # early = relu(x) is an output: it still lives when the pooled tensor is written at the end
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 4))
    early = builder.activation(x, "relu")
    late = builder.activation(early, "sigmoid")
    graph = builder.graph(early, builder.global_pool(late))
    # relu: x early = 128; sigmoid: early late = 128; pool: early late pooled = 128 + 4
    assert peak_memory_bytes(graph, fuse(graph, EAGER, "float16"), "float16") == 2 * (64 + 64 + 4)


def test_a_view_as_output_keeps_the_tensor_behind_it_alive():
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 4))
    early = builder.activation(x, "relu")
    view = builder.flatten(early)
    graph = builder.graph(view, builder.activation(builder.activation(x, "tanh"), "sigmoid"))
    # tanh: x early tanh = 192; sigmoid: early tanh sigmoid = 192
    assert peak_memory_bytes(graph, fuse(graph, EAGER, "float32"), "float32") == 4 * 192


@settings(deadline=None)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(3, 12),
    more=st.sampled_from(["in", "out", "size"]),
    alignment=st.sampled_from([1, 4, 8]),
)
def test_a_larger_convolution_never_costs_less(channels, size, more, alignment):
    def cost(in_channels, out_channels, size):
        conv = Conv2d(in_channels=in_channels, out_channels=out_channels, height=size, width=size, kernel=(3, 3))
        return kernel_cost(make_kernel(conv, (), "float16"), alignment)

    small = cost(*channels, size)
    large = cost(channels[0] + (more == "in"), channels[1] + (more == "out"), size + (more == "size"))
    assert large.macs >= small.macs
    assert large.traffic_bytes >= small.traffic_bytes
