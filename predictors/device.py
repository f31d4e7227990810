"""A device as data: measured or published peaks, bandwidths, launch cost, efficiencies, each with its source.

A device file (`configs/hw/*.yaml`, or a user's own) gives every number as `{value: 35, unit: GB/s, source: "..."}`.
What no source gives is left out, and asking for it is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any

from predictors.cost import BYTES_PER_ELEMENT
from predictors.fitted_rates import WORK, ClassRates, FittedRates, WorkRates
from predictors.fusion import FusionRule, fusion_rules
from predictors.mapping import check_keys, check_type, named_file, read_yaml
from predictors.paths import shipped, user_device_folders

UNITS: dict[str, dict[str, float]] = {
    "compute": {"FLOP/s": 1.0, "MFLOP/s": 1e6, "GFLOP/s": 1e9, "TFLOP/s": 1e12, "GOP/s": 1e9, "TOP/s": 1e12},
    "bandwidth": {"B/s": 1.0, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12},
    "capacity": {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "kB": 1e3, "MB": 1e6, "GB": 1e9},
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "energy": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12},
    "count": {"elements": 1.0, "channels": 1.0, "cores": 1.0},
    "ratio": {"1": 1.0},
}


ANY_CLASS = "any"
"""Class of the efficiency that serves kernels whose own class has none."""


class DeviceNotMeasuredError(ValueError):
    """The device file only says how to measure the device, and nobody has yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A positive number in SI units and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLevel:
    """A cache, or with `capacity_bytes=None` the memory that holds everything."""

    name: str
    bandwidth: Quantity
    capacity: Quantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEfficiency:
    """Shares of the device's peaks that kernels of one class reach, fitted on measured kernels.

    seconds = flops / (compute * peak) + bytes read / (read * bandwidth) + bytes written / (write * bandwidth) + fixed_s

    The terms add up: real kernels overlap arithmetic and transfers only in part. More work never takes less time.

    Attributes:
        compute: share of the peak FLOP/s.
        read, write: shares of the memory bandwidth for inputs and weights, and for outputs.
        fixed_s: seconds that a kernel takes whatever its size, its launch included.
        spread: standard deviation of ln(measured / predicted) on networks that were not fitted.
        num_kernels: how many kernels were fitted.
    """

    compute: float
    read: float
    write: float
    fixed_s: float = 0.0
    spread: float
    num_kernels: int = 0
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeNumbers:
    """What is known about a device under one runtime. In a device file these keys stand at the top, for the runtime
    that it names, or under `runtimes`, for each that was measured.

    Attributes:
        launch: seconds to launch one kernel; None where no source gives it, and then counted as part of the efficiency.
        efficiency: by dtype, by kernel class (`Kernel.classes`, or `ANY_CLASS` for all others).
        fitted: by dtype, rates that `calibrate` fitted to whole networks; they count before the efficiency.
        network_overhead, kernel_overhead: seconds that a whole network takes beyond the sum of its kernels.
        host_launch: seconds that the host needs to issue one kernel where kernels queue, as on a GPU: a network takes
            the longer of issuing all its kernels and running them. None where nothing queues, or no source says.
        host_launch_of: the same for kernels of a class (`Kernel.classes`); `host_launch` is for all others.
        in_network: what kernels take inside a whole network over what they are predicted to take.
        network_spread: standard deviation of ln(measured / predicted) that whole networks share, beside what their
            kernels err each by themselves; None where no whole networks were compared.
        fusion: what fuses on this device, in place of the runtime's own rules; None where those hold.
        tables: files of lookup tables measured on the device.
    """

    launch: Quantity | None = None
    efficiency: Mapping[str, Mapping[str, ClassEfficiency]] = field(default_factory=dict)
    fitted: Mapping[str, FittedRates] = field(default_factory=dict)
    network_overhead: Quantity | None = None
    kernel_overhead: Quantity | None = None
    host_launch: Quantity | None = None
    host_launch_of: Mapping[str, Quantity] = field(default_factory=dict)
    in_network: Quantity | None = None
    network_spread: Quantity | None = None
    fusion: tuple[FusionRule, ...] | None = None
    tables: tuple[Path, ...] = ()


_RUNTIME_KEYS = tuple(item.name for item in fields(RuntimeNumbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(RuntimeNumbers):
    """What is known about a device. `load_device` makes it. What depends on the runtime is that of `runtime`.

    Attributes:
        runtime: name of the runtime (`configs/runtime`) that its numbers belong to.
        dtype: what networks are usually deployed in.
        peaks: FLOP/s by dtype (integer operations for int8).
        memory: levels from the smallest cache to the memory that holds everything.
        alignment: channels are stored and computed in multiples of this.
        compute_units: streaming multiprocessors, shader cores: how many work groups run at once.
        cache: of a GPU, bytes of the last cache, where no source gives its bandwidth (`memory` holds those with one).
        energy_per_mac, energy_per_byte: joules, where a source gives them.
        reference: seconds of the profiler's reference kernel at its best, the unit of its times.
        runtimes: numbers of all runtimes that were measured, by name; `in_runtime` takes one of them.
    """

    name: str
    description: str
    runtime: str
    dtype: str
    peaks: Mapping[str, Quantity]
    memory: tuple[MemoryLevel, ...]
    alignment: Quantity | None = None
    compute_units: Quantity | None = None
    cache: Quantity | None = None
    energy_per_mac: Quantity | None = None
    energy_per_byte: Quantity | None = None
    reference: Quantity | None = None
    runtimes: Mapping[str, RuntimeNumbers] = field(default_factory=dict)

    def in_runtime(self, name: str) -> "Device":
        """The device under another runtime: with the numbers measured there, or with its own where there are none."""
        if name == self.runtime:
            return self
        numbers = self.runtimes.get(name)
        found = {key: getattr(numbers, key) for key in _RUNTIME_KEYS} if numbers else {}
        return replace(self, runtime=name, **found)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(self.peaks)

    @property
    def launch_s(self) -> float:
        return self.launch.value if self.launch else 0.0

    @property
    def channel_alignment(self) -> int:
        return int(self.alignment.value) if self.alignment else 1

    @property
    def bandwidth(self) -> float:
        """Bandwidth of the memory that holds everything, byte/s."""
        return self.memory[-1].bandwidth.value

    @property
    def has_energy(self) -> bool:
        return self.energy_per_mac is not None or self.energy_per_byte is not None

    def peak_flops(self, dtype: str | None = None) -> float:
        """Peak FLOP/s in a dtype, the usual one if none is named.

        Raises:
            ValueError: no source gives a peak for that dtype.
        """
        dtype = dtype or self.dtype
        if dtype not in self.peaks:
            raise ValueError(f"device {self.name!r} has no peak for dtype {dtype!r}; it lists {list(self.dtypes)}")
        return self.peaks[dtype].value

    def ridge_point(self, dtype: str | None = None) -> float:
        """peak FLOP/s / memory bandwidth, in FLOP per byte: below it memory decides, above it compute.

        Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
        """
        return self.peak_flops(dtype) / self.bandwidth

    def attainable_flops(self, intensity: float, dtype: str | None = None) -> float:
        """min(peak, intensity * bandwidth), in FLOP/s, from the memory that holds everything."""
        return min(self.peak_flops(dtype), intensity * self.bandwidth)

    def bandwidth_for(self, working_set_bytes: float) -> float:
        """Bandwidth of the smallest level that holds the working set, byte/s."""
        for level in self.memory[:-1]:
            if level.capacity is not None and working_set_bytes <= level.capacity.value:
                return level.bandwidth.value
        return self.bandwidth

    def sources(self) -> dict[str, str]:
        """Every number's name and source."""
        found = {f"peak {dtype}": peak.source for dtype, peak in self.peaks.items()}
        for level in self.memory:
            found[f"bandwidth {level.name}"] = level.bandwidth.source
            if level.capacity:
                found[f"capacity {level.name}"] = level.capacity.source
        for name in (
            "launch", "alignment", "energy_per_mac", "energy_per_byte", "reference", "network_overhead",
            "kernel_overhead", "host_launch", "in_network", "network_spread", "compute_units", "cache",
        ):  # fmt: skip
            if quantity := getattr(self, name):
                found[name.replace("_", " ")] = quantity.source
        for kernel_class, quantity in self.host_launch_of.items():
            found[f"host launch of {kernel_class}"] = quantity.source
        for dtype, classes in self.efficiency.items():
            for kernel_class, efficiency in classes.items():
                found[f"efficiency {kernel_class} {dtype}"] = efficiency.source
        for dtype, fitted in self.fitted.items():
            found[f"fitted rates {dtype}"] = fitted.source
        return found


def available_devices() -> list[str]:
    """Names that `load_device` takes: shipped devices and the user's own."""
    return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})


def load_device(name: str | Path) -> Device:
    """A device by its name in `configs/hw`, `./hw` or `$RIDGELINE_HOME/hw`, or from a path to a YAML file.

    >>> round(load_device("v100").ridge_point("float32"), 1)
    15.6

    Raises:
        ValueError: no such device (all that exist are listed), or its file is malformed.
        DeviceNotMeasuredError: the device is this machine and it has not been measured.
    """
    path = named_file(name, _folders(), "device")
    mapping = read_yaml(path)
    own = [folder / path.name for folder in user_device_folders() if (folder / path.name).is_file()]
    if path.parent == shipped("hw") and own and "measure_with" not in mapping:
        raise ValueError(
            f"device {str(name)!r} is shipped with ridgeline, and {own[0]} has the same name; rename yours"
        )
    return device_from_mapping(mapping, source=str(path))


def device_from_mapping(mapping: Mapping[str, Any], source: str = "device") -> Device:
    """Validate a device's plain mapping, as its YAML file or a Hydra group gives it, and freeze it.

    A mapping of just `name` and `measure_with` stands for a device that is measured where it is used: the file that
    the measurement left in the user's folders is loaded instead.

    Raises:
        ValueError: a misspelled key, a wrong type, an unknown unit, a number that is not positive.
        DeviceNotMeasuredError: the device has not been measured yet.
    """
    if isinstance(mapping, Mapping) and "measure_with" in mapping:
        return _measured_device(check_keys(mapping, ("name", "measure_with"), ("name",), source))
    required = ("name", "description", "runtime", "dtype", "peak", "memory")
    optional = (
        "alignment",
        "compute_units",
        "cache",
        "energy_per_mac",
        "energy_per_byte",
        "reference",
        "runtimes",
        *_RUNTIME_KEYS,
    )
    keys = check_keys(mapping, (*required, *optional), required, source)
    runtime = check_type(keys["runtime"], str, f"{source}: runtime")
    runtimes = {
        str(name): _runtime_numbers(check_keys(section, _RUNTIME_KEYS, (), f"{source}: runtimes.{name}"), source)
        for name, section in check_type(keys.get("runtimes", {}), Mapping, f"{source}: runtimes").items()
    }
    if runtime in runtimes and (twice := [key for key in _RUNTIME_KEYS if key in keys]):
        raise ValueError(f"{source}: {twice[0]} of {runtime!r} stands at the top and under runtimes; one has to go")
    numbers = runtimes.get(runtime) or _runtime_numbers(keys, source)

    peaks = {
        _dtype(dtype, f"{source}: peak"): _quantity(peak, "compute", f"{source}: peak.{dtype}")
        for dtype, peak in check_type(keys["peak"], Mapping, f"{source}: peak").items()
    }
    device = Device(
        name=check_type(keys["name"], str, f"{source}: name"),
        description=check_type(keys["description"], str, f"{source}: description"),
        runtime=runtime,
        dtype=_dtype(keys["dtype"], f"{source}: dtype"),
        peaks=peaks,
        memory=_memory(keys["memory"], f"{source}: memory"),
        alignment=_optional(keys, "alignment", "count", source),
        compute_units=_optional(keys, "compute_units", "count", source),
        cache=_optional(keys, "cache", "capacity", source),
        energy_per_mac=_optional(keys, "energy_per_mac", "energy", source),
        energy_per_byte=_optional(keys, "energy_per_byte", "energy", source),
        reference=_optional(keys, "reference", "time", source),
        runtimes=runtimes,
        **{key: getattr(numbers, key) for key in _RUNTIME_KEYS},
    )
    device.peak_flops()
    if device.alignment and device.alignment.value != int(device.alignment.value):
        raise ValueError(f"{source}: alignment must be a whole number of channels, found {device.alignment.value}")
    return device


# ------------------------------------------------------------------------------------------------------------ private


def _folders() -> tuple[Path, ...]:
    return (shipped("hw"), *user_device_folders())


def _measured_device(reference: Mapping[str, Any]) -> Device:
    name = check_type(reference["name"], str, "name")
    for folder in user_device_folders():
        if (path := folder / f"{name}.yaml").is_file():
            return device_from_mapping(read_yaml(path), source=str(path))
    raise DeviceNotMeasuredError(
        f"device {name!r} has not been measured on this machine; run `python -m predictors.profile --device {name}`"
    )


def _runtime_numbers(keys: Mapping[str, Any], source: str) -> RuntimeNumbers:
    return RuntimeNumbers(
        launch=_optional(keys, "launch", "time", source),
        efficiency=_efficiency(keys.get("efficiency", {}), f"{source}: efficiency"),
        fitted={
            _dtype(dtype, f"{source}: fitted"): _fitted_rates(entry, f"{source}: fitted.{dtype}")
            for dtype, entry in check_type(keys.get("fitted", {}), Mapping, f"{source}: fitted").items()
        },
        network_overhead=_optional(keys, "network_overhead", "time", source),
        kernel_overhead=_optional(keys, "kernel_overhead", "time", source),
        host_launch=_optional(keys, "host_launch", "time", source),
        host_launch_of={
            str(name): _quantity(each, "time", f"{source}: host_launch_of.{name}")
            for name, each in check_type(keys.get("host_launch_of", {}), Mapping, f"{source}: host_launch_of").items()
        },
        in_network=_optional(keys, "in_network", "ratio", source),
        network_spread=_optional(keys, "network_spread", "ratio", source),
        fusion=fusion_rules(keys["fusion"], f"{source}: fusion") if "fusion" in keys else None,
        tables=tuple(_table(file, source) for file in check_type(keys.get("tables", []), list, f"{source}: tables")),
    )


def _optional(keys: Mapping[str, Any], key: str, dimension: str, source: str) -> Quantity | None:
    return _quantity(keys[key], dimension, f"{source}: {key}") if key in keys else None


def _dtype(value: object, where: str) -> str:
    if not isinstance(value, str) or value not in BYTES_PER_ELEMENT:
        raise ValueError(f"{where}: unknown dtype {value!r}; known are {sorted(BYTES_PER_ELEMENT)}")
    return str(value)


def _positive(value: object, where: str) -> float:
    number = float(check_type(value, (int, float), where))
    if not 0.0 < number < float("inf"):
        raise ValueError(f"{where}: must be positive and finite, found {value!r}")
    return number


def _quantity(mapping: object, dimension: str, where: str) -> Quantity:
    keys = check_keys(mapping, ("value", "unit", "source"), ("value", "unit", "source"), where)
    units = UNITS[dimension]
    if check_type(keys["unit"], str, f"{where}: unit") not in units:
        raise ValueError(f"{where}: unknown unit {keys['unit']!r}; allowed are {list(units)}")
    value = _positive(keys["value"], f"{where}: value") * units[keys["unit"]]
    return Quantity(value=value, source=_source(keys["source"], where))


def _source(value: object, where: str) -> str:
    source: str = check_type(value, str, f"{where}: source")
    if not source.strip():
        raise ValueError(f"{where}: source must say where the number comes from, found an empty text")
    return source


def _memory(entries: object, where: str) -> tuple[MemoryLevel, ...]:
    levels = []
    for index, entry in enumerate(check_type(entries, list, where)):
        here = f"{where}[{index}]"
        keys = check_keys(entry, ("name", "bandwidth", "capacity"), ("name", "bandwidth"), here)
        capacity = _quantity(keys["capacity"], "capacity", f"{here}: capacity") if "capacity" in keys else None
        bandwidth = _quantity(keys["bandwidth"], "bandwidth", f"{here}: bandwidth")
        levels.append(MemoryLevel(name=check_type(keys["name"], str, here), bandwidth=bandwidth, capacity=capacity))
    if not levels:
        raise ValueError(f"{where}: at least one level of memory is needed")
    for smaller, larger in pairwise(levels):
        if smaller.capacity is None:
            raise ValueError(f"{where}: level {smaller.name!r} needs a capacity; only the last level may lack one")
        if larger.capacity is not None and larger.capacity.value <= smaller.capacity.value:
            raise ValueError(f"{where}: level {larger.name!r} must hold more than level {smaller.name!r} before it")
        if larger.bandwidth.value > smaller.bandwidth.value:
            raise ValueError(f"{where}: level {larger.name!r} is faster than the smaller level {smaller.name!r}")
    return tuple(levels)


def _efficiency(mapping: object, where: str) -> Mapping[str, Mapping[str, ClassEfficiency]]:
    return {
        _dtype(dtype, where): {
            str(name): _class_efficiency(entry, f"{where}.{dtype}.{name}")
            for name, entry in check_type(classes, Mapping, f"{where}.{dtype}").items()
        }
        for dtype, classes in check_type(mapping, Mapping, where).items()
    }


def _class_efficiency(entry: object, where: str) -> ClassEfficiency:
    required = ("compute", "read", "write", "spread", "source")
    keys = dict(check_keys(entry, (*required, "fixed_s", "num_kernels"), required, where))
    source = _source(keys.pop("source"), where)
    num_kernels = check_type(keys.pop("num_kernels", 0), int, f"{where}: num_kernels")
    numbers = {key: _positive(value, f"{where}: {key}") for key, value in keys.items()}
    return ClassEfficiency(**numbers, num_kernels=num_kernels, source=source)


def _fitted_rates(entry: object, where: str) -> FittedRates:
    keys = check_keys(entry, ("pixels", "classes", "source"), ("pixels", "classes", "source"), where)
    extents = tuple(
        _positive(each, f"{where}: pixels") for each in check_type(keys["pixels"], list, f"{where}: pixels")
    )
    if not extents or any(after <= before for before, after in pairwise(extents)):
        raise ValueError(f"{where}: pixels must rise, found {list(extents)}")
    classes = {
        str(name): _class_rates(each, len(extents), f"{where}.{name}")
        for name, each in check_type(keys["classes"], Mapping, f"{where}: classes").items()
    }
    if ANY_CLASS not in classes:
        raise ValueError(f"{where}: class {ANY_CLASS!r} is missing, which serves all kernels of other classes")
    return FittedRates(extents=extents, classes=classes, source=_source(keys["source"], where))


def _class_rates(entry: object, num_extents: int, where: str) -> ClassRates:
    rates = ("launch", *WORK)
    keys = check_keys(entry, (*rates, "longer", "own", "shared", "num_kernels"), ("launch", "own"), where)
    longer = check_keys(keys.get("longer", {"launch": 0.0}), rates, ("launch",), f"{where}.longer")
    return ClassRates(
        added=_work_rates(keys, num_extents, where),
        longer=_work_rates(longer, num_extents, f"{where}.longer"),
        own_X=_row(keys["own"], num_extents, f"{where}: own"),
        shared_FX=tuple(
            _row(row, num_extents, f"{where}: shared", signed=True)
            for row in check_type(keys.get("shared", []), list, f"{where}: shared")
        ),
        num_kernels=check_type(keys.get("num_kernels", 0), int, f"{where}: num_kernels"),
    )


def _work_rates(keys: Mapping[str, Any], num_extents: int, where: str) -> WorkRates:
    (launch_s,) = _row([keys["launch"]], 1, f"{where}: launch")
    return WorkRates(
        launch_s=launch_s,
        per_unit_s={sort: _row(keys[sort], num_extents, f"{where}: {sort}") for sort in WORK if sort in keys},
    )


def _row(values: object, length: int, where: str, *, signed: bool = False) -> tuple[float, ...]:
    """Finite numbers, not negative unless signed, as many as there are extents."""
    found = tuple(float(check_type(value, (int, float), where)) for value in check_type(values, list, where))
    if len(found) != length:
        raise ValueError(f"{where}: needs {length} numbers, one for each of the pixels, found {len(found)}")
    if not all(isfinite(value) and (signed or value >= 0.0) for value in found):
        raise ValueError(f"{where}: numbers must be finite{'' if signed else ' and not negative'}, found {list(found)}")
    return found


def _table(file: object, source: str) -> Path:
    """A table's file name is relative to the device file; a composed mapping has none, so all folders are tried."""
    name: str = check_type(file, str, f"{source}: tables")
    candidates = [folder / name for folder in (Path(source).parent, *_folders())]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    raise ValueError(f"{source}: table {name!r} is in none of {[str(path.parent) for path in candidates]}")
