"""What networks learn from: labels, and the softened answers of another network.

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015,
https://arxiv.org/abs/1503.02531.
"""

from importlib import import_module
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nas.training.checkpoint import load_into
from nas.training.recipe import Recipe


def label_loss(logits_BK: torch.Tensor, labels_B: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Mean cross-entropy with the labels, smoothed as the recipe says."""
    return cross_entropy(logits_BK.float(), labels_B, label_smoothing=recipe.label_smoothing)


def soft_loss(logits_BK: torch.Tensor, answers_BK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy with another network's answers, both softened: T^2 * CE(softmax(a / T), softmax(z / T)).

    The factor T^2 keeps the size of gradients that a change of T would change (section 2 of the paper).

    Args:
        answers_BK: the other network's logits, without gradients.
    """
    targets_BK = (answers_BK.float() / temperature).softmax(dim=1)
    return cross_entropy(logits_BK.float() / temperature, targets_BK) * temperature**2


def taught_loss(
    logits_BK: torch.Tensor, labels_B: torch.Tensor, answers_BK: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """(1 - w) * label_loss + w * soft_loss, w being `recipe.distillation`; without answers only the labels."""
    if answers_BK is None:
        return label_loss(logits_BK, labels_B, recipe)
    taught = soft_loss(logits_BK, answers_BK, recipe.temperature)
    return (1 - recipe.distillation) * label_loss(logits_BK, labels_B, recipe) + recipe.distillation * taught


def load_teacher(recipe: Recipe) -> nn.Module | None:
    """The network that the recipe names as teacher, in evaluation mode, or None.

    A callable that draws weights draws the same ones each time.

    Raises:
        ValueError: it cannot be imported, does not return a module, or the weights do not fit it.
    """
    if recipe.teacher is None:
        return None
    module_name, _, name = recipe.teacher.partition(":")
    try:
        make = getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"training: teacher {recipe.teacher!r} cannot be imported as package.module:callable: {error}"
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = make()
    if not isinstance(teacher, nn.Module):
        raise ValueError(f"training: teacher {recipe.teacher!r} returned {type(teacher).__name__}, not a torch module")
    if recipe.teacher_weights is not None:
        _load_weights(teacher, Path(recipe.teacher_weights).expanduser())
    return teacher.eval()


# ------------------------------------------------------------------------------------------------------------ private


def _load_weights(teacher: nn.Module, path: Path) -> None:
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"training: teacher_weights {path} cannot be read: {error}") from None
    load_into(teacher, weights, f"training: teacher_weights {path}")
