"""What every source of encoded pictures has in common: how they are stored, split, kept and normalised."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from nas.data.augmentation import NO_AUGMENTATION, Augmentation
from nas.data.images import ImageData, Normalisation
from nas.data.lazy import EncodedPictures, LazyImages
from nas.data.pictures import MODES
from nas.data.splits import num_valid_of, stratified_split

IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class PictureSource(ABC):
    """A task of pictures that are read as they are needed.

    Args:
        stored_size: pixels of the shorter side after reading; the middle square is kept.
        in_channels: 3, or 1 for grey images.
        evaluation_crop: part of the stored square's sides that evaluation looks at.
        num_valid: images to split from the training images, where no others guide the search; None takes
            `valid_fraction` of them.
        seed: decides the split and the order of the images.
        memory_gb: images for the search, then those for training, stay in memory once read, where all of them fit into
            this. Processes on one machine share it.

    Raises:
        ValueError: a number is out of its range.
    """

    name: str
    stored_size: int = 256
    in_channels: int = 3
    evaluation_crop: float = 0.875
    num_valid: int | None = None
    valid_fraction: float = 0.1
    seed: int = 0
    memory_gb: float = 2.0
    normalisation: Normalisation = IMAGENET_NORMALISATION
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        asked = f"data {self.name!r}"
        if self.stored_size < 1 or self.memory_gb < 0:
            raise ValueError(
                f"{asked}: stored_size must be positive and memory_gb not negative, found {self.stored_size} and "
                f"{self.memory_gb}"
            )
        if self.in_channels not in MODES:
            raise ValueError(f"{asked}: in_channels must be one of {[*MODES]}, found {self.in_channels}")

    @abstractmethod
    def load(self) -> ImageData:
        """The task; no picture is read yet."""

    def task(
        self,
        *,
        train: EncodedPictures,
        valid: EncodedPictures | None,
        test: EncodedPictures,
        class_names: tuple[str, ...],
    ) -> ImageData:
        """The task of these pictures; those for training and for the search come in an order that the seed decides.

        Args:
            valid: guide the search; None splits them from `train`, with all classes in proportion.
        """
        if valid is None:
            num_valid = num_valid_of(len(train.labels), self.num_valid, self.valid_fraction)
            split = stratified_split(train.labels, num_valid, self.seed)
            orders = {"valid": split.valid, "train": split.train}
        else:
            rng = np.random.default_rng([self.seed, len(train.labels)])
            orders = {"valid": rng.permutation(len(valid.labels)), "train": rng.permutation(len(train.labels))}
        kept = self._kept({part: len(places) for part, places in orders.items()})
        orders["test"] = np.arange(len(test.labels))
        pictures = {"train": train, "valid": train if valid is None else valid, "test": test}
        parts = {
            part: LazyImages(
                pictures[part],
                places,
                size=self.stored_size,
                channels=self.in_channels,
                keep=part in kept,
                what=f"data {self.name!r}, {part}",
            )
            for part, places in orders.items()
        }
        return ImageData(
            name=self.name,
            num_classes=len(class_names),
            train=parts["train"],
            valid=parts["valid"],
            test=parts["test"],
            normalisation=self.normalisation,
            augmentation=self.augmentation,
            evaluation_crop=self.evaluation_crop,
            class_names=class_names,
        )

    def _kept(self, numbers: dict[str, int]) -> set[str]:
        """The parts, in this order, that what is left of the memory has room for."""
        left = self.memory_gb * 1e9 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        kept = set()
        for part, number in numbers.items():
            if (size := number * self.in_channels * self.stored_size**2) <= left:
                kept.add(part)
                left -= size
        return kept
