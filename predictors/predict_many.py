"""What many archs of a space cost, gathered from tables of what stands at each position of its networks.

A network that is cut into sections costs the sum of what they cost, and its activations need the most that one of them
needs. Neighbouring positions are merged into one table with a row for each choice of their knobs, while it stays small
enough for a cache; a row's number is linear in the knobs' indices. So an arch is one matrix product and a few rows:
nothing branches on the depth, blocks beyond which are rows that add nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from predictors.device import Device
from predictors.graph import Graph
from predictors.sections import Position, Section
from predictors.whole_network import Part, Sums, energy_j, whole_network

_MAX_CHOICES = 1 << 16
"""Positions that can be filled in more ways than this are not tabulated."""

_MAX_ROWS = 4096
"""Positions are merged up to this many rows: some hundred kilobytes, so that the tables of a space share a cache."""

_BLOCK = 2048
"""Archs that are gathered at once: what is in between stays in the cache."""

_SIDE_BY_SIDE = 32

COLUMNS = (*Sums._fields[: Sums._fields.index("read_bytes")], "traffic_bytes", "weight_bytes")
"""What adds up over positions."""


class ArchSpace(Protocol):
    """What `predict_many` needs of a search space. If it has `positions` too, a sequence of `Position`, then the
    sections that stand there, joined, are the graph of every arch.
    """

    @property
    def choices(self) -> Mapping[str, tuple[int, ...]]: ...

    def graph(self, arch: Mapping[str, int]) -> Graph: ...

    def encode(self, archs: Sequence[Mapping[str, int]]) -> NDArray[Any]: ...

    def decode(self, indices: NDArray[Any]) -> list[dict[str, int]]: ...


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Predictions:
    """What N networks cost on a device; every array has shape (N,) and the meaning that it has in `Prediction`.

    `energy_j` is None where the device file gives no energy.
    """

    latency_s: NDArray[np.float64]
    std_s: NDArray[np.float64]
    macs: NDArray[np.int64]
    num_params: NDArray[np.int64]
    traffic_bytes: NDArray[np.int64]
    arithmetic_intensity: NDArray[np.float64]
    peak_memory_bytes: NDArray[np.int64]
    num_kernels: NDArray[np.int64]
    energy_j: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.latency_s)


@dataclass(frozen=True, eq=False, slots=True)
class PositionTable:
    """What stands at a position, or at some neighbouring ones, by the indices of the knobs that decide it.

    Args:
        knobs: of R combinations of their values, the first knob's slowest.
        sums_RC: `COLUMNS`, then the standard deviations that the groups share.
        peaks_R: largest sum of activations in bytes.
    """

    knobs: tuple[str, ...]
    sums_RC: NDArray[np.float64]
    peaks_R: NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class BlockTables:
    """Tables of all positions of a space on one predictor. `block_tables` makes it.

    Args:
        sizes_K: number of values of each knob.
        strides_KT: by how many rows a step of each knob moves in each table.
    """

    tables: tuple[PositionTable, ...]
    sizes_K: NDArray[np.float32]
    strides_KT: NDArray[np.float32]

    @property
    def num_bytes(self) -> int:
        return sum(table.sums_RC.nbytes + table.peaks_R.nbytes for table in self.tables)

    def predict(self, device: Device, indices_NK: NDArray[Any]) -> Predictions:
        """Costs of archs that are given as indices into the choices of the space's knobs.

        Raises:
            ValueError: not integers of that shape, or an index that the space does not have.
        """
        if indices_NK.ndim != 2 or indices_NK.shape[1] != len(self.sizes_K):
            raise ValueError(f"archs of this space are rows of {len(self.sizes_K)} indices, found {indices_NK.shape}")
        if not np.issubdtype(indices_NK.dtype, np.integer):
            raise ValueError(f"indices of archs are integers, as `space.encode` gives them, found {indices_NK.dtype}")
        N = len(indices_NK)
        found = Predictions(
            latency_s=np.empty(N),
            std_s=np.empty(N),
            macs=np.empty(N, dtype=np.int64),
            num_params=np.empty(N, dtype=np.int64),
            traffic_bytes=np.empty(N, dtype=np.int64),
            arithmetic_intensity=np.empty(N),
            peak_memory_bytes=np.empty(N, dtype=np.int64),
            num_kernels=np.empty(N, dtype=np.int64),
            energy_j=np.empty(N) if device.has_energy else None,
        )
        for start in range(0, N, _BLOCK):
            block = slice(start, start + _BLOCK)
            sums_CB, peaks_B = self._gather(indices_NK[block])
            _put(device, sums_CB, peaks_B, found, block)
        return found

    def _gather(self, indices_BK: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Exact in float32: row numbers are integers below 2^24.
        indices = indices_BK.astype(np.float32)
        if indices.min() < 0 or (_largest(indices) >= self.sizes_K).any():
            raise ValueError(
                f"an index of an arch is outside of 0 <= index < {self.sizes_K.astype(int).tolist()}, the number of "
                "values of each knob"
            )
        rows_TB = (indices @ self.strides_KT).T.astype(np.intp, order="C")
        first, *others = self.tables
        # "clip" does not clip anything here; "raise" would copy its output once more.
        sums_BC = first.sums_RC.take(rows_TB[0], axis=0, mode="clip")
        peaks_B = first.peaks_R.take(rows_TB[0], mode="clip")
        more_BC, more_B = np.empty_like(sums_BC), np.empty_like(peaks_B)
        for table, rows_B in zip(others, rows_TB[1:]):
            table.sums_RC.take(rows_B, axis=0, out=more_BC, mode="clip")
            sums_BC += more_BC
            table.peaks_R.take(rows_B, out=more_B, mode="clip")
            np.maximum(peaks_B, more_B, out=peaks_B)
        return np.ascontiguousarray(sums_BC.T), peaks_B


def position_tables(space: ArchSpace, part_of_section: Callable[[Section], Part]) -> tuple[PositionTable, ...] | None:
    """Costs of all that can stand at each position of a space's networks; None where they do not simply add up.

    That is so where the space does not say how its graphs are cut or a position can be filled in too many ways, and
    where the runtime would fuse the end of a section with the beginning of one that may follow it.
    """
    positions: Sequence[Position] = getattr(space, "positions", ())
    choices = space.choices
    if not positions or any(prod(len(choices[knob]) for knob in each.knobs) > _MAX_CHOICES for each in positions):
        return None
    parts_of = {position: _parts_at(position, choices, part_of_section) for position in set(positions)}
    filled = [parts_of[position] for position in positions]
    if _may_fuse_across(filled):
        return None
    groups = {group: None for parts in filled for part in parts if part for group, _ in part.shared_std_s}
    columns = {group: len(COLUMNS) + number for number, group in enumerate(groups)}
    tables = {position: _table(position.knobs, parts, columns) for position, parts in parts_of.items()}
    return tuple(tables[position] for position in positions)


def block_tables(space: ArchSpace, found: Sequence[PositionTable]) -> BlockTables:
    """What `position_tables` found for a space, merged so that an arch is few rows."""
    choices = space.choices
    tables: list[PositionTable] = []
    for table in found:
        union = tuple(dict.fromkeys((*tables[-1].knobs, *table.knobs))) if tables else ()
        if tables and prod(len(choices[knob]) for knob in union) <= max(_MAX_ROWS, len(table.peaks_R)):
            table = _merged(tables.pop(), table, union, choices)
        tables.append(table)
    return BlockTables(
        tables=tuple(tables),
        sizes_K=np.array([len(values) for values in choices.values()], dtype=np.float32),
        strides_KT=np.array([_strides(table.knobs, choices) for table in tables], dtype=np.float32).T.copy(),
    )


# ------------------------------------------------------------------------------------------------------------ private


def _parts_at(
    position: Position, choices: Mapping[str, tuple[int, ...]], part_of_section: Callable[[Section], Part]
) -> list[Part | None]:
    values = product(*[choices[knob] for knob in position.knobs])
    sections = [position.section(dict(zip(position.knobs, each))) for each in values]
    return [part_of_section(section) if section else None for section in sections]


def _may_fuse_across(filled: Sequence[Sequence[Part | None]]) -> bool:
    """Whether what may be the end of the network before a position is ever fused with what may begin there."""
    follow: set[str] = set()
    for parts in filled:
        if any(part and not follow.isdisjoint(part.begin) for part in parts):
            return True
        if None not in parts:
            follow.clear()
        follow.update(*[part.follow for part in parts if part])
    return False


def _table(knobs: tuple[str, ...], parts: Sequence[Part | None], columns: Mapping[str, int]) -> PositionTable:
    sums_RC = np.zeros((len(parts), len(COLUMNS) + len(columns)))
    peaks_R = np.zeros(len(parts))
    for row, part in enumerate(parts):
        if part is None:
            continue
        sums = part.sums._asdict()
        sums["traffic_bytes"] = part.sums.read_bytes + part.sums.weight_bytes + part.sums.write_bytes
        sums_RC[row, : len(COLUMNS)] = [sums[name] for name in COLUMNS]
        for group, std_s in part.shared_std_s:
            sums_RC[row, columns[group]] = std_s
        peaks_R[row] = part.peak_activation_bytes
    return PositionTable(knobs, sums_RC, peaks_R)


def _merged(
    first: PositionTable, second: PositionTable, knobs: tuple[str, ...], choices: Mapping[str, tuple[int, ...]]
) -> PositionTable:
    """One table for both, over all their knobs."""
    sizes = [len(choices[knob]) for knob in knobs]
    indices_KR = np.indices(sizes).reshape(len(knobs), prod(sizes))
    rows_R, others_R = (
        sum(
            (stride * indices for knob, indices in zip(knobs, indices_KR) if (stride := strides.get(knob, 0))),
            start=np.zeros(indices_KR.shape[1], dtype=np.intp),
        )
        for strides in (_stride_by_knob(first.knobs, choices), _stride_by_knob(second.knobs, choices))
    )
    return PositionTable(
        knobs,
        first.sums_RC[rows_R] + second.sums_RC[others_R],
        np.maximum(first.peaks_R[rows_R], second.peaks_R[others_R]),
    )


def _strides(knobs: tuple[str, ...], choices: Mapping[str, tuple[int, ...]]) -> list[int]:
    by_knob = _stride_by_knob(knobs, choices)
    return [by_knob.get(knob, 0) for knob in choices]


def _stride_by_knob(knobs: tuple[str, ...], choices: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    found = {}
    stride = 1
    for knob in reversed(knobs):
        found[knob] = stride
        stride *= len(choices[knob])
    return found


def _largest(indices_BK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest value of each column; many rows side by side are faster to compare."""
    num_columns = indices_BK.shape[1]
    side_by_side = len(indices_BK) // _SIDE_BY_SIDE * _SIDE_BY_SIDE
    wide = indices_BK[:side_by_side].reshape(-1, _SIDE_BY_SIDE * num_columns).max(axis=0, initial=0.0)
    rest = indices_BK[side_by_side:].max(axis=0, initial=0.0)
    largest: NDArray[np.float32] = np.maximum(wide.reshape(_SIDE_BY_SIDE, num_columns).max(axis=0), rest)
    return largest


def _put(
    device: Device, sums_CB: NDArray[np.float64], peaks_B: NDArray[np.float64], found: Predictions, block: slice
) -> None:
    """Turn the sums over the sections of a block of archs into its costs."""
    latency_s, variance_s2, host_s, num_kernels, macs, num_params, executed_macs, traffic_bytes, weight_bytes = sums_CB[
        : len(COLUMNS)
    ]
    shared_CB = sums_CB[len(COLUMNS) :]
    shared_s2 = np.square(shared_CB, out=shared_CB).sum(axis=0)
    whole = whole_network(device, latency_s, num_kernels, variance_s2, shared_s2, host_s)
    found.latency_s[block] = whole.latency_s
    found.std_s[block] = whole.std_s
    found.macs[block] = macs
    found.num_params[block] = num_params
    found.traffic_bytes[block] = traffic_bytes
    found.arithmetic_intensity[block] = 2.0 * executed_macs / traffic_bytes
    found.peak_memory_bytes[block] = peaks_B + weight_bytes
    found.num_kernels[block] = num_kernels
    if found.energy_j is not None:
        found.energy_j[block] = energy_j(device, executed_macs, traffic_bytes)
