"""Spaces of networks on square images whose size may be a knob."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from typing_extensions import Self

from predictors.operators import Shape
from search_spaces.space import KnobSpace


@dataclass(frozen=True, kw_only=True)
class ResolutionSpace(KnobSpace):
    """Abstract. A space with a knob `resolution`, if there is more than one, and what deployment makes of it.

    Args:
        resolutions: heights and widths of the input images in pixels, increasing.
        deployed_resolution, batch: set by `deployed`.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    resolutions: tuple[int, ...]
    deployed_resolution: int | None = None
    batch: int = 1

    @property
    def resolution(self) -> int:
        return self.resolutions[-1]

    @property
    def resolution_knobs(self) -> dict[str, tuple[int, ...]]:
        return {"resolution": self.resolutions} if len(self.resolutions) > 1 else {}

    def input_shape(self, knobs: Mapping[str, int]) -> Shape:
        """Shape of the images as deployed; of the knobs only the resolution counts."""
        size = self.image_size(knobs)
        if self.deployed_resolution is not None:
            size = size * self.deployed_resolution // self.resolution
        return self.batch, self.in_channels, size, size

    def deployed(self, resolution: int | None = None, batch: int = 1) -> Self:
        """The space as deployed: resolution v becomes v * resolution / (largest resolution), images come in batches.

        Raises:
            ValueError: that is no positive whole number for one of the resolutions, or the batch is not positive.
        """
        if resolution is None:
            return replace(self, batch=batch)
        for each in self.resolutions:
            if resolution < 1 or each * resolution % self.resolution:
                raise ValueError(
                    f"space {self.name!r} cannot be deployed at resolution {resolution}: its resolution {each} of "
                    f"{list(self.resolutions)} would become {each * resolution / self.resolution:g}"
                )
        return replace(self, deployed_resolution=resolution, batch=batch)

    def _check_increasing(self, *names: str) -> None:
        for name in names:
            values = getattr(self, name)
            if not values or values[0] < 1 or list(values) != sorted(set(values)):
                raise ValueError(f"space {self.name!r}: {name} must be positive and increasing, found {list(values)}")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            least = min(value) if isinstance(value, tuple) else value
            if not least > 0:
                raise ValueError(f"space {self.name!r}: {name} must be positive, found {least!r}")

    def _check_stages(self, *names: str) -> None:
        """Each names a field with one entry for each stage; the first says how many there are."""
        num_stages = len(getattr(self, names[0]))
        for name in names:
            if not num_stages or len(getattr(self, name)) != num_stages:
                raise ValueError(
                    f"space {self.name!r}: {name} needs one entry for each of the {num_stages} stages, at least one, "
                    f"found {list(getattr(self, name))}"
                )
