"""Hashes of all that determines trained weights: what files are named after, and how they are known again."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import nn

from nas.data.images import ImageData
from nas.training.distillation import load_teacher
from nas.training.recipe import Recipe
from search_spaces.space import Space
from search_spaces.supernet import Supernet

FORMAT = 2
"""Counts up when a change of this code makes other weights of the same recipe."""


def training_key(
    space: Space,
    data: ImageData,
    recipe: Recipe,
    *,
    initial: Supernet | None = None,
    teacher: nn.Module | None = None,
) -> str:
    """A hash of all that determines the weights of a trained supernet.

    Args:
        initial: the supernet that training begins with, if not with random weights.
        teacher: the network that it learns from, if not the one that the recipe names.
    """
    return _key({"space": dict(space.identity)}, data, recipe, initial, teacher)


def network_key(
    module: nn.Module, data: ImageData, recipe: Recipe, *, size: int, teacher: nn.Module | None = None
) -> str:
    """A hash of all that determines the weights of one trained network: its class, its present weights and the rest."""
    network = {"class": f"{type(module).__module__}.{type(module).__qualname__}", "modules": str(module), "size": size}
    return _key({"network": network}, data, recipe, module, teacher)


def state_hash(state: Mapping[str, torch.Tensor]) -> str:
    """A hash of named tensors: names, types, shapes and values."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


# ------------------------------------------------------------------------------------------------------------ private


def _key(
    subject: Mapping[str, object],
    data: ImageData,
    recipe: Recipe,
    initial: nn.Module | None,
    teacher: nn.Module | None,
) -> str:
    teacher = teacher if teacher is not None else load_teacher(recipe)
    determined = {
        "format": FORMAT,
        **subject,
        "images": data.digest,
        # Where the teacher's weights lie does not matter; what they are stands below.
        "recipe": {name: value for name, value in recipe.determining.items() if name != "teacher_weights"},
        "initial": None if initial is None else state_hash(initial.state_dict()),
        "teacher": None if teacher is None else state_hash(teacher.state_dict()),
    }
    return hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()
