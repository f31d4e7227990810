"""Accuracies of subnets of a supernet that somebody has trained: from a file, at once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors

from nas.accuracy import NUM_CALIBRATION, SupernetAccuracy, channels_last, check_data_fits
from nas.data import ImageData
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe
from nas.training.checkpoint import load_into, read_safetensors
from search_spaces.ofa_checkpoint import read_ofa_checkpoint
from search_spaces.space import Space
from search_spaces.supernet import Supernet

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FromCheckpoint:
    """Subnets of a supernet in a file.

    Args:
        checkpoint: a file that Once-for-All's authors published, or a .safetensors file of `nas.train`.
        num_calibration: as in `SupernetAccuracy`.
    """

    needs_data: ClassVar[bool] = True
    needs_training: ClassVar[bool] = False

    checkpoint: str | None = None
    num_calibration: int = NUM_CALIBRATION

    def check(self, space: Space, data: ImageData | None) -> None:
        assert data is not None
        check_data_fits(space, data)
        read_supernet(self._path, space)

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        assert data is not None
        hashed = hashlib.sha256(data.digest.encode())
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
        return hashed.hexdigest()

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        assert data is not None
        accuracy = SupernetAccuracy(read_supernet(self._path, space), data, num_calibration=self.num_calibration)
        origin = f"those of subnets of {self._path.name} on the validation images of {data.name}"
        return Scoring(accuracy=accuracy, extract=accuracy.subnet, judgement=Judgement(origin=origin))

    @property
    def _path(self) -> Path:
        if self.checkpoint is None:
            raise ValueError("accuracy=pretrained needs a file of weights: accuracy.checkpoint=FILE")
        path = Path(self.checkpoint).expanduser()
        if not path.is_file():
            raise ValueError(f"accuracy.checkpoint: {str(path)!r} is no file")
        return path


def read_supernet(path: Path, space: Space) -> Supernet:
    """The supernet of a space from a published checkpoint, or from a .safetensors file that training wrote.

    Raises:
        ValueError: the file is damaged or has the weights of another space; what is missing or too many is named.
    """
    if path.suffix != ".safetensors":
        return read_ofa_checkpoint(path, space).eval()
    try:
        weights, metadata = read_safetensors(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is no whole safetensors file ({error})") from None
    if metadata.get("space", space.name) != space.name:
        raise ValueError(
            f"checkpoint {path} has weights of space {metadata['space']!r}, not of {space.name!r}; set "
            f"space={metadata['space']}"
        )
    supernet = channels_last(space.supernet())
    load_into(supernet, weights, f"checkpoint {path}")
    return supernet.eval()
