"""Training of a supernet by the sandwich rule, in steps that can be killed at any moment and go on.

Each step trains the largest subnet on the labels, and the smallest and some random ones on the largest one's softened
answers (in-place distillation). Source: J. Yu, T. Huang, "Universally Slimmable Networks and Improved Training
Techniques", ICCV 2019, https://arxiv.org/abs/1903.05134.

All that is random in a step follows from the recipe's seed and the step's number, so a checkpoint needs no state of
random generators, and a resumed training makes exactly the steps that an unbroken one would have made.
"""

import errno
import hashlib
import io
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from nas.accuracy import channels_last, check_data_fits
from nas.data.images import ImageData, Images
from nas.data.inputs import resized, training_input
from nas.files import replacing
from search_spaces.loading import record_from_mapping
from search_spaces.space import Space
from search_spaces.supernet import Supernet

FORMAT = 1
"""Counts up when a change of this code makes other weights of the same recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a supernet is trained: AdamW, a linear warm-up, then a cosine down to 0.

    Args:
        num_steps: batches of `batch_size` images; every pass over the training images has another order, and its last,
            incomplete batch is left out.
        num_random: random subnets in each step, beside the largest and the smallest.
        warmup: fraction of the steps in which the learning rate rises.

    Raises:
        ValueError: a number is out of its range.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.02
    warmup: float = 0.1
    num_random: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"training: {name} must be positive, found {getattr(self, name)}")
        for name in ("weight_decay", "num_random", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"training: {name} must not be negative, found {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"training: warmup must be in 0 <= warmup < 1, found {self.warmup}")


def recipe_from_mapping(mapping: Mapping[str, Any]) -> Recipe:
    """The recipe that a plain mapping describes, e.g. the content of configs/training/default.yaml."""
    return record_from_mapping(Recipe, mapping, where="training")


def train_supernet(
    space: Space,
    data: ImageData,
    recipe: Recipe,
    folder: Path,
    *,
    checkpoint_steps: int = 50,
    progress: bool = True,
) -> Supernet:
    """The trained supernet: read from the folder, or trained, going on from the last checkpoint there.

    Everything in the folder carries a hash of what determines the weights: the space, the training images, the recipe
    and `FORMAT`. With the same number of threads the weights are the same, killed and resumed or not.

    Args:
        folder: holds `<space>-<hash>.safetensors`, and `.checkpoint` beside it while training.
        checkpoint_steps: steps between two checkpoints; a kill loses at most these.

    Raises:
        ValueError: the data does not fit the space, the training images do not fill one batch, or a file in the folder
            is damaged or of another training.
        OSError: the folder cannot be written; what was there stays.
    """
    check_data_fits(space, data)
    if len(data.train) < recipe.batch_size:
        raise ValueError(
            f"training: batch_size {recipe.batch_size} is more than the {len(data.train)} training images of "
            f"{data.name!r}"
        )
    key = training_key(space, data, recipe)
    finished = folder / f"{space.name}-{key[:12]}.safetensors"
    if finished.exists():
        return load_supernet(finished, space, key)
    checkpoint = finished.with_suffix(".checkpoint")
    training = _Training(space, data, recipe)
    if checkpoint.exists():
        training.load(_read_checkpoint(checkpoint, key))
    bar = tqdm(
        total=recipe.num_steps,
        initial=training.step,
        desc=f"supernet {space.name}",
        unit="step",
        disable=not progress,
    )
    with bar:
        while training.step < recipe.num_steps:
            loss, accuracy = training.run_step()
            bar.set_postfix(loss=f"{loss:.2f}", accuracy=f"{accuracy:.0%}", refresh=False)
            bar.update()
            if training.step % checkpoint_steps == 0 and training.step < recipe.num_steps:
                _write_checkpoint(checkpoint, training.state(key))
    save_supernet(finished, training.supernet, key)
    checkpoint.unlink(missing_ok=True)
    return training.supernet.eval()


def training_key(space: Space, data: ImageData, recipe: Recipe) -> str:
    """A hash of all that determines the weights of a trained supernet."""
    determined = {
        "format": FORMAT,
        "space": dict(space.identity),
        "images": data.digest,
        "recipe": asdict(recipe),
    }
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()


def save_supernet(path: Path, supernet: Supernet, key: str) -> None:
    """Write the weights as safetensors, whole or not at all."""
    weights = {name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}
    _write(path, safetensors.torch.save(weights, {"key": key, "space": supernet.space.name}))


def load_supernet(path: Path, space: Space, key: str) -> Supernet:
    """The supernet of a space with weights that `save_supernet` wrote.

    Raises:
        ValueError: the file is damaged, or holds the weights of another space, other data or another recipe.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"supernet {path} is damaged ({error}); delete it to train again") from None
    _check_key(path, metadata.get("key"), metadata.get("space"), key)
    supernet = channels_last(space.supernet())
    supernet.load_state_dict(weights)
    return supernet.eval()


# ------------------------------------------------------------------------------------------------------------ private


class _Training:
    """A supernet with its optimizer and the number of steps made."""

    def __init__(self, space: Space, data: ImageData, recipe: Recipe) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.supernet = channels_last(space.supernet()).train()
        self.space, self.recipe, self.step = space, recipe, 0
        self.data: ImageData = data
        self.train: Images = data.train
        self.steps_per_epoch = len(self.train) // recipe.batch_size
        weights = [each for each in self.supernet.parameters() if each.ndim > 1]
        others = [each for each in self.supernet.parameters() if each.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            fused=True,
        )

    def run_step(self) -> tuple[float, float]:
        """One step; the loss and the accuracy of the largest subnet on its batch."""
        x_BCHW, labels_B = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        self.supernet.set_arch(self.space.largest())
        logits_BK = self.supernet(x_BCHW)
        loss = cross_entropy(logits_BK, labels_B)
        torch.autograd.backward(loss)
        answers_BK = logits_BK.detach().softmax(dim=1)
        rng = np.random.default_rng([self.recipe.seed, self.step])
        for arch in (self.space.smallest(), *(self.space.sample(rng) for _ in range(self.recipe.num_random))):
            self.supernet.set_arch(arch)
            student_BK = self.supernet(resized(x_BCHW, self.space.image_size(arch)))
            torch.autograd.backward(cross_entropy(student_BK, answers_BK))
        self.optimizer.step()
        self.step += 1
        return loss.item(), (logits_BK.argmax(dim=1) == labels_B).float().mean().item()

    def state(self, key: str) -> dict[str, Any]:
        return {
            "key": key,
            "space": self.space.name,
            "step": self.step,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = divmod(self.step, self.steps_per_epoch)
        if index == 0 or not hasattr(self, "_order"):
            self._order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.train))
        chosen = self._order[index * self.recipe.batch_size : (index + 1) * self.recipe.batch_size]
        batch = self.train.read(chosen)
        size, rows = self.space.image_size(self.space.largest()), np.arange(len(chosen))
        seed = (self.recipe.seed, self.step)
        x_BCHW = training_input(self.data, batch.images, size, seed=seed, rows=rows, num=len(chosen))
        return x_BCHW, torch.from_numpy(batch.labels)

    def _learning_rate(self) -> float:
        progress = (self.step + 1) / self.recipe.num_steps
        rising = min(1.0, progress / self.recipe.warmup) if self.recipe.warmup else 1.0
        return self.recipe.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * self.step / self.recipe.num_steps))


def _write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getvalue())


def _read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"checkpoint {path} is damaged ({reason}); delete it to train again") from None
    _check_key(path, state.get("key"), state.get("space"), key)
    return state


def _check_key(path: Path, found: object, space_name: object, expected: str) -> None:
    if found != expected:
        raise ValueError(
            f"{path} holds another training (space {space_name!r}, hash {str(found)[:12]}) than the one asked for "
            f"(hash {expected[:12]}); move it away to train again"
        )


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(error.errno, f"cannot write {len(content)} bytes: {reason}", str(path)) from error
