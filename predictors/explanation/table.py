"""The report for machines: one CSV row a kernel and device, or everything as JSON, in SI units."""

import csv
import io
import json
from typing import Any

from predictors.explanation.across import SideBySide
from predictors.explanation.explaining import Explanation
from predictors.explanation.report import Report
from predictors.explanation.rows import KernelRow, Total

_FIELDS = (
    "step", "name", "kind", "dtype", "latency_s", "std_s", "share", "bound", "provenance", "arithmetic_intensity",
    "traffic_bytes", "macs",
)  # fmt: skip


def report_csv(report: Report) -> str:
    """One row for each kernel on each device, in the order of execution."""
    text = io.StringIO()
    header = ["device", "runtime", *_FIELDS, "stage", "live_bytes", "kernel"]
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    for each in report.explanations:
        for row in each.rows:
            writer.writerow({"device": each.device.name, "runtime": each.runtime, **_kernel(row, each)})
    return text.getvalue()


def report_json(report: Report) -> str:
    """All figures of the report."""
    across = report.side_by_side
    content = {
        "network": report.name,
        "macs": report.graph.macs,
        "num_params": report.graph.num_params,
        "unknown_operators": [{"name": each.name, "module_paths": list(each.module_paths)} for each in report.unknown],
        "devices": [_device(each) for each in report.explanations],
        "changes_bound": _changes(across) if across else [],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


# ------------------------------------------------------------------------------------------------------------ private


def _kernel(row: KernelRow, explanation: Explanation) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _FIELDS},
        "stage": explanation.stage(row),
        "live_bytes": explanation.memory.live_bytes[row.step - 1],
        "kernel": row.text,
    }


def _device(explanation: Explanation) -> dict[str, Any]:
    prediction, memory = explanation.prediction, explanation.memory
    return {
        "device": prediction.device.name,
        "runtime": explanation.runtime,
        "dtype": prediction.dtype,
        "latency_s": float(prediction.latency_s),
        "std_s": float(prediction.std_s),
        "overhead_s": float(prediction.overhead_s),
        "coverage": prediction.coverage,
        "traffic_bytes": prediction.traffic_bytes,
        "arithmetic_intensity": prediction.arithmetic_intensity,
        "peak_memory_bytes": prediction.peak_memory_bytes,
        "weight_bytes": memory.weight_bytes,
        "peak_step": memory.peak_step,
        "share_by_bound": dict(explanation.bound_shares),
        "share_by_provenance": dict(explanation.provenance_shares),
        "stages": [_total(each) for each in explanation.stages],
        "kernels": [_kernel(row, explanation) for row in explanation.rows],
        **({} if explanation.advice is None else {"advice": _advice(explanation)}),
    }


def _total(total: Total) -> dict[str, Any]:
    return {
        "name": total.name,
        "num_kernels": total.num_kernels,
        "latency_s": total.latency_s,
        "share": total.share,
        "bound": total.bound,
        "macs": total.macs,
        "traffic_bytes": total.traffic_bytes,
    }


def _advice(explanation: Explanation) -> list[dict[str, Any]]:
    return [
        {
            "rule": each.rule,
            "change": each.change,
            "gain_s": float(each.gain_s),
            "gain_std_s": float(each.gain_std_s),
            "share": float(each.share),
            "module_paths": list(each.module_paths),
        }
        for each in explanation.advice or ()
    ]


def _changes(across: SideBySide) -> list[dict[str, Any]]:
    devices = [each.device.name for each in across.explanations]
    return [
        {
            "name": each.name,
            "kind": each.kind,
            "bound": {device: row.bound for device, row in zip(devices, each.rows) if row},
            "rank": {device: rank for device, rank in zip(devices, each.ranks) if rank},
        }
        for each in across.changed
    ]
