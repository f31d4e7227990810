"""Carriers of the usual kernels of mobile networks, for a table that serves where no search space is given.

Chains of blocks as long as real networks, since what a kernel costs depends on what ran before it.
"""

from predictors.graph import Graph, GraphBuilder

_WIDTHS = (0.5, 1.0, 1.5)
_SIZES = (224, 96, 32)
_STAGES = ((24, 1), (40, 2), (80, 2), (112, 1), (160, 2))
"""Channels at width 1, and stride, of the stages."""

_WINDOWS = (3, 5, 7)
_EXPANSIONS = (3, 4, 6)


def ladder() -> tuple[Graph, ...]:
    """Networks over a few widths and image sizes at batch 1 that hold together the usual kernels at many sizes."""
    return tuple(_network(width, size, first) for first, width in enumerate(_WIDTHS) for size in _SIZES)


def _network(width: float, size: int, first: int) -> Graph:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, size, size)), _channels(16 * width), kernel=3, stride=2)
    x = builder.activation(builder.batch_norm(x), "hardswish")
    for stage, (channels, stride) in enumerate(_STAGES):
        activation = "hardswish" if (stage + first) % 2 else "relu"
        for block in range(2):
            choice = first + stage + block
            x = _inverted_residual(
                builder, x, _channels(channels * width), stride if block == 0 else 1,
                _WINDOWS[choice % 3], _EXPANSIONS[(choice + stage) % 3], activation, choice % 2 == 0,
            )  # fmt: skip
        if stage in (1, 3):
            x = builder.activation(builder.batch_norm(builder.conv2d(x, builder.shape(x)[1], kernel=3)), "relu")
    x = builder.activation(builder.batch_norm(builder.conv2d(x, _channels(960 * width), kernel=1)), "hardswish")
    x = builder.activation(builder.conv2d(builder.global_pool(x), _channels(1280 * width), kernel=1), "hardswish")
    return builder.graph(builder.linear(builder.flatten(x), 1000 if first else 10))


def _inverted_residual(
    builder: GraphBuilder, x: int, channels: int, stride: int, window: int, expansion: int, activation: str, gated: bool
) -> int:
    in_channels = builder.shape(x)[1]
    hidden = expansion * in_channels
    y = builder.activation(builder.batch_norm(builder.conv2d(x, hidden, kernel=1)), activation)
    y = builder.batch_norm(builder.conv2d(y, hidden, kernel=window, stride=stride, groups=hidden))
    y = builder.activation(y, activation)
    if gated:
        gate = builder.conv2d(builder.global_pool(y), _channels(hidden / 4), kernel=1, bias=True)
        gate = builder.conv2d(builder.activation(gate, "relu"), hidden, kernel=1, bias=True)
        y = builder.elementwise("mul", y, builder.activation(gate, "hardsigmoid"))
    y = builder.batch_norm(builder.conv2d(y, channels, kernel=1))
    return builder.elementwise("add", x, y) if stride == 1 and channels == in_channels else y


def _channels(number: float) -> int:
    return max(8, round(number / 8) * 8)
