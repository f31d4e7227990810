"""A device back as the plain mapping that `device_from_mapping` reads, and as a file.

Numbers are written in SI units with all their digits, so that reading the file gives an equal device.
"""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from predictors.device import ClassEfficiency, Device, Quantity, RuntimeNumbers
from predictors.fitted_rates import ClassRates, FittedRates, WorkRates
from predictors.fusion import FusionRule, Slot

_RUNTIME_KEYS = tuple(item.name for item in fields(RuntimeNumbers))
_UNITS = {
    "launch": "s",
    "network_overhead": "s",
    "kernel_overhead": "s",
    "host_launch": "s",
    "in_network": "1",
    "network_spread": "1",
    "alignment": "channels",
    "compute_units": "cores",
    "cache": "B",
    "energy_per_mac": "J",
    "energy_per_byte": "J",
    "reference": "s",
}


def save_device(device: Device, path: str | Path) -> None:
    """Write the device as a YAML file that `load_device` reads; whole or not at all.

    Raises:
        ValueError: the file's name does not end in .yaml, or its folder does not exist.
    """
    path = file_to_write(path, ".yaml", "device")
    text: str = yaml.dump(device_to_mapping(device), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    write_whole(path, text)


def file_to_write(path: str | Path, suffix: str, what: str) -> Path:
    """The path, with the home directory for ~.

    Raises:
        ValueError: the file's name does not end in the suffix, or its folder does not exist; `what` names it.
    """
    path = Path(path).expanduser()
    if path.suffix != suffix:
        raise ValueError(f"a {what}'s file ends in {suffix}, found {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"folder {str(path.parent)!r} of the {what}'s file does not exist")
    return path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def device_to_mapping(device: Device) -> dict[str, Any]:
    """The device's plain mapping: `device_from_mapping(device_to_mapping(device)) == device`.

    Numbers of the device's own runtime stand at the top, unless they are those of its section under `runtimes`.
    """
    found: dict[str, Any] = {
        "name": device.name,
        "description": device.description,
        "runtime": device.runtime,
        "dtype": device.dtype,
        "peak": {dtype: _quantity(peak, "FLOP/s") for dtype, peak in device.peaks.items()},
        "memory": [
            {"name": level.name, "bandwidth": _quantity(level.bandwidth, "B/s")}
            | ({"capacity": _quantity(level.capacity, "B")} if level.capacity else {})
            for level in device.memory
        ],
    }
    for name in ("alignment", "compute_units", "cache", "energy_per_mac", "energy_per_byte", "reference"):
        if (value := getattr(device, name)) is not None:
            found[name] = _quantity(value, _UNITS[name])
    if device.runtime not in device.runtimes:
        found |= _numbers(device)
    if device.runtimes:
        found["runtimes"] = {
            name: _numbers(device if name == device.runtime else numbers) for name, numbers in device.runtimes.items()
        }
    return found


# ------------------------------------------------------------------------------------------------------------ private


def _numbers(numbers: RuntimeNumbers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _RUNTIME_KEYS:
        value = getattr(numbers, name)
        if isinstance(value, Quantity):
            found[name] = _quantity(value, _UNITS[name])
    if numbers.host_launch_of:
        found["host_launch_of"] = {name: _quantity(each, "s") for name, each in numbers.host_launch_of.items()}
    if numbers.efficiency:
        found["efficiency"] = {
            dtype: {name: _class_efficiency(each) for name, each in classes.items()}
            for dtype, classes in numbers.efficiency.items()
        }
    if numbers.fitted:
        found["fitted"] = {dtype: _fitted_rates(each) for dtype, each in numbers.fitted.items()}
    if numbers.fusion is not None:
        found["fusion"] = [_rule(rule) for rule in numbers.fusion]
    if numbers.tables:
        found["tables"] = [str(path) for path in numbers.tables]
    return found


def _quantity(quantity: Quantity, unit: str) -> dict[str, Any]:
    return {"value": quantity.value, "unit": unit, "source": quantity.source}


def _class_efficiency(efficiency: ClassEfficiency) -> dict[str, Any]:
    found: dict[str, Any] = {item.name: getattr(efficiency, item.name) for item in fields(efficiency)}
    for name in ("fixed_s", "num_kernels"):
        if not found[name]:
            del found[name]
    return found


def _fitted_rates(rates: FittedRates) -> dict[str, Any]:
    return {
        "source": rates.source,
        "pixels": list(rates.extents),
        "classes": {name: _class_rates(each) for name, each in rates.classes.items()},
    }


def _class_rates(rates: ClassRates) -> dict[str, Any]:
    found: dict[str, Any] = {"num_kernels": rates.num_kernels} if rates.num_kernels else {}
    found |= _work_rates(rates.added)
    if rates.longer != WorkRates():
        found["longer"] = _work_rates(rates.longer)
    found["own"] = list(rates.own_X)
    if rates.shared_FX:
        found["shared"] = [list(row) for row in rates.shared_FX]
    return found


def _work_rates(rates: WorkRates) -> dict[str, Any]:
    return {"launch": rates.launch_s, **{sort: list(row) for sort, row in rates.per_unit_s.items()}}


def _rule(rule: FusionRule) -> Mapping[str, Any]:
    return {"anchors": sorted(rule.anchors), "then": [_slot(slot) for slot in rule.slots]}


def _slot(slot: Slot) -> Any:
    names = sorted(slot.names)
    return {"repeat": names} if slot.repeats else names


class _Dumper(yaml.SafeDumper):
    """Rows of numbers stand in one line."""


def _list(dumper: _Dumper, values: list[Any]) -> yaml.Node:
    numbers = bool(values) and all(isinstance(value, float) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=numbers or None)


_Dumper.add_representer(list, _list)
