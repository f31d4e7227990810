"""Where the time of a network goes on a device, for people and for machines."""

from predictors.explanation.across import Across, SideBySide, side_by_side
from predictors.explanation.explaining import Explanation, Precision, explain
from predictors.explanation.memory import MemoryTimeline, memory_timeline
from predictors.explanation.report import Report, make_report
from predictors.explanation.rows import KernelRow, Total, UnknownUse, kernel_rows, totals, unknown_operators
from predictors.explanation.stages import sensible_depth, stage_of

__all__ = [
    "Across",
    "Explanation",
    "KernelRow",
    "MemoryTimeline",
    "Precision",
    "Report",
    "SideBySide",
    "Total",
    "UnknownUse",
    "explain",
    "kernel_rows",
    "make_report",
    "memory_timeline",
    "sensible_depth",
    "side_by_side",
    "stage_of",
    "totals",
    "unknown_operators",
]
