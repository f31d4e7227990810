"""The six published networks whose kernels and whole latencies the Adreno measurements hold, as graphs.

Only what launches a kernel of its own counts: batch norms are folded, so convolutions stand with their activation.
The channels and sizes are those of the measured kernels. Sources: Howard et al. 2017 (MobileNetV1), He et al. 2016
(ResNet V2, as TensorFlow slim strides it), Szegedy et al. 2016 (Inception V3), Simonyan, Zisserman 2015 (VGG16), Chen
et al. 2017 with Sandler et al. 2018 (DeepLabV3 on MobileNetV2), Redmon, Farhadi 2018 (YOLOv3).
"""

from collections.abc import Callable, Mapping

from predictors.graph import Graph, GraphBuilder
from predictors.operators import Copy, Pair, Resize, Softmax


class _Builder(GraphBuilder):
    """Short forms."""

    def conv(
        self, x: int, channels: int, kernel: int | Pair, stride: int = 1, padding: int | Pair | None = None,
        *, dilation: int = 1, groups: int = 1, activation: str = "relu",
    ) -> int:  # fmt: skip
        x = self.conv2d(x, channels, kernel, stride, padding, dilation, groups)
        return self.activation(x, activation) if activation else x

    def softmax(self, x: int) -> int:
        return self.add(Softmax(shape=self.shape(x)), x)

    def resize(self, x: int, size: int, method: str) -> int:
        return self.add(Resize(shape=self.shape(x), size=(size, size), method=method), x)

    def pad_corner(self, x: int) -> int:
        """A row and a column more, as a kernel of its own."""
        batch, channels, height, width = shape = self.shape(x)
        return self.add(Copy(shape=shape, to=(batch, channels, height + 1, width + 1), method="pad"), x)


def mobilenet_v1() -> Graph:
    """224x224."""
    net = _Builder()
    x = net.conv(net.input((1, 3, 224, 224)), 32, 3, 2)
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for channels, stride in blocks:
        x = net.conv(x, net.shape(x)[1], 3, stride, groups=net.shape(x)[1], activation="relu6")
        x = net.conv(x, channels, 1, activation="relu6")
    x = net.conv(net.global_pool(x), 1001, 1, activation="")
    return net.graph(net.softmax(x))


def resnet50_v2() -> Graph:
    """299x299; the last unit of a stage has the stride."""
    net = _Builder()
    x = net.conv(net.input((1, 3, 299, 299)), 64, 7, 2, 3, activation="")
    x = net.pool2d(x, "max", 3, 2, 1)
    for width, units, stride in ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
        for unit in range(units):
            step = stride if unit == units - 1 else 1
            before = net.activation(net.batch_norm(x), "relu")
            if unit == 0:
                shortcut = net.conv(before, 4 * width, 1, activation="")
            else:
                shortcut = net.pool2d(x, "max", 1, step) if step > 1 else x
            y = net.conv(net.conv(before, width, 1), width, 3, step)
            x = net.elementwise("add", net.conv(y, 4 * width, 1, activation=""), shortcut)
    x = net.activation(net.batch_norm(x), "relu")
    x = net.conv(net.global_pool(x), 1001, 1, activation="")
    return net.graph(net.softmax(x))


def inception_v3() -> Graph:
    """299x299."""
    net = _Builder()
    x = net.conv(net.input((1, 3, 299, 299)), 32, 3, 2, 0)
    x = net.conv(net.conv(x, 32, 3, 1, 0), 64, 3)
    x = net.conv(net.conv(net.pool2d(x, "max", 3, 2), 80, 1), 192, 3, 1, 0)
    x = net.pool2d(x, "max", 3, 2)
    for pooled in (32, 64, 64):
        double = net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3)
        x = net.concat(
            net.conv(x, 64, 1), net.conv(net.conv(x, 48, 1), 64, 5), double,
            net.conv(net.pool2d(x, "avg", 3, 1, 1), pooled, 1),
        )  # fmt: skip
    double = net.conv(net.conv(net.conv(x, 64, 1), 96, 3), 96, 3, 2, 0)
    x = net.concat(net.conv(x, 384, 3, 2, 0), double, net.pool2d(x, "max", 3, 2))
    for width in (128, 160, 160, 192):
        single = net.conv(net.conv(net.conv(x, width, 1), width, (1, 7)), 192, (7, 1))
        double = net.conv(net.conv(net.conv(x, width, 1), width, (7, 1)), width, (1, 7))
        double = net.conv(net.conv(double, width, (7, 1)), 192, (1, 7))
        x = net.concat(net.conv(x, 192, 1), single, double, net.conv(net.pool2d(x, "avg", 3, 1, 1), 192, 1))
    single = net.conv(net.conv(x, 192, 1), 320, 3, 2, 0)
    double = net.conv(net.conv(net.conv(net.conv(x, 192, 1), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, 0)
    x = net.concat(single, double, net.pool2d(x, "max", 3, 2))
    for _ in range(2):
        single = net.conv(x, 384, 1)
        double = net.conv(net.conv(x, 448, 1), 384, 3)
        x = net.concat(
            net.conv(x, 320, 1),
            *(net.conv(single, 384, (1, 3)), net.conv(single, 384, (3, 1))),
            *(net.conv(double, 384, (1, 3)), net.conv(double, 384, (3, 1))),
            net.conv(net.pool2d(x, "avg", 3, 1, 1), 192, 1),
        )
    x = net.conv(net.global_pool(x), 1001, 1, activation="")
    return net.graph(net.softmax(x))


def vgg16() -> Graph:
    """224x224."""
    net = _Builder()
    x = net.input((1, 3, 224, 224))
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.conv(x, channels, 3)
        x = net.pool2d(x, "max", 2, 2)
    x = net.flatten(x)
    for features in (4096, 4096):
        x = net.activation(net.linear(x, features, bias=False), "relu")
    return net.graph(net.softmax(net.linear(x, 1000, bias=False)))


def deeplab_v3() -> Graph:
    """513x513, output stride 8, without the wide pyramid."""
    net = _Builder()
    x = net.conv(net.input((1, 3, 513, 513)), 32, 3, 2, activation="relu6")
    x = net.conv(x, 32, 3, groups=32, activation="relu6")
    x = net.conv(x, 16, 1, activation="")
    # channels, units, stride and dilation of the first unit, dilation of the others (what was a stride dilates those)
    stages = (
        (24, 2, 2, 1, 1),
        (32, 3, 2, 1, 1),
        (64, 4, 1, 1, 2),
        (96, 3, 1, 2, 2),
        (160, 3, 1, 2, 4),
        (320, 1, 1, 4, 4),
    )
    for channels, count, stride, first, later in stages:
        for unit in range(count):
            inside = 6 * net.shape(x)[1]
            rate = later if unit else first
            y = net.conv(x, inside, 1, activation="relu6")
            y = net.conv(y, inside, 3, stride if unit == 0 else 1, dilation=rate, groups=inside, activation="relu6")
            y = net.conv(y, channels, 1, activation="")
            x = net.elementwise("add", y, x) if unit else y
    pooled = net.resize(net.conv(net.global_pool(x), 256, 1), 65, "bilinear")
    x = net.conv(net.concat(pooled, net.conv(x, 256, 1)), 256, 1)
    return net.graph(net.resize(net.conv(x, 21, 1, activation=""), 513, "bilinear"))


def yolo_v3() -> Graph:
    """416x416; a strided convolution takes a padded copy of its input."""
    net = _Builder()

    def unit(x: int, channels: int, kernel: int) -> int:
        return net.conv(x, channels, kernel, activation="leaky_relu")

    def half(x: int, channels: int) -> int:
        return net.conv(net.pad_corner(x), channels, 3, 2, 0, activation="leaky_relu")

    x = unit(net.input((1, 3, 416, 416)), 32, 3)
    kept = []
    for channels, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        x = half(x, channels)
        for _ in range(count):
            x = net.elementwise("add", unit(unit(x, channels // 2, 1), channels, 3), x)
        kept.append(x)
    outputs = []
    for channels, skip in ((512, None), (256, kept[3]), (128, kept[2])):
        if skip is not None:
            x = unit(x, channels, 1)
            x = net.concat(net.resize(x, 2 * net.shape(x)[-1], "nearest"), skip)
        for _ in range(2):
            x = unit(unit(x, channels, 1), 2 * channels, 3)
        x = unit(x, channels, 1)
        outputs.append(net.conv(unit(x, 2 * channels, 3), 255, 1, activation=""))
    return net.graph(*outputs)


NETWORKS: Mapping[str, Callable[[], Graph]] = {
    "mace_mobilenetv1": mobilenet_v1,
    "mace_resnet50_v2": resnet50_v2,
    "mace_inceptionv3": inception_v3,
    "mxnet_vgg16": vgg16,
    "mace_deeplabv3": deeplab_v3,
    "mace_yolov3": yolo_v3,
}
"""By the name that the kernels' logs give, without the layout."""
