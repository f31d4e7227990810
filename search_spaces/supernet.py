"""The weight-sharing network of any space whose `build` names its layers alike in every arch.

A subnet's parameter is the leading slice, along every axis, of the shared parameter of that name; layers that an arch
lacks are skipped. A smaller kernel is the centre of the next larger one times a learned matrix, as in
Once-for-All (https://arxiv.org/abs/1908.09791, section 3.3).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import nn
from torch.func import functional_call

from search_spaces.space import Arch, Space


class Supernet(nn.Module):
    """Holds the weights of every arch of a space. `forward` runs the arch that `set_arch` chose, at first the largest.

    The tensors of the active subnet are views of the shared ones: gradients reach the shared weights, and in training
    mode the subnet's batch statistics go into the leading channels of the shared running statistics.
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
            if weight.ndim == 4 and name in shapes and weight.shape[2:] != shapes[name].shape[2:]:
                for small in self.kernels[:-1]:
                    self.kernel_transforms[_transform_name(name, small)] = nn.Parameter(torch.eye(small * small))
        self._skeleton = lru_cache(maxsize=8)(lambda items: _skeleton_of(space, dict(items)))
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
        skeleton = self._skeleton(tuple(self._arch.items()))
        skeleton.train(self.training)
        logits_BK: torch.Tensor = functional_call(skeleton, self.slices(skeleton), (x_BCHW,))
        return logits_BK

    def slices(self, subnet: nn.Module) -> dict[str, torch.Tensor]:
        """For each parameter and buffer of a module of the space, the part of the shared tensor that belongs to it."""
        shared = dict(self.network.named_parameters()) | dict(self.network.named_buffers())
        wanted = dict(subnet.named_parameters()) | dict(subnet.named_buffers())
        return {name: self._slice(name, shared[name], tensor.shape) for name, tensor in wanted.items()}

    def extract(self, arch: Mapping[str, int]) -> nn.Module:
        """A stand-alone copy of the subnet, statistics included: the class that `space.build(arch)` returns."""
        subnet = _skeleton_of(self.space, self.space.canonical(arch))
        subnet.load_state_dict({name: tensor.detach() for name, tensor in self.slices(subnet).items()})
        return subnet.train(self.training)

    def _slice(self, name: str, shared: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        if shared.shape == shape:
            return shared
        if _transform_name(name, self.kernels[0] if self.kernels else 0) not in self.kernel_transforms:
            return shared[tuple(slice(size) for size in shape)]
        sliced = shared[tuple(slice(size) for size in shape[:2])]
        larger = self.kernels[-1]
        for small in reversed(self.kernels[:-1]):
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


@contextmanager
def uninitialised() -> Iterator[None]:
    """Modules made in this block have weights of any values: four to six times faster than drawing them.

    (On the meta device, torch's own way, a MobileNetV3 takes as long as with weights.)
    """
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    saved = {name: getattr(nn.init, name) for name in names}
    try:
        for name in names:
            setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for name, function in saved.items():
            setattr(nn.init, name, function)


def _transform_name(parameter: str, small: int) -> str:
    return f"{parameter.replace('.', '_')}_to_{small}"
