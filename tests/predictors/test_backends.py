"""One suite for all runtimes that can be measured: each that is installed here has to pass it whole."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from movements import copy

from predictors import GraphBuilder, fuse, load_runtime, trace
from predictors.graph import Graph, Node
from predictors.measure import backend as backends
from predictors.measure.backend import RUNTIMES, Backend, MissingRuntimeError, NoKernelError, open_backend, queues
from predictors.operators import Conv2d, ConvTranspose2d, Copy, Input, Normalization, Resize, Softmax
from search_spaces import load_space

TOLERANCE = 1e-3


ON_GPU = [pytest.param((name, "cuda"), marks=pytest.mark.gpu) for name in ("torch_eager", "torch_compile")]


@pytest.fixture(scope="module", params=[*((name, "cpu") for name in RUNTIMES), *ON_GPU], ids=" ".join)
def backend(request: pytest.FixtureRequest) -> Backend:
    name, processor = request.param
    if processor == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    try:
        return open_backend(name, processor="cuda") if processor == "cuda" else open_backend(name)
    except MissingRuntimeError as error:
        pytest.skip(str(error))


def mobile_network() -> Graph:
    """Depthwise windows, squeeze-and-excitation, residual additions; a member of a space."""
    space = load_space("mobilenet_v3_tiny").deployed(resolution=64)
    return space.graph(space.largest())


def residual_network() -> Graph:
    """Padding at stride 2, pools, biases, groups, an activation after an addition, a concatenation."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 64, 64)), 24, kernel=7, stride=2, bias=True)
    x = builder.pool2d(builder.activation(x, "relu"), "max", kernel=3, stride=2, padding=1)
    y = builder.activation(builder.batch_norm(builder.conv2d(x, 24, kernel=3)), "relu6")
    y = builder.batch_norm(builder.conv2d(y, 24, kernel=3, groups=4))
    x = builder.activation(builder.elementwise("add", x, y), "relu")
    y = builder.activation(builder.conv2d(x, 16, kernel=(1, 5), bias=True), "silu")
    x = builder.pool2d(builder.concat(x, y), "avg", kernel=2, stride=2)
    x = builder.activation(builder.conv2d(x, 30, kernel=3, dilation=2), "sigmoid")
    x = builder.flatten(builder.global_pool(x))
    return builder.graph(builder.linear(builder.activation(builder.linear(x, 32), "gelu"), 10))


def activated_first() -> Graph:
    """Activations before their batch norms, one with an addition and an activation behind it."""
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 3, 28, 28)), 16, kernel=3), "relu")
    y = builder.batch_norm(builder.activation(builder.conv2d(x, 16, kernel=3), "relu"))
    x = builder.activation(builder.elementwise("add", y, x), "relu")
    x = builder.batch_norm(builder.activation(builder.conv2d(x, 16, kernel=3), "relu"))
    return builder.graph(builder.conv2d(x, 16, kernel=3))


def two_outputs() -> Graph:
    """A convolution whose output others read and the caller gets too; a product with a broadcast factor."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 4, 12, 20)), 8, kernel=3, stride=(2, 1))
    gate = builder.activation(builder.global_pool(x), "hardsigmoid")
    y = builder.elementwise("mul", builder.activation(x, "hardswish"), gate)
    return builder.graph(x, y)


def token_network() -> Graph:
    """Linear layers over tokens, a layer norm, a softmax."""
    builder = GraphBuilder()
    x = builder.input((1, 10, 32))
    norm = Normalization(shape=(1, 10, 32), method="layer_norm", affine_params=64)
    y = builder.linear(builder.add(norm, x), 48)
    y = builder.linear(builder.activation(y, "gelu"), 32)
    x = builder.elementwise("add", x, y)
    return builder.graph(builder.add(Softmax(shape=(1, 10, 32)), x))


def segmentation_head() -> Graph:
    """A transposed convolution and a resize."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 16, 24)), 8, kernel=3, stride=2)
    up = ConvTranspose2d(in_channels=8, out_channels=6, height=8, width=12, kernel=(2, 2), stride=(2, 2))
    x = builder.activation(builder.add(up, x), "relu")
    return builder.graph(builder.add(Resize(shape=(1, 6, 16, 24), size=(32, 48), method="nearest"), x))


def vision_transformer() -> Graph:
    """Two blocks of a ViT as timm has it: patches, a class token, attention between strided views."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=48, num_heads=3, num_classes=10)
    return trace(net, torch.zeros(1, 3, 64, 64))


def shifted_windows() -> Graph:
    """What Swin does around its attention, channels last: roll, cut into windows, put together, roll back."""
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 16, 16)), 12, kernel=4, stride=4, padding=0)
    x = builder.add(copy((1, 12, 4, 4), ("transpose", (0, 2, 3, 1))), x)
    x = builder.add(copy((1, 4, 4, 12), ("roll", (0, 3, 3, 0)), method="roll"), x)
    cut = (("reshape", (2, 2, 2, 2, 12)), ("transpose", (0, 2, 1, 3, 4)), ("reshape", (4, 4, 12)))
    x = builder.linear(builder.add(copy((1, 4, 4, 12), *cut), x), 8)
    join = (("reshape", (2, 2, 2, 2, 8)), ("transpose", (0, 2, 1, 3, 4)), ("reshape", (1, 4, 4, 8)))
    x = builder.add(copy((4, 4, 8), *join), x)
    x = builder.add(copy((1, 4, 4, 8), ("roll", (0, 1, 1, 0)), method="roll"), x)
    x = builder.add(copy((1, 4, 4, 8), ("pad", (0, 1, 0, 0), (0, 0, 1, 0)), method="pad"), x)
    return builder.graph(builder.add(Softmax(shape=(1, 5, 5, 8), axis=1), x))


OF_CONVOLUTIONS = (mobile_network, residual_network, two_outputs)
GRAPHS = (*OF_CONVOLUTIONS, token_network, segmentation_head, vision_transformer, shifted_windows)


def built(build, make):
    """What a backend makes of a graph. One that it has no kernel for skips the test by the operator's name; networks of
    convolutions have to run everywhere, and a ViT too.
    """
    try:
        return build(make())
    except NoKernelError as error:
        if make in (*OF_CONVOLUTIONS, vision_transformer):
            raise
        pytest.skip(f"no kernel: {error}")


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_outputs_equal_those_of_pytorch(backend: Backend, make) -> None:
    graph = make()
    expected = open_backend("torch_eager").network(graph).outputs()
    found = built(backend.network, make).outputs()
    assert [each.shape for each in found] == [graph.nodes[index].operator.output_shape for index in graph.outputs]
    for each, right in zip(found, expected):
        assert np.abs(right).max() > 1e-3, "an output of zeros would prove nothing"
        assert np.abs(each - right).max() < TOLERANCE * np.abs(right).max()


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_steps_run_every_operator_that_launches_something_once(backend: Backend, make) -> None:
    graph = make()
    profile = built(backend.profile, make)
    if profile is None:
        pytest.skip(f"{backend.name} times no steps")
    for _ in range(3):
        profile.run()
    steps, seconds_RS = profile.finish()
    assert seconds_RS.shape == (3, len(steps))
    assert (seconds_RS >= 0.0).all()
    assert seconds_RS.sum() > 0.0
    ran = [index for step in steps for index in step.nodes]
    assert len(ran) == len(set(ran)), "no node belongs to two steps"
    anchors = {node.nodes[0] for node in fuse(graph, load_runtime(backend.name), backend.dtype)}
    assert anchors <= set(ran), "every kernel's first node has a step"


@pytest.mark.parametrize("make", [mobile_network, activated_first], ids=lambda make: make.__name__)
def test_what_the_rules_fuse_is_what_the_runtime_fused(backend: Backend, make) -> None:
    """Each step runs whole kernels of `configs/runtime`: none is split over two steps, no two share one."""
    graph = make()
    profile = backend.profile(graph)
    if profile is None:
        pytest.skip(f"{backend.name} times no steps")
    profile.run()
    steps, _ = profile.finish()
    step_of = {index: number for number, step in enumerate(steps) for index in step.nodes}
    kernels = fuse(graph, load_runtime(backend.name), backend.dtype)
    shared = [{step_of[index] for index in kernel.nodes if index in step_of} for kernel in kernels]
    assert all(len(each) == 1 for each in shared), "a kernel of the rules ran in several steps"
    assert len(set.union(*shared)) == len(kernels), "two kernels of the rules ran in one step"


def test_steps_take_about_as_long_as_the_network(backend: Backend) -> None:
    space = load_space("mobilenet_v3_tiny").deployed(resolution=160)
    graph = space.graph(space.largest())
    profile = backend.profile(graph)
    if profile is None:
        pytest.skip(f"{backend.name} times no steps")
    if queues(backend):
        pytest.skip("steps are the device's seconds, the network's are the greater of the device's and the host's")
    network = backend.network(graph)
    cpu_s, wall_s = [], []
    for _ in range(12):
        profile.run()
        begin_cpu, begin_wall = time.process_time(), time.perf_counter()
        network.run()
        cpu_s.append(time.process_time() - begin_cpu)
        wall_s.append(time.perf_counter() - begin_wall)
    _, seconds_RS = profile.finish()
    steps_s = seconds_RS.sum(1)[2:].min()  # the least, since others have the processor at times
    assert 0.5 * min(cpu_s[2:]) < steps_s < 2.0 * min(wall_s[2:])


def test_a_backend_says_what_it_is(backend: Backend) -> None:
    assert isinstance(backend, Backend)
    assert load_runtime(backend.name).name == backend.name
    assert backend.version
    assert (backend.threads, backend.dtype) == (1, "float32")
    assert all(isinstance(value, str | int | bool) for value in backend.options.values())


def test_an_operator_that_its_record_does_not_determine_is_refused_by_name(backend: Backend) -> None:
    gather = Copy(shape=(1, 3, 4, 5), to=(1, 3, 5, 4), method="gather")
    graph = Graph((Node(Input(shape=(1, 3, 4, 5))), Node(gather, (0,))), (1,))
    with pytest.raises(NoKernelError, match=r"copy\("):
        backend.network(graph)


def test_an_unknown_dtype_and_processor_are_refused(backend: Backend) -> None:
    with pytest.raises(ValueError, match="float128"):
        open_backend(backend.name.removesuffix("_cuda"), dtype="float128")
    with pytest.raises(ValueError, match="abacus"):
        open_backend(backend.name.removesuffix("_cuda"), processor="abacus")


def test_a_single_kernel_can_be_run(backend: Backend) -> None:
    conv = Conv2d(in_channels=8, out_channels=12, height=9, width=9, kernel=(3, 3), padding=(1, 1))
    graph = Graph((Node(Input(shape=conv.input_shapes[0])), Node(conv, (0,))), (1,))
    assert backend.network(graph).outputs()[0].shape == conv.output_shape


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown runtime 'caffe'; .*'onnxruntime'"):
        open_backend("caffe")
    with pytest.raises(ValueError, match="threads must be at least 1, found 0"):
        open_backend("torch_eager", threads=0)


def test_a_missing_runtime_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(backends, "import_module", missing)
    with pytest.raises(
        MissingRuntimeError, match=r"runtime 'litert' needs 'ai_edge_litert'.*pip install ai-edge-litert"
    ):
        open_backend("litert")


def test_no_runtime_is_imported_before_it_is_used() -> None:
    check = (
        "import sys, predictors.measure.backend; "
        "print([name for name in ('torch', 'onnxruntime', 'openvino', 'ncnn', 'executorch', 'ai_edge_litert', 'onnx') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
