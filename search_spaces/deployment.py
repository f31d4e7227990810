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
    deployed = copy.deepcopy(module).eval()
    if isinstance(deployed, Foldable):
        return deployed.folded().eval()
    for parent in list(deployed.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Foldable):
                setattr(parent, name, child.folded().eval())
    return deployed
