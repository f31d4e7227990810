"""The roofline picture as numbers: slopes of the memories, flat roofs of the dtypes, ridge points, kernels.

A kernel that computes stands at its intensity and the FLOP/s that it attains. One that only moves data has neither: it
stands left of all others, in the order of execution, as far below the slope of the memory as its bandwidth falls short
of it, so that distances to the slope read alike everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from predictors.device import Device
from predictors.explanation.roofs import roofs
from predictors.explanation.rows import KernelRow
from predictors.explanation.text import number_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """From one point to another: FLOP per byte, FLOP/s."""

    text: str
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """Where a slope meets a flat roof."""

    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A kernel in the picture."""

    row: KernelRow
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class RooflinePicture:
    """What is drawn.

    Attributes:
        slopes: one for each memory, the one that holds everything first; up to the highest of the flat roofs.
        peaks: one for each dtype that kernels compute in.
        movers_right: FLOP per byte up to which the kernels stand that only move data; None where there are none.
        x_range, y_range: that hold all of it.
    """

    slopes: tuple[Line, ...]
    peaks: tuple[Line, ...]
    ridges: tuple[Ridge, ...]
    points: tuple[Point, ...]
    movers_right: float | None
    x_range: tuple[float, float]
    y_range: tuple[float, float]


_STRIP = 8.0
"""How much wider the picture becomes, as a factor of the intensity, for the kernels that only move data."""


def roofline_picture(device: Device, dtypes: Sequence[str], rows: Sequence[KernelRow]) -> RooflinePicture:
    """The picture of a network's kernels on a device, with the roofs of some dtypes."""
    by_dtype = {dtype: roofs(device, dtype) for dtype in dtypes}
    ridges = [
        Ridge(
            text=f"{roof.name}, {dtype}: ridge point {number_text(roof.ridge_point)} FLOP/byte",
            x=roof.ridge_point,
            y=roof.peak_flops,
        )
        for dtype, found in by_dtype.items()
        for roof in found
    ]
    highest = by_dtype[max(dtypes, key=device.peak_flops)]
    computing = [row for row in rows if row.macs]
    moving = [row for row in rows if not row.macs]
    intensities = [row.arithmetic_intensity for row in computing] + [ridge.x for ridge in ridges]
    low, high = min(intensities) / 2, max(intensities) * 3
    right = low if moving else None
    left = low / _STRIP if moving else low
    points = [Point(row=row, x=row.arithmetic_intensity, y=row.attained_flops) for row in computing]
    for place, row in enumerate(moving):
        x = left * _STRIP ** ((place + 1) / (len(moving) + 1))
        points.append(Point(row=row, x=x, y=x * row.attained_bandwidth))
    slopes = [
        Line(
            text=roof.text if len(dtypes) == 1 else roof.bandwidth_text,
            x=(left, roof.ridge_point),
            y=(left * roof.bandwidth, roof.peak_flops),
        )
        for roof in highest
        if roof.ridge_point > left
    ]
    peaks = [
        Line(
            text=f"{dtype}: {number_text(device.peak_flops(dtype) / 1e9)} GFLOP/s",
            x=(min(roof.ridge_point for roof in found), high),
            y=(device.peak_flops(dtype),) * 2,
        )
        for dtype, found in by_dtype.items()
    ]
    heights = [point.y for point in points] + [y for line in (*slopes, *peaks) for y in line.y]
    return RooflinePicture(
        slopes=tuple(slopes),
        peaks=tuple(peaks),
        ridges=tuple(ridges),
        points=tuple(points),
        movers_right=right,
        x_range=(left, high),
        y_range=(min(heights) / 2, max(heights) * 2),
    )
