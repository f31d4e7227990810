"""Accuracy of subnets: the statistics of each are recomputed before it is judged."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.data.images import ImageData, Labelled
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
        self._calibration_BCHW = as_input(data.train.images[:num_calibration])

    def __call__(self, arch: Mapping[str, int]) -> float:
        return self.of(arch, self.data.valid)

    def of(self, arch: Mapping[str, int], labelled: Labelled) -> float:
        """Accuracy on any images, e.g. `data.test`."""
        return accuracy(folded(self.subnet(arch)), labelled, self.supernet.space.image_size(arch))

    def subnet(self, arch: Mapping[str, int]) -> nn.Module:
        """A stand-alone copy of the subnet with its own statistics, in evaluation mode: what is deployed."""
        subnet = channels_last(self.supernet.extract(arch))
        recalibrate(subnet, resized(self._calibration_BCHW, self.supernet.space.image_size(arch)))
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


def as_input(images: np.ndarray) -> torch.Tensor:
    """What networks take: float32 of the same shape with black at -2 and white at 2, channels last in memory."""
    x_BCHW = torch.from_numpy(images).float().div_(255).sub_(0.5).div_(0.25)
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def resized(x_BCHW: torch.Tensor, size: int) -> torch.Tensor:
    """The images at a height and width of `size` pixels."""
    if x_BCHW.shape[-1] == size:
        return x_BCHW
    return interpolate(x_BCHW, size=(size, size), mode="bilinear", antialias=True)


def accuracy(module: nn.Module, labelled: Labelled, size: int) -> float:
    """Fraction of the images, resized to `size` pixels, to whose class the module gives the largest logit."""
    num_right = 0
    with torch.inference_mode():
        for start in range(0, len(labelled), BATCH):
            x_BCHW = resized(as_input(labelled.images[start : start + BATCH]), size)
            labels_B = torch.from_numpy(labelled.labels[start : start + BATCH])
            num_right += int((module(x_BCHW).argmax(dim=1) == labels_B).sum())
    return num_right / len(labelled)


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
