"""Steps of a training, one after the other, on one or several processes; its state goes into a checkpoint and back.

All that is random in a step follows from the recipe's seed and the step's number, so a checkpoint needs no state of
random generators, and a resumed training makes exactly the steps that an unbroken one would have made.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.accuracy import channels_last
from nas.data.images import ImageData
from nas.training.batches import Batches, MicroBatch, ReadAhead, num_ahead
from nas.training.checkpoint import load_into
from nas.training.ema import MovingAverage
from nas.training.logs import StepResult
from nas.training.norms import SynchronisedNorms
from nas.training.optimiser import learning_rate, make_optimiser
from nas.training.parallel import Processes
from nas.training.passes import Pass, SupernetTrainee, Trainee, loss_of
from nas.training.phases import begins_sorting, trained_widths
from nas.training.recipe import Recipe

SMALLEST_LOSS_SCALE = 2.0**-10
"""A scaler of float16 losses that has halved down to this has found nothing but overflows for dozens of steps."""


class DivergedError(ValueError):
    """A loss or a gradient is not finite; the step was not applied."""


class Training:
    """A network with its optimiser, the number of steps made, and what else changes from step to step."""

    def __init__(
        self,
        trainee: Trainee,
        data: ImageData,
        recipe: Recipe,
        processes: Processes,
        teacher: nn.Module | None = None,
    ) -> None:
        self.trainee, self.data, self.recipe, self.processes, self.step = trainee, data, recipe, processes, 0
        self.module = trainee.module.to(processes.device).train()
        self.optimiser = make_optimiser(self.module, recipe)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=recipe.precision == "float16")
        self.average = MovingAverage(self.module, recipe.ema) if recipe.ema else None
        self.given_teacher = None if teacher is None else _frozen(teacher, processes)
        self.first_phase_teacher: nn.Module | None = None
        self._batches = Batches(
            data=data,
            batch_size=recipe.batch_size,
            num_micro=recipe.accumulate,
            seed=recipe.seed,
            rank=processes.rank,
            num_processes=processes.num,
        )
        self._ahead = ReadAhead(self._read, recipe.total_steps, num_ahead(data, processes.device))
        self._synchronises = processes.num > 1 and recipe.synchronise_norms

    def run_step(self) -> StepResult:
        """One step.

        Raises:
            DivergedError: a loss or a gradient is not finite. Weights, optimiser and average are as before the step.
        """
        index, steps_in_phase = self.recipe.phase_at(self.step)
        if index and not steps_in_phase:
            self._begin_phase(index)
        passes = self.trainee.passes(self.step)
        micro_batches, nums = self._next_batch()
        rate = learning_rate(self.recipe, self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        torch.manual_seed(_seed(self.recipe.seed, self.step, self.processes.rank))
        sums_2P = torch.zeros((2, len(passes)), device=self.processes.device)
        with SynchronisedNorms() if self._synchronises else nullcontext():
            for batch, num in zip(micro_batches, nums):
                if num:
                    sums_2P += self._gradients(passes, batch, sum(nums))
        self.processes.sum(sums_2P)
        self.processes.sum_gradients(self.module)
        norm, losses, accuracies = self._apply(passes, sums_2P)
        self.step += 1
        return StepResult(
            losses=_by_name(passes, losses),
            accuracies=_by_name(passes, accuracies),
            learning_rate=rate,
            gradient_norm=norm,
            loss_scale=self.scaler.get_scale(),
            num_images=sum(nums),
        )

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, beside what the training was made of. All processes have to ask."""
        self._average_statistics()
        return {
            "step": self.step,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state(),
            "teacher": None if self.first_phase_teacher is None else self.first_phase_teacher.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        load_into(self.module, state["module"], "the checkpoint")
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
        if state["teacher"] is not None:
            teacher = self._largest()
            load_into(teacher, state["teacher"], "the checkpoint's teacher")
            self.first_phase_teacher = _frozen(teacher, self.processes)

    def finish(self) -> nn.Module:
        """The trained module on the processor, in evaluation mode, with averaged weights if there are some; all
        processes get the first one's.
        """
        self._average_statistics()
        if self.average is not None:
            self.module.load_state_dict(self.average.average)
        module = channels_last(self.module.cpu()).eval()
        module.load_state_dict(self.processes.share(module.state_dict()))
        return module

    def close(self) -> None:
        """Read no more batches ahead."""
        self._ahead.close()

    def _begin_phase(self, index: int) -> None:
        """Every phase has a fresh optimiser and a fresh average."""
        assert isinstance(self.trainee, SupernetTrainee)
        supernet = self.trainee.module
        if index == 1 and any(phase.distilled for phase in self.recipe.phases):
            with nullcontext() if self.average is None else self.average.applied(supernet):
                self.first_phase_teacher = _frozen(self._largest(), self.processes)
        if begins_sorting(self.trainee.space, self.recipe, index):
            from search_spaces.channel_sorting import sort_channels

            sort_channels(supernet, keep=trained_widths(self.trainee.space, self.recipe, index))
        self.optimiser = make_optimiser(self.module, self.recipe)
        self.average = MovingAverage(self.module, self.recipe.ema) if self.recipe.ema else None

    def _largest(self) -> nn.Module:
        assert isinstance(self.trainee, SupernetTrainee)
        return self.trainee.module.extract(self.trainee.space.largest())

    def _read(self, step: int) -> list[MicroBatch]:
        found = self._batches.read(step, self.trainee.passes(step)[0].size)
        if self.processes.device.type == "cuda":
            return [MicroBatch(x_BCHW.pin_memory(), labels_B.pin_memory()) for x_BCHW, labels_B in found]
        return found

    def _next_batch(self) -> tuple[list[MicroBatch], list[int]]:
        """The step's micro-batches of this process, and how many images each has in all processes.

        Raises:
            ValueError: not a single image can be read.
        """
        read = self._ahead.get(self.step)
        device = self.processes.device
        counts = torch.tensor([len(batch.labels_B) for batch in read], device=device)
        nums = self.processes.sum(counts).tolist() if self.processes.num > 1 else counts.tolist()
        if not sum(nums):
            raise ValueError(
                f"training {self.trainee.name}: none of the {self.recipe.batch_size} images of step {self.step + 1} "
                f"of data {self.data.name!r} can be read"
            )
        moved = [
            MicroBatch(x_BCHW.to(device, non_blocking=True), labels_B.to(device, non_blocking=True))
            for x_BCHW, labels_B in read
        ]
        return moved, nums

    def _gradients(self, passes: Sequence[Pass], batch: MicroBatch, num_all: int) -> torch.Tensor:
        """Add the gradients of all passes on one micro-batch.

        Returns:
            Losses and fractions of right answers, of shape (2, len(passes)), as this micro-batch adds them to the means
            over all `num_all` images of the step.
        """
        num = len(batch.labels_B)
        # A process without images still takes part in sums over all; unless norms do, its own stay as they are.
        self.module.train(num > 0 or self._synchronises)
        x_BCHW = batch.x_BCHW if num or self._synchronises else batch.x_BCHW.new_zeros((1, *batch.x_BCHW.shape[1:]))
        teacher_BK = self._teacher_logits(x_BCHW) if num else None
        leading_BK: torch.Tensor | None = None
        found = []
        for each in passes:
            with self.processes.autocast():
                logits_BK = self.trainee.logits(each, x_BCHW)
            if num:
                loss = loss_of(
                    each,
                    logits_BK,
                    batch.labels_B,
                    leading_BK=leading_BK,
                    teacher_BK=teacher_BK,
                    recipe=self.recipe,
                )
                loss = loss if num == num_all else loss * (num / num_all)
            else:
                loss = logits_BK.sum() * 0
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if leading_BK is None:
                leading_BK = logits_BK.detach()
            is_right_B = logits_BK.detach()[:num].argmax(dim=1) == batch.labels_B
            found.append(torch.stack([loss.detach(), is_right_B.sum() / num_all]))
        return torch.stack(found, dim=1)

    def _teacher_logits(self, x_BCHW: torch.Tensor) -> torch.Tensor | None:
        phase = self.recipe.schedule[self.recipe.phase_at(self.step)[0]]
        teacher = self.first_phase_teacher if phase.distilled else self.given_teacher
        if teacher is None or not self.recipe.distillation:
            return None
        with torch.no_grad(), self.processes.autocast():
            logits_BK: torch.Tensor = teacher(x_BCHW)
        return logits_BK

    def _apply(self, passes: Sequence[Pass], sums_2P: torch.Tensor) -> tuple[float, list[float], list[float]]:
        """Take the step along the gradients, if everything is finite.

        Returns:
            The gradients' Euclidean norm before clipping, and the losses and accuracies that `sums_2P` holds.
        """
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.get_total_norm([each.grad for each in self.module.parameters() if each.grad is not None])
        norm_value, *sums = torch.cat([norm[None], sums_2P.flatten()]).tolist()  # the one wait for a GPU in a step
        losses, accuracies = sums[: len(passes)], sums[len(passes) :]
        for each, loss in zip(passes, losses):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss of {each} is {loss}")
        is_finite = math.isfinite(norm_value)
        if not is_finite and not (self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_LOSS_SCALE):
            raise self._diverged(f"the norm of the gradients is {norm_value}")
        if self.recipe.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.module.parameters(), self.recipe.clip_norm, norm)
        self.scaler.step(self.optimiser)  # with a scaler, gradients that are not finite are left out
        self.scaler.update()
        if self.average is not None and is_finite:
            self.average.update(self.module)
        return norm_value, losses, accuracies

    def _average_statistics(self) -> None:
        """Running statistics that each process has of its own become those of all."""
        if self.recipe.synchronise_norms:
            return
        buffers = dict(self.module.named_buffers())
        self.processes.average(buffers.values())
        if self.average is not None:
            self.processes.average(self.average.average[name] for name in buffers)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"training {self.trainee.name}: at step {self.step + 1} of {self.recipe.total_steps} {what}; "
            "the step was not applied"
        )


# ------------------------------------------------------------------------------------------------------------ private


def _frozen(teacher: nn.Module, processes: Processes) -> nn.Module:
    return channels_last(copy.deepcopy(teacher).to(processes.device)).eval().requires_grad_(False)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _by_name(passes: Sequence[Pass], values: Sequence[float]) -> dict[str, float]:
    """Means over the passes of one name."""
    names = dict.fromkeys(each.name for each in passes)
    grouped = {name: [value for each, value in zip(passes, values) if each.name == name] for name in names}
    return {name: sum(group) / len(group) for name, group in grouped.items()}
