"""Tasks made of scikit-learn's 1,797 real handwritten digits, which need no download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49; `sklearn.datasets.load_digits` has its test part as 8x8 images of 17 grey levels.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import affine_grid, grid_sample, interpolate

from nas.data.images import ImageData, Labelled

SOURCE_SIZE = 8
PARTS = ("train", "valid", "test")
CHUNK = 2000


class Sources(NamedTuple):
    """Digits of one part, float32 in 0..1 of shape (num, 1, 8, 8), their classes and their places in the data set."""

    images: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor


def split_sources(seed: int, valid_fraction: float, test_fraction: float) -> dict[str, Sources]:
    """The real digits in three disjoint parts, shuffled by the seed.

    Raises:
        ValueError: the fractions leave nothing for one of the parts.
    """
    if not (valid_fraction > 0 and test_fraction > 0 and valid_fraction + test_fraction < 1):
        raise ValueError(
            f"valid_fraction {valid_fraction} and test_fraction {test_fraction} must be positive and leave something "
            "of 1 for training"
        )
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    num_valid, num_test = round(valid_fraction * len(order)), round(test_fraction * len(order))
    pieces = torch.split(order, [len(order) - num_valid - num_test, num_valid, num_test])
    return {part: Sources(images[each], labels[each], each) for part, each in zip(PARTS, pieces)}


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The digits as they are, enlarged to `size`: so easy that nearly every subnet is right."""

    name: str = "digits"
    size: int = 32
    valid_fraction: float = 0.3
    test_fraction: float = 0.2
    seed: int = 0

    def load(self) -> ImageData:
        parts: dict[str, Any] = {}
        for part, sources in split_sources(self.seed, self.valid_fraction, self.test_fraction).items():
            enlarged = interpolate(sources.images, size=(self.size, self.size), mode="bilinear")
            parts[part] = Labelled(images=_as_bytes(enlarged), labels=sources.labels.numpy())
        return ImageData(name=self.name, num_classes=10, **parts)


@dataclass(frozen=True, kw_only=True)
class ClutteredDigits:
    """A digit scaled, rotated and shifted among pieces of other digits, with noise: hard enough to tell subnets apart.

    The real digits are split before anything is composed, so that no digit of one part appears in another.

    Args:
        size: height and width of the images, in pixels.
        scales: least and largest size of the digit, as fractions of `size`.
        max_rotation_deg: digits and pieces are turned by up to this angle.
        num_pieces: pieces of other digits in each image, each at most `piece_size` source pixels (of 8) wide and high.
        noise: standard deviation of the noise, where 1 is the range from black to white.
    """

    name: str = "cluttered_digits"
    size: int = 32
    num_train: int = 24000
    num_valid: int = 2500
    num_test: int = 4000
    scales: tuple[float, ...] = (0.6, 0.9)
    max_rotation_deg: float = 15.0
    num_pieces: int = 2
    piece_size: int = 4
    noise: float = 0.08
    valid_fraction: float = 0.15
    test_fraction: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        asked = f"data {self.name!r}"
        for name in ("size", "num_train", "num_valid", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{asked}: {name} must be positive, found {getattr(self, name)}")
        if len(self.scales) != 2 or not 0 < self.scales[0] <= self.scales[1] <= 1:
            raise ValueError(f"{asked}: scales must be two increasing fractions of 1, found {list(self.scales)}")
        if not 1 <= self.piece_size <= SOURCE_SIZE:
            raise ValueError(f"{asked}: piece_size must be in 1..{SOURCE_SIZE}, found {self.piece_size}")
        if min(self.num_pieces, self.noise, self.max_rotation_deg) < 0:
            raise ValueError(f"{asked}: num_pieces, noise and max_rotation_deg must not be negative")

    def load(self) -> ImageData:
        parts: dict[str, Any] = {}
        numbers = (self.num_train, self.num_valid, self.num_test)
        sources = split_sources(self.seed, self.valid_fraction, self.test_fraction)
        for index, (part, number) in enumerate(zip(PARTS, numbers)):
            generator = torch.Generator().manual_seed(len(PARTS) * self.seed + index)
            chosen = torch.arange(number) % len(sources[part].labels)
            images = [self._compose(sources[part].images, chunk, generator) for chunk in torch.split(chosen, CHUNK)]
            parts[part] = Labelled(images=np.concatenate(images), labels=sources[part].labels[chosen].numpy())
        return ImageData(name=self.name, num_classes=10, **parts)

    def _compose(self, sources: torch.Tensor, chosen: torch.Tensor, generator: torch.Generator) -> np.ndarray:
        num = len(chosen)
        canvas = self._placed(sources[chosen], 1.0, generator)
        for _ in range(self.num_pieces):
            others = sources[torch.randint(len(sources), (num,), generator=generator)]
            canvas = torch.maximum(canvas, self._placed(others * self._windows(num, generator), 1.5, generator))
        canvas += self.noise * torch.randn(canvas.shape, generator=generator)
        return _as_bytes(canvas)

    def _windows(self, num: int, generator: torch.Generator) -> torch.Tensor:
        """Masks (num, 1, 8, 8) that keep one square of `piece_size` at a random place."""
        positions = torch.arange(SOURCE_SIZE)
        starts = torch.randint(SOURCE_SIZE - self.piece_size + 1, (2, num, 1), generator=generator)
        kept = (positions >= starts) & (positions < starts + self.piece_size)
        return (kept[0, :, None, :, None] & kept[1, :, None, None, :]).float()

    def _placed(self, images: torch.Tensor, reach: float, generator: torch.Generator) -> torch.Tensor:
        """Each image (num, 1, 8, 8) scaled, rotated and shifted on a black canvas (num, 1, size, size).

        Shifts go `reach` times as far as would keep the scaled image inside.
        """
        num = len(images)
        u = torch.rand((5, num), generator=generator)
        scale = self.scales[0] + (self.scales[1] - self.scales[0]) * u[0]
        angle = (2 * u[1] - 1) * np.deg2rad(self.max_rotation_deg)
        shift = (2 * u[2:4] - 1) * (1 - scale) * reach
        cos, sin = angle.cos() / scale, angle.sin() / scale
        # affine_grid maps the canvas to the source: the inverse of scaling, rotating and shifting.
        matrix = torch.stack(
            [cos, sin, -(cos * shift[0] + sin * shift[1]), -sin, cos, sin * shift[0] - cos * shift[1]], dim=1
        ).reshape(num, 2, 3)
        grid = affine_grid(matrix, [num, 1, self.size, self.size], align_corners=False)
        brightness = 0.6 + 0.4 * u[4]
        placed: torch.Tensor = grid_sample(images, grid, align_corners=False) * brightness[:, None, None, None]
        return placed


def _as_bytes(images: torch.Tensor) -> np.ndarray:
    return images.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
