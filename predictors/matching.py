"""Whose time is it: the steps that a runtime ran against the kernels that its fusion rules predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictors.fusion import KernelNode

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Kernels that have no time of their own: several that shared steps, or one that no step ran.

    Attributes:
        kernels: indices into the sequence of kernels.
        seconds_R: what their steps took together in each run; 0 where no step ran them.
    """

    kernels: tuple[int, ...]
    seconds_R: Seconds


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Times of kernels. All times of `seconds_R` and of `unmatched` together are the times of all steps.

    Attributes:
        seconds_R: by index into the sequence of kernels, what the kernel took in each run.
        unmatched: groups of kernels without a time of their own.
        unowned: indices of steps that ran no kernel; their time is part of that of the step that they were added to.
    """

    seconds_R: Mapping[int, Seconds]
    unmatched: tuple[Unmatched, ...]
    unowned: tuple[int, ...]


def kernel_times(kernels: Sequence[KernelNode], steps: Sequence[Sequence[int]], seconds_RS: Seconds) -> KernelTimes:
    """Seconds of each kernel from the seconds of the steps that ran its nodes.

    Steps and kernels that share a node belong together. One kernel with several steps takes their sum; several kernels
    that are tied by steps cannot be told apart. A step that runs no kernel, such as a change of layout, is counted with
    the next step that does, the last ones with the one before.

    Args:
        kernels: from `fuse`.
        steps: the graph's nodes that each step ran, in the order of running; nodes of no kernel do not count.
        seconds_RS: of each step in each run, of shape (runs, steps).

    Raises:
        ValueError: the times have another shape than (runs, number of steps), or no step runs any kernel.
    """
    if seconds_RS.ndim != 2 or seconds_RS.shape[1] != len(steps):
        raise ValueError(f"{len(steps)} steps need times of shape (runs, {len(steps)}), found {seconds_RS.shape}")
    kernel_of = {node: index for index, kernel in enumerate(kernels) for node in kernel.nodes}
    touched = [sorted({kernel_of[node] for node in step if node in kernel_of}) for step in steps]
    owning = [index for index, found in enumerate(touched) if found]
    if not owning:
        raise ValueError(f"none of the {len(steps)} steps runs any of the {len(kernels)} kernels")

    group = list(range(len(kernels)))  # group[kernel] leads to the least kernel that it is tied to
    for found in touched:
        roots = {_root(group, kernel) for kernel in found}
        for root in roots:
            group[root] = min(roots)

    num_runs = seconds_RS.shape[0]
    members: dict[int, list[int]] = {}
    for kernel in range(len(kernels)):
        members.setdefault(_root(group, kernel), []).append(kernel)
    total_R = {root: np.zeros(num_runs) for root in members}
    ran = set()
    for index in range(len(steps)):
        owner = owning[min(int(np.searchsorted(owning, index)), len(owning) - 1)]
        root = _root(group, touched[owner][0])
        ran.add(root)
        total_R[root] += seconds_RS[:, index]
    return KernelTimes(
        {root: total_R[root] for root, found in members.items() if len(found) == 1 and root in ran},
        tuple(
            Unmatched(tuple(found), total_R[root])
            for root, found in members.items()
            if len(found) > 1 or root not in ran
        ),
        tuple(index for index, found in enumerate(touched) if not found),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _root(group: list[int], kernel: int) -> int:
    while group[kernel] != kernel:
        kernel = group[kernel]
    return kernel
