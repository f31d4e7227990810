"""The weight-sharing network of any space whose `build` names its layers alike in every arch.

A subnet's parameter is the leading slice, along every axis, of the shared parameter of that name; layers that an arch
lacks are skipped. A smaller kernel is the centre of the next larger one times a learned matrix, as in
Once-for-All (https://arxiv.org/abs/1908.09791, section 3.3).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from search_spaces.space import Arch, Space

_MAX_SKELETONS = 8
_INITIALISERS = RLock()
"""Held while `torch.nn.init` does nothing."""


class Supernet(nn.Module):
    """Holds the weights of every arch of a space. `forward` runs the arch that `set_arch` chose, at first the largest.

    The tensors of the active subnet are views of the shared ones: gradients reach the shared weights, and in training
    mode the subnet's batch statistics go into the leading channels of the shared running statistics. What runs is a
    module of the subnet's own, all of it in this module's mode: hooks on parts of `network`, and modes set there, have
    no effect.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.network = space.shared_network()
        self.kernels = tuple(
            sorted({v for knob, values in space.choices.items() if knob.endswith("_kernel") for v in values})
        )
        self.kernel_transforms = nn.ParameterDict()
        smallest_kernels = {
            knob: values[0] if knob.endswith("_kernel") else values[-1] for knob, values in space.choices.items()
        }
        shapes = dict(_skeleton_of(space, smallest_kernels).named_parameters())
        for name, weight in self.network.named_parameters():
            if weight.ndim == 4 and name in shapes:
                smallest, largest = shapes[name].shape[-1], weight.shape[-1]
                for small in (each for each in self.kernels if smallest <= each < largest):
                    self.kernel_transforms[_transform_name(name, small)] = nn.Parameter(torch.eye(small * small))
        self._skeletons: OrderedDict[tuple[tuple[str, int], ...], nn.Module] = OrderedDict()
        self.set_arch(space.largest())

    @property
    def arch(self) -> Arch:
        """The arch that `forward` runs."""
        return dict(self._arch)

    def set_arch(self, arch: Mapping[str, int]) -> None:
        """Choose the arch that `forward` runs.

        Raises:
            ValueError: the arch is not one of this space.
        """
        self._arch = self.space.canonical(arch)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        skeleton = self._skeleton()
        skeleton.train(self.training)
        logits_BK: torch.Tensor = functional_call(skeleton, self.slices(skeleton), (x_BCHW,))
        return logits_BK

    def slices(self, subnet: nn.Module) -> dict[str, torch.Tensor]:
        """For each parameter and buffer of a module of the space, the part of the shared tensor that belongs to it."""
        shared = _tensors_of(self.network, every_name=True)
        wanted = _tensors_of(subnet)
        return {name: self._slice(name, shared[name], tensor.shape) for name, tensor in wanted.items()}

    def extract(self, arch: Mapping[str, int]) -> nn.Module:
        """A stand-alone copy of the subnet, statistics included: the class that `space.build(arch)` returns."""
        subnet = _skeleton_of(self.space, self.space.canonical(arch))
        slices = self.slices(subnet)
        with torch.no_grad():
            for name, tensor in _tensors_of(subnet).items():
                tensor.copy_(slices[name])
        return subnet.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_skeletons": OrderedDict()}

    def _skeleton(self) -> nn.Module:
        key = tuple(self._arch.items())
        if key in self._skeletons:
            self._skeletons.move_to_end(key)
        else:
            self._skeletons[key] = _skeleton_of(self.space, self._arch)
            if len(self._skeletons) > _MAX_SKELETONS:
                self._skeletons.popitem(last=False)
        return self._skeletons[key]

    def _slice(self, name: str, shared: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        if shared.shape == shape:
            return shared
        transformed = [each for each in self.kernels if _transform_name(name, each) in self.kernel_transforms]
        if not transformed:
            return shared[tuple(slice(size) for size in shape)]
        sliced = shared[tuple(slice(size) for size in shape[:2])]
        larger = shared.shape[-1]
        for small in reversed(transformed):
            if larger == shape[-1]:
                break
            margin = (larger - small) // 2
            centre = sliced[:, :, margin : margin + small, margin : margin + small].flatten(start_dim=2)
            sliced = (centre @ self.kernel_transforms[_transform_name(name, small)]).unflatten(2, (small, small))
            larger = small
        assert sliced.shape == shape, f"{name}: {tuple(sliced.shape)} made of {tuple(shared.shape)}, not {tuple(shape)}"
        return sliced


def _skeleton_of(space: Space, arch: Mapping[str, int]) -> nn.Module:
    """The module of an arch, whose weights are never read."""
    with uninitialised():
        return space.build(arch)


def _tensors_of(module: nn.Module, every_name: bool = False) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those of tied layers by one of their names or by every name."""
    parameters = module.named_parameters(remove_duplicate=not every_name)
    return dict(parameters) | dict(module.named_buffers(remove_duplicate=not every_name))


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules made in this block have weights of any values: a subnet of `mobilenet_v3` takes a
    sixth of the time that it takes to draw them (`tests/speed/test_supernet_speed.py`).

    (On the meta device, torch's own way, a MobileNetV3 takes as long as with weights.)
    """
    with _INITIALISERS, torch.random.fork_rng(devices=[]):
        names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
        saved = {name: getattr(nn.init, name) for name in names}
        try:
            for name in names:
                setattr(nn.init, name, lambda tensor, *_, **__: tensor)
            yield
        finally:
            for name, function in saved.items():
                setattr(nn.init, name, function)


def _transform_name(parameter: str, small: int) -> str:
    return f"{parameter.replace('.', '_')}_to_{small}"
