"""Lower precisions: int8 with requantised outputs and without, half precision, and what conversions cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from predictors.advice.rule import Context, Edit, Place, edit_all, milliseconds
from predictors.cost import bytes_per_element
from predictors.device import Device
from predictors.graph import Graph
from predictors.graph_edit import Draft
from predictors.latency import LatencyPredictor
from predictors.precision import is_conversion, with_precision

_HALF = ("float16", "bfloat16", "tf32")


def integer_precision(graph: Graph, context: Context) -> Iterable[Edit]:
    """The whole network in int8, with requantised outputs and without; with them where it has int8 already."""
    predictor = context.predictor
    if "int8" not in predictor.device.peaks or predictor.dtype == "int8":
        return
    if any(node.dtype for node in graph.nodes):
        if any(node.dtype == "int8" and node.write_dtype for node in graph.nodes):
            yield _whole(_plain(graph), context, "int8", "requantise the outputs of the int8 layers", True)
        return
    yield _whole(graph, context, "int8", "int8 with requantised outputs", True)
    yield _whole(graph, context, "int8", "int8 that writes floats between the operators", False)


def lower_precision(graph: Graph, context: Context) -> Iterable[Edit]:
    """The whole network in each lower precision of the device, and whether its bytes or its arithmetic pay."""
    predictor = context.predictor
    if any(node.dtype for node in graph.nodes):
        return
    for dtype in _HALF:
        if dtype in predictor.device.peaks and _is_lower(dtype, predictor):
            yield _whole(graph, context, dtype, dtype, True)


def conversions(graph: Graph, context: Context) -> Iterable[Edit]:
    """Operators in a precision of their own that cost two conversions: in the precision around them they need none."""
    islands: dict[tuple[str, str], list[Place]] = {}
    for index, node in enumerate(graph.nodes):
        if not is_conversion(node) or (place := _island(graph, context, index)) is None:
            continue
        islands.setdefault((node.written_dtype, node.dtype), []).append(place)
    for (inside, outside), places in islands.items():
        yield from edit_all(
            graph, context, places,
            partial(_text, f"in {outside} as what is around, instead of {inside}, nothing has to be converted"),
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ private


def _text(what: str, names: str, _: Sequence[Place]) -> str:
    return f"{names}: {what}"


def _is_lower(dtype: str, predictor: LatencyPredictor) -> bool:
    """Fewer bytes, or the same bytes at a higher peak."""
    peaks = predictor.device.peaks
    size, now = bytes_per_element(dtype), bytes_per_element(predictor.dtype)
    return size < now or (size == now and peaks[dtype].value > peaks[predictor.dtype].value)


def _whole(graph: Graph, context: Context, dtype: str, what: str, requantise: bool) -> Edit:
    edited = with_precision(graph, dtype, requantise=requantise)
    return Edit(text=f"{what}: {_what_pays(graph, edited, context, dtype)}", graph=edited, module_paths=())


def _plain(graph: Graph) -> Graph:
    """Without conversions and without precisions of the nodes' own."""
    draft = Draft(graph)
    for index, node in enumerate(graph.nodes):
        draft.set_dtype(index, "")
        if is_conversion(node):
            draft.remove(index)
    return draft.graph()


def _what_pays(graph: Graph, edited: Graph, context: Context, dtype: str) -> str:
    """Whether fewer bytes or faster arithmetic save the time: each is predicted without the other.

    From peaks, bandwidths and class efficiencies: a measured time holds both and cannot be taken apart.
    """
    plain = context.predictor
    device, own = plain.device, plain.dtype
    peaks = {name: device.peaks[own if name == dtype else name] for name in device.peaks}
    fast = {name: device.peaks[dtype if name == own else name] for name in device.peaks}
    before_s = _untabled_s(graph, context, device.peaks)
    bytes_s = before_s - _untabled_s(edited, context, peaks, efficiency_of={dtype: own})
    peak_s = before_s - _untabled_s(graph, context, fast)
    more, less = (("less traffic", bytes_s), ("faster arithmetic", peak_s))
    if peak_s > bytes_s:
        more, less = less, more
    return f"{more[0]} alone saves {milliseconds(max(more[1], 0.0))}, {less[0]} alone {milliseconds(max(less[1], 0.0))}"


def _untabled_s(graph: Graph, context: Context, peaks: object, efficiency_of: Mapping[str, str] | None = None) -> float:
    plain = context.predictor
    device: Device = plain.device
    efficiency = dict(device.efficiency)
    for dtype, other in (efficiency_of or {}).items():
        efficiency[dtype] = device.efficiency.get(other, {})
    changed = replace(device, peaks=peaks, efficiency=efficiency, tables=())  # type: ignore[arg-type]
    return float(LatencyPredictor(changed, (), dtype=plain.dtype, runtime=plain.runtime).predict(graph).latency_s)


def _island(graph: Graph, context: Context, first: int) -> Place | None:
    """From a conversion to those back: the nodes between them, all of one precision that they alone have around."""
    outside, inside = graph.nodes[first].dtype, graph.nodes[first].written_dtype
    members: list[int] = []
    entries, exits = [first], []
    waiting = list(context.readers[first])
    while waiting:
        index = waiting.pop()
        node = graph.nodes[index]
        if index in members or index in exits:
            continue
        if is_conversion(node):
            if node.written_dtype != outside:
                return None
            exits.append(index)
            continue
        if node.dtype != inside or node.write_dtype or index in graph.outputs:
            return None
        members.append(index)
        waiting += context.readers[index]
        for source in node.inputs:
            before = graph.nodes[source]
            if source in members or source in entries:
                continue
            if is_conversion(before) and before.dtype == outside:
                entries.append(source)
                waiting += context.readers[source]
            elif before.inputs or before.operator.moves_data:
                return None
            else:
                members.append(source)
    if not members or min(entries) != first:
        return None

    def change(draft: Draft) -> None:
        for index in members:
            draft.set_dtype(index, outside)
        for index in (*entries, *exits):
            draft.remove(index)

    held = sorted(index for index in members if graph.nodes[index].operator.moves_data)
    name = context.name(held[0]) if held else context.name(first)
    return Place(index=first, name=f"{name} (and {len(held) - 1} behind)" if held[1:] else name, change=change)
