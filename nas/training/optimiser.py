"""The optimiser of a recipe, which parameters it decays, and its learning rate."""

import math

import torch
from torch import nn

from nas.training.recipe import Recipe

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decayed_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters with weight decay: those of two or more axes that are neither norms nor biases, and that
    no module lists in `no_weight_decay()`, the names of its parameters (as timm's networks have it).
    """
    listed = {
        f"{path}.{name}" if path else name
        for path, owner in module.named_modules()
        if callable(without := getattr(owner, "no_weight_decay", None))
        for name in without()
    }
    norms = {id(each) for owner in module.modules() if isinstance(owner, NORMS) for each in owner.parameters()}
    return {
        name
        for name, each in module.named_parameters()
        if each.ndim > 1 and id(each) not in norms and name not in listed and name.rpartition(".")[2] != "bias"
    }


def make_optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """A fresh optimiser of all parameters of a module; its learning rate is set before each step."""
    decayed = decayed_parameters(module)
    parameters = dict(module.named_parameters())
    groups = [
        {"params": [each for name, each in parameters.items() if name in decayed], "weight_decay": recipe.weight_decay},
        {"params": [each for name, each in parameters.items() if name not in decayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = recipe.schedule[0].learning_rate
    if recipe.optimiser == "sgd":
        # torch's fused SGD fails on momenta that begin at different steps, as those of seldom parts of a supernet do.
        return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, foreach=True)
    is_fused = next(iter(parameters.values())).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=rate, fused=is_fused)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of a step, counted from 0: a linear rise, times half a cosine that would end at 0, in each phase anew."""
    index, done = recipe.phase_at(step)
    phase = recipe.schedule[index]
    progress = (done + 1) / phase.num_steps
    rising = min(1.0, progress / recipe.warmup) if recipe.warmup else 1.0
    return phase.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * done / phase.num_steps))
