"""Accuracy of subnets: each is judged with batch statistics of its own, computed once and never forgotten."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from nas.data.images import ImageData, Images
from nas.data.inputs import evaluation_input
from search_spaces.deployment import Foldable, as_deployed
from search_spaces.space import Space
from search_spaces.supernet import Supernet

PIXELS_OF_A_BATCH = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Images of a batch times their pixels. On a processor, smaller batches spend their time on starting operators, larger
ones on fetching activations from memory: 512 images of 32x32 pixels took 0.6 times the time of 100."""
LARGEST_BATCH, SMALLEST_BATCH = 1024, 16
SMALLEST_CALIBRATION_BATCH = 100
"""The variance of a batch lacks what batches differ by, so statistics want large ones whatever the pixels."""
NUM_CALIBRATION = 256
"""Training images for batch statistics; docs/accuracy.md has what fewer and more give."""
KEPT_BYTES = 1 << 30
"""Of images as networks take them, and a quarter of it of statistics."""
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU)
_Module = TypeVar("_Module", bound=nn.Module)


class Accuracy(Protocol):
    """What a search maximises: a fraction in 0..1, the same for the same arch whatever was asked before."""

    def __call__(self, arch: Mapping[str, int]) -> float: ...


class SupernetAccuracy:
    """Accuracy of a supernet's subnets on the validation images, or on others.

    A subnet's batch statistics are those of `num_calibration` training images, the same for every subnet: the
    supernet's own are mixed from many subnets and give little better than chance (https://arxiv.org/abs/1903.05134,
    section 3.3). They are computed when a subnet is first asked for and kept. The supernet itself is not changed.

    Subnets run where the supernet's weights are, or on a GPU if there is one.

    Args:
        num_calibration: training images for the statistics, drawn at random by a fixed seed.

    Raises:
        ValueError: the data's classes or channels are not those of the supernet's space, `num_calibration` is not
            positive, or none of the images can be read.
    """

    def __init__(self, supernet: Supernet, data: ImageData, num_calibration: int = NUM_CALIBRATION) -> None:
        check_data_fits(supernet.space, data)
        self.supernet = supernet
        self.data = data
        self.device = _device_of(supernet)
        self._calibration = calibration_images(data, num_calibration)
        self._inputs = PreparedInputs(data, self.device)
        self._calibration_inputs = _Kept(KEPT_BYTES // 4)
        self._statistics = _Kept(KEPT_BYTES // 4)

    def __call__(self, arch: Mapping[str, int]) -> float:
        return self.of(arch, self.data.valid)

    def of(self, arch: Mapping[str, int], images: Images) -> float:
        """Accuracy on any images, e.g. `data.test`."""
        size = self.supernet.space.image_size(arch)
        return accuracy(folded(self._subnet(arch)), self.data, images, size, inputs=self._inputs)

    def subnet(self, arch: Mapping[str, int]) -> nn.Module:
        """A stand-alone copy of the subnet with its own statistics, in evaluation mode, on the processor."""
        return self._subnet(arch).cpu()

    def _subnet(self, arch: Mapping[str, int]) -> nn.Module:
        subnet = channels_last(self.supernet.extract(arch).to(self.device))
        norms = {
            name: each for name, each in subnet.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
        }
        if not norms:
            return subnet.eval()
        key = tuple(self.supernet.space.canonical(arch).values())
        kept = self._statistics.get(key)
        if kept is None:
            recalibrate(subnet, self._calibration_input(self.supernet.space.image_size(arch)))
            self._statistics.put(key, {name: each.detach().clone() for name, each in _statistics_of(norms).items()})
        else:
            for name, each in _statistics_of(norms).items():
                each.copy_(kept[name])
        return subnet.eval()

    def _calibration_input(self, size: int) -> torch.Tensor:
        kept = self._calibration_inputs.get(size)
        if kept is None:
            kept = {"inputs": evaluation_input(self.data, self._calibration, size).to(self.device)}
            self._calibration_inputs.put(size, kept)
        return kept["inputs"]


class PreparedInputs:
    """Batches of images as networks take them, kept as long as they fit into memory.

    Args:
        max_bytes: of all that is kept; a part of the data that is larger is prepared anew each time.
    """

    def __init__(self, data: ImageData, device: torch.device, max_bytes: int = KEPT_BYTES) -> None:
        self.data, self.device = data, device
        self._kept = _Kept(max_bytes)

    def batches(self, images: Images, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs (batch, channels, size, size) and their classes (batch,), of all images that can be read."""
        key = (id(images), size)
        kept = self._kept.get(key)
        if kept is None:
            wanted = 4 * len(images) * self.data.in_channels * size**2
            if wanted > self._kept.max_bytes:
                yield from self._prepared(images, size)
                return
            inputs, labels = zip(*self._prepared(images, size))
            kept = {f"{i}": x for i, x in enumerate((*inputs, *labels))}
            self._kept.put(key, kept, owner=images)
        tensors = list(kept.values())
        yield from zip(tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :])

    def _prepared(self, images: Images, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        num = batch_size(size, self.device)
        for indices in np.split(np.arange(len(images)), range(num, len(images), num)):
            batch = images.read(indices)
            x_BCHW = evaluation_input(self.data, batch.images, size)
            yield x_BCHW.to(self.device), torch.from_numpy(batch.labels).to(self.device)


def check_data_fits(space: Space, data: ImageData) -> None:
    """Raise ValueError unless the data has the classes and channels that networks of the space are made for."""
    for what in ("num_classes", "in_channels"):
        if getattr(space, what) != getattr(data, what):
            raise ValueError(
                f"data {data.name!r} has {what} {getattr(data, what)}, space {space.name!r} has "
                f"{getattr(space, what)}; set space.{what}={getattr(data, what)}"
            )


def channels_last(module: _Module) -> _Module:
    """The module itself, its weights laid out channels last: on processors about twice as fast as the default."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def batch_size(size: int, device: torch.device) -> int:
    """Images of `size` pixels that are judged at once."""
    pixels = PIXELS_OF_A_BATCH.get(device.type, PIXELS_OF_A_BATCH["cpu"])
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, pixels // size**2))


def calibration_images(data: ImageData, num: int) -> np.ndarray:
    """Training images for batch statistics, uint8 of shape (num, channels, height, width): always the same ones.

    They are drawn at random, since files often come class by class.

    Raises:
        ValueError: `num` is not positive, or none of the images can be read.
    """
    if num < 1:
        raise ValueError(f"num_calibration must be at least 1, found {num}")
    chosen = np.random.default_rng(0).permutation(len(data.train))[:num]
    images = data.train.read(np.sort(chosen)).images
    if not len(images):
        raise ValueError(f"data {data.name!r}: none of {len(chosen)} training images can be read")
    return images


def accuracy(
    module: nn.Module, data: ImageData, images: Images, size: int, *, inputs: PreparedInputs | None = None
) -> float:
    """Fraction of the images, at `size` pixels, to whose class the module gives the largest logit.

    Args:
        module: in evaluation mode, on any device.
        images: one of the parts of `data`.
        inputs: where they are kept for the next time; they are on the module's device.

    Raises:
        ValueError: none of the images can be read.
    """
    inputs = inputs or PreparedInputs(data, _device_of(module, move=False), max_bytes=0)
    num_read = 0
    with torch.inference_mode():
        num_right = torch.zeros((), dtype=torch.int64, device=inputs.device)
        for x_BCHW, labels_B in inputs.batches(images, size):
            if len(labels_B):
                num_right += (module(x_BCHW).argmax(dim=1) == labels_B).sum()
                num_read += len(labels_B)
    if not num_read:
        raise ValueError(f"data {data.name!r}: none of {len(images)} images can be read")
    return int(num_right) / num_read


def recalibrate(module: nn.Module, x_BCHW: torch.Tensor) -> None:
    """Replace the running statistics of every batch normalization by their mean over batches of these images.

    Nothing else of the module changes.

    Raises:
        ValueError: there is no image, or a single one where a normalization sees one value a channel.
    """
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    num = max(SMALLEST_CALIBRATION_BATCH, batch_size(x_BCHW.shape[-1], x_BCHW.device))
    batches = list(torch.tensor_split(x_BCHW, -(-len(x_BCHW) // num)) if len(x_BCHW) else [])
    if len(x_BCHW) < 2:
        raise ValueError(f"batch statistics need at least 2 images, found {len(x_BCHW)}")
    saved = [(each, each.training) for each in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches since the reset
        norm.train()
    try:
        with torch.inference_mode():
            for batch_BCHW in batches:
                module(batch_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for each, training in saved:
            each.training = training


def folded(module: nn.Module) -> nn.Module:
    """The module itself, in evaluation mode, with normalizations folded into the convolutions right before them; a copy
    where parts of it are folded for deployment.
    """
    if any(isinstance(each, Foldable) for each in module.modules()):
        module = as_deployed(module)
    for parent in module.modules():
        if isinstance(parent, nn.Sequential):
            for (_, conv), (name, norm) in pairwise(list(parent.named_children())):
                if type(conv) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
                    _fold(conv, norm)
                    parent._modules[name] = nn.Identity()
            _act_in_place(parent)
    return module


# ------------------------------------------------------------------------------------------------------------ private


class _Kept:
    """Named tensors by key; those that were not asked for the longest go when there are more than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[object, tuple[dict[str, torch.Tensor], object]] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: object) -> dict[str, torch.Tensor] | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: object, tensors: dict[str, torch.Tensor], owner: object = None) -> None:
        """`owner` lives as long as the entry does, so that its id is nobody else's."""
        self._entries[key] = tensors, owner
        self._num_bytes += _num_bytes(tensors)
        while self._num_bytes > self.max_bytes and len(self._entries) > 1:
            _, (oldest, _) = self._entries.popitem(last=False)
            self._num_bytes -= _num_bytes(oldest)


def _num_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors.values())


def _statistics_of(norms: Mapping[str, nn.modules.batchnorm._BatchNorm]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{which}": tensor
        for name, norm in norms.items()
        for which, tensor in norm.named_buffers(recurse=False)
        if which in ("running_mean", "running_var")
    }


def _device_of(module: nn.Module, *, move: bool = True) -> torch.device:
    """Where the module is; the GPU, if it may move and there is one."""
    tensor = next((each for each in (*module.parameters(), *module.buffers())), None)
    device = tensor.device if tensor is not None else torch.device("cpu")
    return torch.device("cuda") if move and device.type == "cpu" and torch.cuda.is_available() else device


def _act_in_place(layers: nn.Sequential) -> None:
    """Activations right behind a convolution overwrite what it gave, which nobody else reads: memory is not fetched
    anew for each.
    """
    owned = False
    for layer in layers:
        if owned and isinstance(layer, _ACTIVATIONS):
            layer.inplace = True
        owned = type(layer) is nn.Conv2d or (owned and isinstance(layer, nn.Identity))


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """conv(x) becomes norm(conv(x)): its weights times scale, its bias what is left."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift_C = norm.bias - norm.running_mean * scale_C
        conv.weight *= scale_C[:, None, None, None]
        conv.bias = nn.Parameter(shift_C if conv.bias is None else shift_C + conv.bias * scale_C, requires_grad=False)
