"""Which images a step takes, and reading them ahead of it. All of it follows from seed and step."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

from nas.data.images import ImageData, Labelled
from nas.data.inputs import training_input

_Item = TypeVar("_Item")


class MicroBatch(NamedTuple):
    """Images, float32 of shape (num, channels, size, size), and their classes, int64 of shape (num,)."""

    x_BCHW: torch.Tensor
    labels_B: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """The batches of a training, as one of `num_processes` sees them.

    A batch is cut into micro-batches, and each of these into a part for every process, so that processes together see
    what one would see alone.
    """

    data: ImageData
    batch_size: int
    num_micro: int
    seed: int
    rank: int
    num_processes: int

    def read(self, step: int, size: int) -> list[MicroBatch]:
        """The micro-batches of a step. Images that cannot be read are left out, so one may be empty."""
        chosen = self.indices(step)
        found = []
        for micro in np.array_split(np.arange(self.batch_size), self.num_micro):
            rows = np.array_split(micro, self.num_processes)[self.rank]
            batch = self.data.train.read(chosen[rows])
            if len(batch.labels):
                x_BCHW = training_input(
                    self.data,
                    batch.images,
                    size,
                    seed=(self.seed, step),
                    rows=batch.places(rows),
                    num=self.batch_size,
                )
            else:
                x_BCHW = torch.empty((0, self.data.in_channels, size, size), memory_format=torch.channels_last)
            found.append(MicroBatch(x_BCHW, torch.from_numpy(batch.labels)))
        return found

    def indices(self, step: int) -> np.ndarray:
        """Places of a step's images among the training images, for all processes."""
        epoch, index = divmod(step, len(self.data.train) // self.batch_size)
        order = _order(self.seed, epoch, len(self.data.train))
        return order[index * self.batch_size : (index + 1) * self.batch_size]


class ReadAhead(Generic[_Item]):
    """Items 0, 1, 2, ... of a function, made in threads before they are asked for.

    Args:
        ahead: how many are made ahead, at most as many at a time; 0 makes each when it is asked for.
    """

    def __init__(self, make: Callable[[int], _Item], end: int, ahead: int) -> None:
        self._make, self._end, self._ahead = make, end, ahead
        self._pool = ThreadPoolExecutor(
            max_workers=max(ahead, 1), thread_name_prefix="batches", initializer=_compute_alone
        )
        self._waiting: dict[int, Future[_Item]] = {}

    def get(self, index: int) -> _Item:
        if not self._ahead:
            return self._make(index)
        for each in range(index, min(index + 1 + self._ahead, self._end)):
            if each not in self._waiting:
                self._waiting[each] = self._pool.submit(self._make, each)
        return self._waiting.pop(index).result()

    def close(self) -> None:
        """Make no more; wait for what is being made."""
        self._pool.shutdown(cancel_futures=True)


def num_ahead(data: ImageData, device: torch.device) -> int:
    """Batches to read ahead: several of files, whose decoding takes longer than a step; of images in memory one for a
    GPU, none for a processor, whose threads have enough to do.
    """
    if isinstance(data.train, Labelled):
        return 0 if device.type == "cpu" else 1
    return min(4, os.cpu_count() or 1)


# ------------------------------------------------------------------------------------------------------------ private


def _compute_alone() -> None:
    """Without this each thread has torch compute in as many more, which wait busily for each other: on two cores a step
    took 1.8 times as long.
    """
    torch.set_num_threads(1)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num)
