"""Whole trainings: read what is finished, go on from a checkpoint, or begin; write what came of it."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.accuracy import channels_last, check_data_fits
from nas.data.images import ImageData
from nas.data.inputs import evaluation_input
from nas.training.checkpoint import (
    load_into,
    load_weights,
    read_checkpoint,
    save_weights,
    write_checkpoint,
)
from nas.training.distillation import load_teacher
from nas.training.engine import DivergedError, Training
from nas.training.keys import network_key, training_key
from nas.training.logs import Reporter
from nas.training.parallel import processes_of
from nas.training.passes import NetworkTrainee, SupernetTrainee, Trainee, fresh_supernet
from nas.training.phases import check_phases
from nas.training.recipe import Recipe
from search_spaces.space import Space
from search_spaces.supernet import Supernet


def train_supernet(
    space: Space,
    data: ImageData,
    recipe: Recipe,
    folder: Path,
    *,
    initial: Supernet | None = None,
    teacher: nn.Module | None = None,
    checkpoint_steps: int = 50,
    progress: bool = True,
) -> Supernet:
    """The trained supernet: read from the folder, or trained, going on from the last checkpoint there.

    Everything in the folder carries a hash of what determines the weights: the space, the training images, the recipe,
    what training begins with and learns from, and `keys.FORMAT`. On a processor, with the same number of threads, the
    weights are the same, killed and resumed or not. Started by `torchrun`, all processes train together; only the first
    reads and writes files.

    Args:
        folder: holds `<space>-<hash>.safetensors`, `.checkpoint` beside it while training, and `logs/` for TensorBoard.
        initial: a supernet of the space to begin with; None begins with random weights that follow from the seed.
        teacher: a network whose answers the largest subnet (of rule `sampled`: every subnet) learns from, too; None
            takes the one that the recipe names, if it does.
        checkpoint_steps: steps between two checkpoints; a kill loses at most these.

    Returns:
        The supernet on the processor, in evaluation mode.

    Raises:
        ValueError: the data does not fit the space, the training images do not fill one batch, the recipe's phases do
            not fit the space, or a file in the folder is damaged or of another training.
        DivergedError: a loss is not finite; the last checkpoint stays.
        OSError: the folder cannot be written; what was there stays.
    """
    check_data_fits(space, data)
    check_phases(space, recipe)
    _check_batch(data, recipe)
    teacher = teacher if teacher is not None else load_teacher(recipe)
    key = training_key(space, data, recipe, initial=initial, teacher=teacher)

    def begin() -> SupernetTrainee:
        supernet = fresh_supernet(space, recipe.seed)
        if initial is not None:
            load_into(supernet, initial.state_dict(), "the initial supernet")
        return SupernetTrainee(space=space, recipe=recipe, module=supernet)

    supernet = _trained(
        begin,
        data,
        recipe,
        name=space.name,
        key=key,
        finished=folder / f"{space.name}-{key[:12]}.safetensors",
        teacher=teacher,
        size=space.image_size(space.largest()),
        checkpoint_steps=checkpoint_steps,
        progress=progress,
    )
    assert isinstance(supernet, Supernet)
    return supernet


def train_network(
    module: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    size: int,
    file: Path | None = None,
    teacher: nn.Module | None = None,
    checkpoint_steps: int = 50,
    progress: bool = True,
) -> nn.Module:
    """One network, trained alone from the weights that it has: a baseline, or a subnet to be fine-tuned.

    The recipe's `rule` and `num_random` have no effect.

    Args:
        module: takes images (batch, channels, size, size), gives logits (batch, num_classes); it stays as it is.
        size: height and width of the images, in pixels.
        file: keeps the trained weights, as safetensors; beside it lie the checkpoint while training and `logs/`. If it
            holds the same training, it is read. None keeps nothing.
        teacher: as in `train_supernet`.
        checkpoint_steps: steps between two checkpoints.

    Returns:
        A trained copy on the processor, in evaluation mode.

    Raises:
        ValueError: the recipe has phases, the network does not take the images or has other classes, the training
            images do not fill one batch, or the file is damaged or of another training.
        DivergedError: a loss is not finite; the last checkpoint stays.
        OSError: the file cannot be written; what was there stays.
    """
    if recipe.phases:
        raise ValueError("training: phases are for supernets; one network has nothing elastic")
    _check_batch(data, recipe)
    _check_output("network", module, data, size)
    teacher = teacher if teacher is not None else load_teacher(recipe)
    return _trained(
        lambda: NetworkTrainee(module=channels_last(copy.deepcopy(module)), size=size),
        data,
        recipe,
        name="network",
        key="" if file is None else network_key(module, data, recipe, size=size, teacher=teacher),
        finished=file,
        teacher=teacher,
        size=size,
        checkpoint_steps=checkpoint_steps,
        progress=progress,
    )


# ------------------------------------------------------------------------------------------------------------ private


def _trained(
    begin: Callable[[], Trainee],
    data: ImageData,
    recipe: Recipe,
    *,
    name: str,
    key: str,
    finished: Path | None,
    teacher: nn.Module | None,
    size: int,
    checkpoint_steps: int,
    progress: bool,
) -> nn.Module:
    """Read, resumed or trained; `finished` is the file of the result and, but for its ending, of the checkpoint."""
    processes = processes_of(recipe)
    checkpoint = None if finished is None else finished.with_suffix(".checkpoint")
    weights, state = processes.share(_found(finished, checkpoint, key) if processes.is_first else (None, None))
    trainee = begin()
    if weights is not None:
        load_into(trainee.module, weights, f"weights {finished}")
        return trainee.module.eval()
    if teacher is not None:
        _check_output("teacher", teacher, data, size)
    load_into(trainee.module, processes.share(dict(trainee.module.state_dict())), "the first process's network")
    with torch.random.fork_rng(devices=[processes.device] if processes.device.type == "cuda" else []):
        training = Training(trainee, data, recipe, processes, teacher)
        try:
            if state is not None:
                training.load(state)
            _run(training, checkpoint, {"key": key, "space": name}, checkpoint_steps, progress)
        finally:
            training.close()
        module = training.finish()
    if finished is not None and checkpoint is not None and processes.is_first:
        save_weights(finished, module, key, name)
        checkpoint.unlink(missing_ok=True)
    return module


def _found(
    finished: Path | None, checkpoint: Path | None, key: str
) -> tuple[dict[str, torch.Tensor] | None, dict[str, Any] | None]:
    """Trained weights, or the state of an unfinished training."""
    if finished is not None and finished.exists():
        return load_weights(finished, key), None
    if checkpoint is not None and checkpoint.exists():
        return None, read_checkpoint(checkpoint, key)
    return None, None


def _run(
    training: Training, checkpoint: Path | None, identity: Mapping[str, str], checkpoint_steps: int, progress: bool
) -> None:
    """Make the steps that are left; the first process writes checkpoints and shows progress."""
    recipe, is_first = training.recipe, training.processes.is_first
    reporter = Reporter(
        name=training.trainee.name,
        num_steps=recipe.total_steps,
        first_step=training.step,
        progress=progress and is_first,
        folder=checkpoint.parent / "logs" / checkpoint.stem if checkpoint is not None and is_first else None,
        log_steps=recipe.log_steps,
    )
    kept_step = training.step
    try:
        while training.step < recipe.total_steps:
            try:
                result = training.run_step()
            except DivergedError as error:
                raise DivergedError(f"{error}. {_what_is_kept(checkpoint, kept_step)}") from None
            reporter.show(training.step, result)
            is_due = training.step % checkpoint_steps == 0 and training.step < recipe.total_steps
            if checkpoint is not None and is_due:
                state = training.state()
                if is_first:
                    write_checkpoint(checkpoint, {**identity, **state})
                kept_step = training.step
    finally:
        reporter.close()


def _what_is_kept(checkpoint: Path | None, step: int) -> str:
    kept = (
        f"The last good checkpoint, of step {step}, stays in {checkpoint}"
        if checkpoint is not None and step
        else "There was no checkpoint yet"
    )
    return f"{kept}; a smaller learning_rate, a longer warmup or clip_norm=1 may keep the loss finite"


def _check_batch(data: ImageData, recipe: Recipe) -> None:
    if len(data.train) < recipe.batch_size:
        raise ValueError(
            f"training: batch_size {recipe.batch_size} is more than the {len(data.train)} training images of "
            f"{data.name!r}"
        )


def _check_output(what: str, module: nn.Module, data: ImageData, size: int) -> None:
    """Raise ValueError unless the module takes the data's images and gives a logit for each class."""
    x_BCHW = evaluation_input(data, data.train.read(torch.arange(1).numpy()).images, size)
    was_training = module.training
    try:
        with torch.no_grad():
            logits_BK = module.eval()(x_BCHW)
    except RuntimeError as error:
        raise ValueError(f"training: the {what} does not take images of shape {tuple(x_BCHW.shape)}: {error}") from None
    finally:
        module.train(was_training)
    if logits_BK.shape[1:] != (data.num_classes,):
        raise ValueError(
            f"training: the {what} gives logits of shape {tuple(logits_BK.shape)} for {len(x_BCHW)} images, data "
            f"{data.name!r} has {data.num_classes} classes"
        )
