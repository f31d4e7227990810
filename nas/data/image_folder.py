"""A folder of pictures in ImageNet's layout: `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, read as they are needed."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.data.images import ImageData
from nas.data.listing import Listing, class_folders, listed
from nas.data.picture_source import PictureSource

TRAIN, VALID, TEST = "train", "val", "test"


@dataclass(frozen=True, kw_only=True)
class ImageFolder(PictureSource):
    """Pictures in a folder for each class; the classes are numbered by their sorted names, as torchvision does.

    `train/` is trained on. Where `test/` has class folders it is the test set, and `val/` guides the search. Otherwise
    `val/` is the test set, and the images that guide the search are split from `train/`.

    Args:
        path: the folder that holds `train/` and the others.
        train_folder: another name of `train/`.
        valid_folder: guides the search; None decides as above.
        test_folder: is the test set; None decides as above.
        num_classes: how many class folders there have to be; None takes those found.
    """

    name: str = "image_folder"
    path: str | None = None
    train_folder: str = TRAIN
    valid_folder: str | None = None
    test_folder: str | None = None
    num_classes: int | None = None

    def load(self) -> ImageData:
        root = self._root()
        valid_folder, test_folder = self._folders(root)
        train = listed(root / self.train_folder)
        if self.num_classes not in (None, len(train.classes)):
            raise ValueError(
                f"data {self.name!r}: {train.root} has {len(train.classes)} class folders, num_classes is "
                f"{self.num_classes}"
            )
        valid = None if valid_folder is None else _with_classes_of(train, listed(root / valid_folder))
        return self.task(
            train=train,
            valid=valid,
            test=_with_classes_of(train, listed(root / test_folder)),
            class_names=train.classes,
        )

    def _root(self) -> Path:
        how = f"give data.path=, a folder that holds {self.train_folder}/CLASS/*.jpg and {VALID}/CLASS/*.jpg"
        if self.path is None:
            raise ValueError(f"data {self.name!r} is not part of this package: {how}")
        root = Path(self.path).expanduser()
        if not (root / self.train_folder).is_dir():
            state = f"has no folder {self.train_folder!r}" if root.is_dir() else "is no folder"
            raise ValueError(f"data {self.name!r}: {self.path!r} {state}: {how}")
        return root

    def _folders(self, root: Path) -> tuple[str | None, str]:
        """Folders of validation (None: split from training) and of test images."""
        test = self.test_folder
        if test is None:
            has_test = (root / TEST).is_dir() and bool(class_folders(root / TEST))
            test = TEST if has_test and self.valid_folder != TEST else VALID
        if not (root / test).is_dir():
            raise ValueError(
                f"data {self.name!r}: {str(root)!r} has no folder {test!r} with the test images in class folders; name "
                "another with data.test_folder="
            )
        if self.valid_folder is not None:
            if self.valid_folder in (test, self.train_folder):
                raise ValueError(f"data {self.name!r}: valid_folder {self.valid_folder!r} serves for another part, too")
            return self.valid_folder, test
        return (VALID if test != VALID and (root / VALID).is_dir() else None), test


# ------------------------------------------------------------------------------------------------------------ private


def _with_classes_of(train: Listing, other: Listing) -> Listing:
    """The list with its classes numbered as those of the training images."""
    numbers = {name: number for number, name in enumerate(train.classes)}
    if unknown := [name for name in other.classes if name not in numbers]:
        raise ValueError(
            f"{other.root}: {len(unknown)} class folders are not in {train.root}, the first is {unknown[0]!r}"
        )
    renumbered = np.array([numbers[name] for name in other.classes], np.int64)
    return replace(other, classes=train.classes, labels=renumbered[other.labels])
