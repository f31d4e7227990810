"""Networks as deployed: what training needs and deployment does not is folded away."""

import copy
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Foldable(Protocol):
    """A part of a network that computes the same with fewer layers once it is trained."""

    def folded(self) -> nn.Module:
        """A new module that computes, in evaluation mode, what this one does."""


def as_deployed(module: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode whose `Foldable` parts are folded: the network that a `graph` describes.

    Normalizations stay; runtimes fuse them, and the exporter does.
    """
    return _folded(copy.deepcopy(module).eval(), {}).eval()


def _folded(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    """A module used in several places stays one."""
    if module not in known:
        folded = known[module] = module.folded() if isinstance(module, Foldable) else module
        for name, child in folded._modules.items():
            if child is not None:
                folded._modules[name] = _folded(child, known)
        if isinstance(folded, Foldable) and folded is not module:
            known[module] = _folded(folded, known)
    return known[module]
