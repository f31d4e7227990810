"""What a person sees of a training: a progress bar, and curves in TensorBoard."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What came of a step: for each kind of subnet (`largest`, `smallest`, ...) its mean loss and its accuracy on the
    batch, a fraction.
    """

    losses: dict[str, float]
    accuracies: dict[str, float]
    learning_rate: float
    gradient_norm: float
    loss_scale: float
    num_images: int

    @property
    def loss(self) -> float:
        """Of the first pass."""
        return next(iter(self.losses.values()))

    @property
    def accuracy(self) -> float:
        """Of the first pass."""
        return next(iter(self.accuracies.values()))


class Reporter:
    """Shows steps as they are made.

    Args:
        folder: of the curves; None writes none.
        first_step: where a resumed training goes on; what the curves had beyond it is dropped.
    """

    def __init__(
        self, *, name: str, num_steps: int, first_step: int, progress: bool, folder: Path | None, log_steps: int
    ) -> None:
        self._bar = tqdm(total=num_steps, initial=first_step, desc=name, unit="step", disable=not progress)
        self._log_steps = log_steps
        self._writer: Any = None
        if folder is not None and log_steps:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_step)
        self._since, self._num_images = time.perf_counter(), 0

    def show(self, step: int, result: StepResult) -> None:
        """One step more has been made: `step` in all."""
        self._bar.set_postfix(loss=f"{result.loss:.2f}", accuracy=f"{result.accuracy:.0%}", refresh=False)
        self._bar.update()
        self._num_images += result.num_images
        if self._writer is None or step % self._log_steps:
            return
        now = time.perf_counter()
        curves = {f"loss/{name}": loss for name, loss in result.losses.items()}
        curves |= {f"accuracy/{name}": accuracy for name, accuracy in result.accuracies.items()}
        curves |= {
            "learning_rate": result.learning_rate,
            "gradient_norm": result.gradient_norm,
            "images_per_s": self._num_images / (now - self._since),
        }
        if result.loss_scale != 1.0:
            curves["loss_scale"] = result.loss_scale
        for name, value in curves.items():
            self._writer.add_scalar(name, value, step)
        self._since, self._num_images = now, 0

    def close(self) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()
