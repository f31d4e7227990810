"""What every search space offers. An arch is one choice of every knob: a plain, JSON-able `dict[str, int]`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from typing_extensions import Self

from predictors.graph import Graph

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.supernet import Supernet

Arch = dict[str, int]


class Space(Protocol):
    """A search space. Everything but `build` and `supernet` works without torch."""

    @property
    def name(self) -> str: ...

    @property
    def choices(self) -> Mapping[str, tuple[int, ...]]:
        """Every knob and its values in increasing order, in the order of the network."""

    @property
    def resolution(self) -> int:
        """Largest height and width of the input images, in pixels."""

    @property
    def num_classes(self) -> int: ...

    def sample(self, rng: np.random.Generator) -> Arch:
        """A random canonical arch, every knob uniform before canonicalisation."""

    def canonical(self, arch: Mapping[str, int]) -> Arch:
        """The representative of all archs that build the same network: knobs without effect take their first value.

        Raises:
            ValueError: the arch lacks a knob, has one too many, or a value that `choices` does not list.
        """

    def smallest(self) -> Arch: ...

    def largest(self) -> Arch: ...

    def graph(self, arch: Mapping[str, int]) -> Graph:
        """The network as operators, without building a module."""

    def build(self, arch: Mapping[str, int]) -> "nn.Module":
        """A stand-alone torch module with fresh weights."""

    def supernet(self) -> "Supernet":
        """The weight-sharing network that holds every arch."""

    def encode(self, archs: Sequence[Mapping[str, int]]) -> np.ndarray:
        """Archs as indices into `choices`: int64 of shape (len(archs), len(choices))."""

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: its graphs take images so large that the largest resolution becomes `resolution`."""
