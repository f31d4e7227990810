"""Accuracy of subnets: the statistics of each are recomputed before it is judged."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.data.images import ImageData, Images
from nas.data.inputs import evaluation_input
from search_spaces.space import Space
from search_spaces.supernet import Supernet

BATCH = 200
_Module = TypeVar("_Module", bound=nn.Module)


class Accuracy(Protocol):
    """What a search maximises: a fraction in 0..1, the same for the same arch whatever was asked before."""

    def __call__(self, arch: Mapping[str, int]) -> float: ...


class SupernetAccuracy:
    """Accuracy of a supernet's subnets on the validation images, or on others.

    A subnet's batch statistics are computed anew on the first `num_calibration` training images: those of the supernet
    are mixed from many subnets and give little better than chance (https://arxiv.org/abs/1903.05134, section 3.3).
    The supernet itself is not changed.

    Args:
        num_calibration: training images for the statistics; more cost time, fewer than a few hundred cost accuracy.

    Raises:
        ValueError: the data's classes or channels are not those of the supernet's space.
    """

    def __init__(self, supernet: Supernet, data: ImageData, num_calibration: int = 400) -> None:
        check_data_fits(supernet.space, data)
        self.supernet = supernet
        self.data = data
        self._calibration = data.train.read(np.arange(min(num_calibration, len(data.train)))).images

    def __call__(self, arch: Mapping[str, int]) -> float:
        return self.of(arch, self.data.valid)

    def of(self, arch: Mapping[str, int], images: Images) -> float:
        """Accuracy on any images, e.g. `data.test`."""
        return accuracy(folded(self.subnet(arch)), self.data, images, self.supernet.space.image_size(arch))

    def subnet(self, arch: Mapping[str, int]) -> nn.Module:
        """A stand-alone copy of the subnet with its own statistics, in evaluation mode: what is deployed."""
        subnet = channels_last(self.supernet.extract(arch))
        size = self.supernet.space.image_size(arch)
        recalibrate(subnet, evaluation_input(self.data, self._calibration, size))
        return subnet.eval()


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


def accuracy(module: nn.Module, data: ImageData, images: Images, size: int) -> float:
    """Fraction of the images, at `size` pixels, to whose class the module gives the largest logit.

    Args:
        images: one of the parts of `data`.

    Raises:
        ValueError: none of the images can be read.
    """
    num_right = num_read = 0
    with torch.inference_mode():
        for indices in np.split(np.arange(len(images)), range(BATCH, len(images), BATCH)):
            batch = images.read(indices)
            logits_BK = module(evaluation_input(data, batch.images, size))
            num_right += int((logits_BK.argmax(dim=1) == torch.from_numpy(batch.labels)).sum())
            num_read += len(batch.labels)
    if not num_read:
        raise ValueError(f"data {data.name!r}: none of {len(images)} images can be read")
    return num_right / num_read


def recalibrate(module: nn.Module, x_BCHW: torch.Tensor) -> None:
    """Replace the running statistics of every batch normalization by their mean over batches of these images."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    was_training = module.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches since the reset
    with torch.inference_mode():
        for batch_BCHW in torch.split(x_BCHW, BATCH):
            module.train()(batch_BCHW)
    module.train(was_training)


def folded(module: nn.Module) -> nn.Module:
    """The module itself, in evaluation mode, with normalizations folded into the convolutions right before them."""
    for parent in module.modules():
        if isinstance(parent, nn.Sequential):
            names = list(parent._modules)
            for name, following in pairwise(names):
                conv, norm = parent._modules[name], parent._modules[following]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    parent._modules[name] = fuse_conv_bn_eval(conv, norm)
                    parent._modules[following] = nn.Identity()
    return module
