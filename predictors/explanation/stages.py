"""Stages of a network: the kernels whose module paths begin alike."""

from collections.abc import Sequence

from predictors.explanation.rows import KernelRow, Total, totals

TOP_LEVEL = "(top level)"
"""Stage of what belongs to no module but the network itself."""

_MOST_STAGES = 24
_LARGE = 0.5


def path_parts(path: str) -> tuple[str, ...]:
    """The modules of a path, the outermost first, whoever wrote it.

    >>> path_parts("layer1.0.conv1")
    ('layer1', '0', 'conv1')
    >>> path_parts("/layer1/layer1.0/conv1/Conv")  # torch's older exporter: the last is an operator
    ('layer1', '0', 'conv1', 'Conv')
    """
    if "/" not in path:
        return tuple(part for part in path.split(".") if part)
    found: list[str] = []
    for piece in path.strip("/").split("/"):
        whole = ".".join(found)
        found += piece.removeprefix(f"{whole}.").split(".") if whole else piece.split(".")
    return tuple(part for part in found if part)


def stage_of(path: str, depth: int) -> str:
    """The first `depth` modules of a path."""
    return ".".join(path_parts(path)[:depth]) or TOP_LEVEL


def stages(rows: Sequence[KernelRow], depth: int) -> tuple[Total, ...]:
    """Sums by the first `depth` modules of the paths, in the order of execution."""
    return totals(rows, lambda row: stage_of(row.name, depth))


def sensible_depth(rows: Sequence[KernelRow]) -> int:
    """The least depth at which no stage takes half of the kernels' time, unless that makes too many stages.

    Of several such depths the last with at most 24 stages; at least 1.
    """
    deepest = max((len(path_parts(row.name)) for row in rows), default=1)
    chosen = 1
    for depth in range(1, deepest + 1):
        found = stages(rows, depth)
        if len(found) > _MOST_STAGES:
            break
        if depth == 1 or len(found) > len(stages(rows, chosen)):
            chosen = depth
        if max(stage.share for stage in found) < _LARGE * sum(stage.share for stage in found):
            break
    return chosen
