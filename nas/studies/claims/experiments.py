"""Small networks that each differ in the one thing that a claim is about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Copy

PADDED_CHANNELS = (17, 20, 23, 24, 25, 28, 31, 32, 33, 57, 63, 64, 65, 72)
DEPTHS = (4, 16, 64)
"""Layers of networks of equal MACs."""

BANDWIDTH_OPERATORS = ("relu", "add", "concat", "padding", "max_pool", "depthwise")
COPY, ACCUMULATE = "copy", "accumulate"
"""Plain passes over memory, which say what bandwidth there is to reach."""

ALONE = {
    "conv_bn": ("bn",), "conv_relu": ("relu",), "conv_bn_relu": ("bn", "relu"), "conv_relu_bn": ("relu", "bn"),
    "conv_hardswish": ("hardswish",), "conv_add_relu": ("add", "relu"),
}  # fmt: skip
"""What follows the convolution in each chain of the fusion experiment; every one of them is measured alone too."""

MACS_A_PIXEL = 9 * 32 * 32
"""In every convolution of the experiment of equal MACs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network of an experiment.

    Attributes:
        family: cases of one family are comparable: they differ in the one thing alone.
        name: what it is within its family.
        facts: numbers that tell it from others, e.g. channels.
    """

    experiment: str
    family: str
    name: str
    graph: Graph
    facts: Mapping[str, int] = field(default_factory=dict)


def padding(batch: int) -> Iterator[Case]:
    """Convolutions whose channels are, and are not, multiples of what a layout may ask for."""
    for kernel, size in ((1, 56), (3, 28)):
        for channels in PADDED_CHANNELS:
            builder = GraphBuilder()
            x = builder.input((batch, channels, size, size))
            graph = builder.graph(builder.conv2d(x, channels, kernel=kernel, bias=True))
            family = f"{kernel}x{kernel}, {size}x{size}"
            yield Case(
                experiment="padding", family=family, name=str(channels), graph=graph, facts={"channels": channels}
            )


def fusion(batch: int, kernels: tuple[int, ...] = (1, 3)) -> Iterator[Case]:
    """A convolution, the same with what follows it, and each follower alone."""
    for kernel in kernels:
        shape = (batch, 16, 112, 112) if kernel == 1 else (batch, 32, 56, 56)
        family = f"{kernel}x{kernel}, {shape[1]} channels, {shape[2]}x{shape[3]}"
        for name, followers in {"conv": (), **ALONE}.items():
            builder = GraphBuilder()
            x = builder.input(shape)
            beside = builder.input(shape) if "add" in followers else x
            x = builder.conv2d(x, shape[1], kernel=kernel, bias=followers[:1] != ("bn",))
            for follower in followers:
                x = _follow(builder, x, follower, beside)
            yield Case(experiment="fusion", family=family, name=name, graph=builder.graph(x))
        for name in dict.fromkeys(follower for followers in ALONE.values() for follower in followers):
            builder = GraphBuilder()
            x = builder.input(shape)
            beside = builder.input(shape) if name == "add" else x
            yield Case(
                experiment="fusion", family=family, name=name, graph=builder.graph(_follow(builder, x, name, beside))
            )


def depth(batch: int) -> Iterator[Case]:
    """Chains of 3x3 convolutions of equal MACs: many layers of small maps, and many layers of few channels."""
    for layers in DEPTHS:
        size = round(56 * (DEPTHS[0] / layers) ** 0.5)
        yield _chain(f"32 channels, batch {batch}", layers, batch, 32, size)
    for layers in DEPTHS:
        channels = round(64 * (DEPTHS[0] / layers) ** 0.5)
        yield _chain(f"14x14, batch {batch}", layers, batch, channels, 14)


def equal_macs(batch: int) -> Iterator[Case]:
    """Convolutions of `MACS_A_PIXEL` for each output of a 28x28 map, from dense to depthwise."""
    for channels, groups, kernel in ((32, 1, 3), (96, 1, 1), (64, 4, 3), (128, 16, 3), (256, 64, 3), (1024, 1024, 3)):
        builder = GraphBuilder()
        x = builder.input((batch, channels, 28, 28))
        graph = builder.graph(builder.conv2d(x, channels, kernel=kernel, groups=groups, bias=True))
        name = f"{kernel}x{kernel}, {channels} channels, {groups} groups"
        yield Case(experiment="equal_macs", family="28x28", name=name, graph=graph, facts={"groups": groups})


def common(batch: int, strides: tuple[int, ...], layers: int) -> Iterator[Case]:
    """Convolutions that differ in window and stride.

    Args:
        layers: alike, one after the other; where a runtime changes the layout around a network, the more the better.
    """
    for channels, size in ((64, 56), (128, 28)):
        for kernel in (1, 3, 5, 7):
            for stride in strides:
                builder = GraphBuilder()
                x = builder.input((batch, channels, size, size))
                for _ in range(layers):
                    x = builder.conv2d(x, channels, kernel=kernel, stride=stride, bias=True)
                yield Case(
                    experiment="common",
                    family=f"{channels} channels, {size}x{size}",
                    name=f"{kernel}x{kernel}/{stride}",
                    graph=builder.graph(x),
                    facts={"kernel": kernel, "stride": stride},
                )


def bandwidth(batch: int, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Operators that compute next to nothing, on square maps of 64 channels."""
    for size in sizes:
        for name in BANDWIDTH_OPERATORS:
            builder = GraphBuilder()
            shape = (batch, 64, size, size)
            x = builder.input(shape)
            if name in ("add", "concat"):
                beside = builder.input(shape)
                x = builder.concat(x, beside) if name == "concat" else builder.elementwise("add", x, beside)
            elif name == "relu":
                x = builder.activation(x, "relu")
            elif name == "padding":
                to = (batch, 64, size + 2, size + 2)
                steps = (("pad", (0, 0, 1, 1), (0, 0, 1, 1)),)
                x = builder.add(Copy(shape=shape, to=to, method="pad", steps=steps), x)
            elif name == "max_pool":
                x = builder.pool2d(x, "max", kernel=2, stride=2)
            else:
                x = builder.conv2d(x, 64, kernel=3, groups=64)
            num_bytes = 4 * batch * 64 * size * size
            yield Case(
                experiment="bandwidth",
                family=f"{batch}x64x{size}x{size}",
                name=name,
                graph=builder.graph(x),
                facts={"float32_bytes": num_bytes},
            )


LOW_PRECISION = {
    "1x1, 16 channels, 112x112": (16, 112, 1, 1),
    "depthwise 3x3, 64 channels, 112x112": (64, 112, 3, 64),
    "1x1, 256 channels, 28x28": (256, 28, 1, 1),
    "3x3, 128 channels, 28x28": (128, 28, 3, 1),
}
"""Channels, size, kernel and groups of convolutions: two with few operations a byte, two with many."""

NUM_LAYERS = 4
"""Of the chains of the experiments on precision."""


ADDED_SIZE = 248


def low_precision(batch: int) -> Iterator[Case]:
    """Chains of convolutions, to be run in several precisions, and an addition, which only moves data."""
    for family, (channels, size, kernel, groups) in LOW_PRECISION.items():
        builder = GraphBuilder()
        x = builder.input((batch, channels, size, size))
        for _ in range(NUM_LAYERS):
            x = builder.conv2d(x, channels, kernel=kernel, groups=groups, bias=True)
        yield Case(experiment="low_precision", family=family, name="uniform", graph=builder.graph(x))
    builder = GraphBuilder()
    shape = (batch, 64, ADDED_SIZE, ADDED_SIZE)
    graph = builder.graph(builder.elementwise("add", builder.input(shape), builder.input(shape)))
    family = f"addition, 64 channels, {ADDED_SIZE}x{ADDED_SIZE}"
    yield Case(experiment="low_precision", family=family, name="uniform", graph=graph)


# ------------------------------------------------------------------------------------------------------------ private


def _follow(builder: GraphBuilder, x: int, follower: str, beside: int) -> int:
    if follower == "bn":
        return builder.batch_norm(x)
    if follower == "add":
        return builder.elementwise("add", x, beside)
    return builder.activation(x, follower)


def _chain(family: str, layers: int, batch: int, channels: int, size: int) -> Case:
    builder = GraphBuilder()
    x = builder.input((batch, channels, size, size))
    for _ in range(layers):
        x = builder.activation(builder.conv2d(x, channels, kernel=3, bias=True), "relu")
    return Case(
        experiment="depth",
        family=family,
        name=f"{layers} layers of {channels} channels, {size}x{size}",
        graph=builder.graph(x),
        facts={"layers": layers, "channels": channels, "size": size},
    )
