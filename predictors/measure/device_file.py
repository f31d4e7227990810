"""What a profile found, as a device file: the machine's own numbers, and a section for each runtime measured on it."""

import platform
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from predictors.cost import kernel_cost
from predictors.device import Device
from predictors.fit_efficiency import Observation, class_model, fit, leave_one_network_out, with_spread
from predictors.lookup_table import LookupTable

_FOLDS = 4
_DIGITS = 4


def processor_name() -> str:
    """What this machine's processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measured_source(what: str, threads: int) -> str:
    """Source of a number that was measured today: when, on what, with what, on how many threads."""
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    return f"measured {date.today().isoformat()}, {processor_name()}, {what}, {counted}"


def quantity(value: float, unit: str, source: str) -> dict[str, Any]:
    return {"value": rounded(value), "unit": unit, "source": source}


def rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def class_efficiencies(device: Device, table: LookupTable, source: str) -> dict[str, dict[str, Any]]:
    """For kernels of a class that are far from all measured ones; the spread is that of kernels left out of the fit.

    Classes with too few kernels to leave some out have none.
    """
    numbers: Counter[str] = Counter()
    found = []
    for kernel, entry in table.entries.items():
        kind = kernel.classes[-1]
        fold = str(numbers[kind] % _FOLDS)
        numbers[kind] += 1
        found.append(Observation(kernel=kernel, cost=kernel_cost(kernel), latency_s=entry.latency_p50_s, network=fold))
    found = [each for each in found if numbers[each.kernel.classes[-1]] >= 2 * _FOLDS]
    if not found:
        return {}
    classes = with_spread(fit(found, device, source), leave_one_network_out(found, class_model(device)))
    return {
        name: {
            **{
                key: rounded(getattr(each, key))
                for key in ("compute", "read", "write", "fixed_s", "spread")
                if getattr(each, key) > 0.0
            },
            "num_kernels": each.num_kernels,
            "source": each.source,
        }
        for name, each in classes.items()
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Sentences on the numbers of two device files of one machine that differ by more than their last digits.

    >>> changes({"launch": {"value": 2.0, "unit": "us"}}, {"launch": {"value": 3.0, "unit": "us"}})
    ['launch: 2 us before, 3 us now (+50 %)']
    """
    found = []
    old, new = dict(_values("", before)), dict(_values("", after))
    for name, (value, unit) in new.items():
        if name not in old:
            continue
        previous, unit_before = old[name]
        if unit == unit_before and abs(value / previous - 1.0) > 0.01:
            found.append(f"{name}: {previous:g} {unit} before, {value:g} {unit} now ({value / previous - 1:+.0%})")
    return [sentence.replace("%)", " %)") for sentence in found]


def dump(mapping: Mapping[str, Any]) -> str:
    """A device file's text."""
    text: str = yaml.safe_dump(dict(mapping), sort_keys=False, allow_unicode=True, width=120)
    return text


# ------------------------------------------------------------------------------------------------------------ private


def _values(name: str, mapping: Mapping[str, Any]) -> list[tuple[str, tuple[float, str]]]:
    """Every quantity of a device file by its path; levels of memory by their names."""
    found: list[tuple[str, tuple[float, str]]] = []
    for key, value in mapping.items():
        path = f"{name} {key}".strip()
        if isinstance(value, Mapping):
            if "unit" in value:
                found.append((path, (float(value["value"]), str(value["unit"]))))
            else:
                found += _values(path, value)
        elif isinstance(value, list):
            for each in value:
                if isinstance(each, Mapping) and "name" in each:
                    found += _values(f"{path} {each['name']}", each)
    return found
