"""A space so small that all of its networks can be asked, and probabilities over it."""

from functools import cache
from itertools import product

import numpy as np
import torch

from search_spaces import Space, load_space


@cache
def small_space() -> Space:
    """Two resolutions, two stages of one or two blocks, with knobs that are dead in some: 2 * 2^2 * 4^4 archs."""
    return load_space(
        "mobilenet_v3_tiny", resolutions=[16, 32], kernels=[3, 5], expansions=[2, 3], depths=[1, 2],
        stage_widths=[16, 32], stage_strides=[2, 2], stage_se=[False, True], stage_activations=["relu", "hardswish"],
    )  # fmt: skip


@cache
def all_archs() -> np.ndarray:
    """Indices of every arch, shape (num_archs, num_knobs)."""
    return np.array(list(product(*(range(len(values)) for values in small_space().choices.values()))))


def random_probabilities(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        knob: torch.softmax(torch.randn(len(values), dtype=torch.float64, generator=generator), dim=0)
        for knob, values in small_space().choices.items()
    }


def likelihoods(archs: np.ndarray, probabilities: dict[str, torch.Tensor]) -> np.ndarray:
    """Probability of each arch: the product of those of its values."""
    return np.prod([probabilities[k].numpy()[archs[:, i]] for i, k in enumerate(small_space().choices)], axis=0)
