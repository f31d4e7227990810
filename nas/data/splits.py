"""Validation images split off the training images, so that the search never sees a test image."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Places among the images that were split, int64, each part in an order of its own: any leading piece is a fair
    sample of the part."""

    train: np.ndarray
    valid: np.ndarray


def stratified_split(labels: np.ndarray, num_valid: int, seed: int) -> Split:
    """Two disjoint parts that have the classes in the same proportions, as nearly as whole images allow.

    Each class gives `num_valid` times its share, rounded down; what is missing comes, an image each, from the classes
    with the largest remainders. No class gives its last image.

    >>> stratified_split(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0).valid.size
    3

    Args:
        labels: classes, of shape (num,).

    Raises:
        ValueError: `num_valid` is not positive, or so large that a class would be left without training images.
    """
    present, counts = np.unique(labels, return_counts=True)
    most = int((counts - 1).sum())
    if not 0 < num_valid <= most:
        raise ValueError(
            f"{num_valid} validation images cannot be split from {len(labels)} training images of {len(present)} "
            f"classes; allowed are 1..{most}, one image of each class has to stay"
        )
    rng = np.random.default_rng([seed, len(labels)])
    order = rng.permutation(len(labels))
    by_class = np.split(order[np.argsort(labels[order], kind="stable")], np.cumsum(counts)[:-1])
    parts = [np.split(places, [num]) for places, num in zip(by_class, _shares(counts, num_valid))]
    valid, train = (np.concatenate(each) for each in zip(*parts))
    return Split(train=rng.permutation(train), valid=rng.permutation(valid))


def num_valid_of(num: int, num_valid: int | None, valid_fraction: float) -> int:
    """How many of `num` images validate: `num_valid` where it is given, else that fraction, at least 1.

    Raises:
        ValueError: the fraction counts and is not within 0..1.
    """
    if num_valid is not None:
        return num_valid
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be in 0 < valid_fraction < 1, found {valid_fraction}")
    return max(1, round(valid_fraction * num))


# ------------------------------------------------------------------------------------------------------------ private


def _shares(counts: np.ndarray, num_valid: int) -> np.ndarray:
    """How many images each class gives."""
    exact = counts * (num_valid / counts.sum())
    shares: np.ndarray = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    while (missing := num_valid - int(shares.sum())) > 0:
        has_more = np.flatnonzero(shares < counts - 1)
        neediest = has_more[np.argsort(shares[has_more] - exact[has_more], kind="stable")]
        shares[neediest[:missing]] += 1
    return shares
