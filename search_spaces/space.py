"""What every search space offers. An arch is one choice of every knob: a plain, JSON-able `dict[str, int]`."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

import numpy as np
from typing_extensions import Self

from predictors.graph import Graph
from predictors.sections import Position

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

    @property
    def in_channels(self) -> int:
        """Channels of the input images: 1 for grey, 3 for colour."""

    def sample(self, rng: np.random.Generator) -> Arch:
        """A random canonical arch, every knob uniform before canonicalisation."""

    def canonical(self, arch: Mapping[str, int]) -> Arch:
        """The representative of all archs that build the same network: knobs without effect take their first value.

        Raises:
            ValueError: the arch lacks a knob, has one too many, or a value that `choices` does not list.
        """

    def smallest(self) -> Arch: ...

    def largest(self) -> Arch: ...

    def image_size(self, arch: Mapping[str, int]) -> int:
        """Height and width of the images that the arch is trained and evaluated on, in pixels."""

    @property
    def positions(self) -> Sequence[Position]:
        """How graphs are cut: the places of a network and what may stand at each, in order. Joined, the sections of an
        arch are its graph. None, if the space does not say: `LatencyPredictor.predict_many` then asks arch by arch.
        """

    def graph(self, arch: Mapping[str, int]) -> Graph:
        """The network as operators, without building a module."""

    def build(self, arch: Mapping[str, int]) -> "nn.Module":
        """A stand-alone torch module with fresh weights, as it is trained.

        `graph` is the network as deployed: what `search_spaces.deployment.as_deployed` makes of the module.
        """

    def shared_network(self) -> "nn.Module":
        """A module of fresh weights that has every layer of every arch, named as in `build`, at its largest size."""

    @property
    def identity(self) -> Mapping[str, object]:
        """All that determines the networks of the space, JSON-able: what a file of trained weights is named after."""

    def supernet(self) -> "Supernet":
        """The weight-sharing network that holds every arch."""

    def encode(self, archs: Sequence[Mapping[str, int]]) -> np.ndarray:
        """Archs as indices into `choices`: int64 of shape (len(archs), len(choices))."""

    def decode(self, indices: np.ndarray) -> list[Arch]:
        """The archs that `encode` turned into indices."""

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: its graphs take images so large that the largest resolution becomes `resolution`."""


class KnobSpace(ABC):
    """Abstract. What follows from the knobs alone; a space adds its choices, its dead knobs, graphs and modules."""

    name: str
    num_classes: int
    in_channels: int

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    @abstractmethod
    def resolution(self) -> int: ...

    @abstractmethod
    def dead_knobs(self, arch: Mapping[str, int]) -> Iterable[str]:
        """Knobs without effect in this arch, e.g. those of blocks beyond a stage's depth."""

    @property
    def positions(self) -> Sequence[Position]:
        return ()

    @abstractmethod
    def graph(self, arch: Mapping[str, int]) -> Graph: ...

    @abstractmethod
    def build(self, arch: Mapping[str, int]) -> "nn.Module": ...

    @abstractmethod
    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self: ...

    def shared_network(self) -> "nn.Module":
        return self.build(self.largest())

    @property
    def identity(self) -> Mapping[str, object]:
        return {"class": type(self).__qualname__, **asdict(self)}  # type: ignore[call-overload]

    def check(self, arch: Mapping[str, int]) -> None:
        """Raise ValueError unless the arch gives every knob, and only those, a value that `choices` lists."""
        choices = self.choices
        for knob, values in choices.items():
            if arch.get(knob) not in values:
                found = f"has {arch[knob]!r}" if knob in arch else "does not give it"
                raise ValueError(f"space {self.name!r}: knob {knob!r} takes {list(values)}; the arch {found}")
        if len(arch) != len(choices):
            unknown = sorted(set(arch) - set(choices))
            raise ValueError(f"space {self.name!r} has no knobs {unknown}; it has {list(choices)}")

    def canonical(self, arch: Mapping[str, int]) -> Arch:
        self.check(arch)
        return {knob: arch[knob] for knob in self.choices} | {
            knob: self.choices[knob][0] for knob in self.dead_knobs(arch)
        }

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.canonical({knob: values[rng.integers(len(values))] for knob, values in self.choices.items()})

    def smallest(self) -> Arch:
        return {knob: values[0] for knob, values in self.choices.items()}

    def largest(self) -> Arch:
        return {knob: values[-1] for knob, values in self.choices.items()}

    def image_size(self, arch: Mapping[str, int]) -> int:
        return arch.get("resolution", self.resolution)

    def encode(self, archs: Sequence[Mapping[str, int]]) -> np.ndarray:
        knobs = [(knob, {value: index for index, value in enumerate(values)}) for knob, values in self.choices.items()]
        rows = []
        for arch in archs:
            try:
                rows.append([index_of[arch[knob]] for knob, index_of in knobs])
            except (KeyError, TypeError):
                self.check(arch)
                raise
            if len(arch) != len(knobs):
                self.check(arch)
        return np.array(rows, dtype=np.int64).reshape(len(archs), len(knobs))

    def decode(self, indices: np.ndarray) -> list[Arch]:
        """Archs of an integer array of shape (num_archs, len(choices)).

        Raises:
            ValueError: another shape, or an index outside of a knob's values.
        """
        sizes = [len(values) for values in self.choices.values()]
        if indices.ndim != 2 or indices.shape[1] != len(sizes):
            raise ValueError(f"space {self.name!r} decodes arrays of shape (n, {len(sizes)}), found {indices.shape}")
        if ((indices < 0) | (indices >= np.array(sizes))).any():
            raise ValueError(f"space {self.name!r}: an index is outside of 0 <= index < {sizes}")
        return [{knob: values[i] for (knob, values), i in zip(self.choices.items(), row)} for row in indices]

    def supernet(self) -> "Supernet":
        from search_spaces.supernet import Supernet

        return Supernet(self)
