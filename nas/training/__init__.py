"""Training of supernets and of single networks, in steps that can be killed at any moment and go on."""

from nas.training.checkpoint import load_supernet, save_supernet
from nas.training.engine import DivergedError
from nas.training.keys import network_key, training_key
from nas.training.loop import train_network, train_supernet
from nas.training.parallel import is_first_process
from nas.training.recipe import Phase, Recipe, recipe_from_mapping

__all__ = [
    "DivergedError",
    "Phase",
    "Recipe",
    "is_first_process",
    "load_supernet",
    "network_key",
    "recipe_from_mapping",
    "save_supernet",
    "train_network",
    "train_supernet",
    "training_key",
]
