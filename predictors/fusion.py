"""From operators to kernels: what a runtime launches once it has fused what it can.

Which operators fuse is data, one file a runtime in `configs/runtime`. A rule names the operators that may start a
kernel and slots that may follow in order, each optional: `Conv -> BN -> ReLU` matches `[[batch_norm], [relu]]` whole,
`Conv -> ReLU -> BN` only up to the ReLU, since the slot of the batch norm has passed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from predictors.graph import Graph, Node, stored_as
from predictors.mapping import check_keys, check_type, named_file, read_yaml
from predictors.operators import Conv2d, Operator, operator_from_text
from predictors.paths import shipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Operators, by kind or variant, that may come at this place of a kernel; any number of them where it repeats."""

    names: frozenset[str]
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionRule:
    """A kernel that starts with one of `anchors` may go on with the slots, in order."""

    anchors: frozenset[str]
    slots: tuple[Slot, ...]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How a runtime turns a graph into kernels. Of several rules for one name the first counts."""

    name: str
    description: str
    source: str
    rules: tuple[FusionRule, ...]
    removes_dead_branches: bool

    def after(self, anchor: Operator) -> "Open":
        """What may follow an anchor: by the rule for its variant, else by that for its kind, else nothing."""
        known = self._open
        return known.get(anchor.variant) or known.get(anchor.kind, _CLOSED)

    @cached_property
    def _open(self) -> dict[str, "Open"]:
        return {anchor: Open(rule.slots) for rule in reversed(self.rules) for anchor in rule.anchors}


class Open:
    """Slots of a kernel that operators may still take; what each leaves of them is found once."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.slots = slots
        self._after: dict[tuple[str, str], Open | None] = {}

    def after(self, operator: Operator) -> "Open | None":
        """What remains when the operator has taken the first slot that fits; None where none does."""
        names = operator.variant, operator.kind
        try:
            return self._after[names]
        except KeyError:
            found = self._after[names] = self._find(*names)
            return found

    def _find(self, variant: str, kind: str) -> "Open | None":
        for index, slot in enumerate(self.slots):
            if variant in slot.names or kind in slot.names:
                remaining = self.slots[index if slot.repeats else index + 1 :]
                return self if remaining == self.slots else Open(remaining)
        return None


_CLOSED = Open(())
_ARROW = " -> "


@dataclass(frozen=True)
class Kernel:
    """What the runtime launches: an anchor operator and what is fused into it. Hashable; `text` keys the tables.

    Attributes:
        dtype: of what the anchor reads and of all weights.
        write_dtype: of what the anchor makes of that, what is fused reads beside it, and the kernel writes; empty where
            it is `dtype`.
    """

    anchor: Operator
    fused: tuple[Operator, ...]
    dtype: str
    write_dtype: str = ""

    def __post_init__(self) -> None:
        if self.write_dtype == self.dtype:
            object.__setattr__(self, "write_dtype", "")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.anchor, self.fused, self.dtype, self.write_dtype))

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: hashes of strings differ from process to process."""
        return {"anchor": self.anchor, "fused": self.fused, "dtype": self.dtype, "write_dtype": self.write_dtype}

    @cached_property
    def written_dtype(self) -> str:
        """Of what it writes."""
        return self.write_dtype or self.dtype

    @cached_property
    def text(self) -> str:
        """Canonical text without the dtype, which the table's header says.

        It ends in ` -> float32` where the kernel writes that and computes in another.
        """
        text = " + ".join(operator.text for operator in (self.anchor, *self.fused))
        return f"{text}{_ARROW}{self.write_dtype}" if self.write_dtype else text

    @property
    def kind(self) -> str:
        """Variant of the anchor, e.g. 'conv2d', 'depthwise_conv2d', 'add'."""
        return self.anchor.variant

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names under which an efficiency may be filed, the most specific first.

        >>> kernel_from_text("conv2d(in_channels=8, out_channels=8, height=4, width=4, kernel=(3, 3))", "int8").classes
        ('conv2d_3x3_s1', 'conv2d_3x3', 'conv2d')
        """
        anchor = self.anchor
        if isinstance(anchor, Conv2d):
            variant = "grouped_conv2d" if anchor.groups > 1 and not anchor.is_depthwise else anchor.variant
            sized = f"{variant}_{anchor.kernel[0]}x{anchor.kernel[1]}"
            return f"{sized}_s{anchor.stride[0]}", sized, variant
        return tuple(dict.fromkeys((anchor.variant, anchor.kind)))


class KernelNode(NamedTuple):
    """A kernel in its place: the graph's nodes that it runs and, behind views, the nodes whose outputs it reads.

    A tuple, since every prediction of a new graph makes one for each kernel.
    """

    kernel: Kernel
    nodes: tuple[int, ...]
    inputs: tuple[int, ...]


def kernel_from_text(text: str, dtype: str) -> Kernel:
    """Read what `Kernel.text` wrote."""
    text, _, write_dtype = text.partition(_ARROW)
    anchor, *fused = (operator_from_text(part) for part in text.split(" + "))
    return make_kernel(anchor, tuple(fused), dtype, *([write_dtype] if write_dtype else ()))


make_kernel = lru_cache(maxsize=1 << 16)(Kernel)
"""The kernel of these operators, shared between all networks that have it."""


def fuse(graph: Graph, runtime: Runtime, dtype: str) -> tuple[KernelNode, ...]:
    """Kernels of the network in an order that the runtime could run.

    A follower is fused when its rule has a slot for it, it is the only reader of what the kernel has written so far,
    and it changes neither the shape nor the dtype of that. Operators that launch nothing vanish.

    Args:
        dtype: of the nodes that say none.
    """
    nodes = graph.nodes
    alive = _alive(graph) if runtime.removes_dead_branches else [True] * len(nodes)
    reader = _only_readers(graph, alive)
    origin = list(range(len(nodes)))  # where the data of each node was written, behind views
    done = [False] * len(nodes)
    found: list[tuple[int, Kernel, list[int], list[int]]] = []  # last node, kernel, nodes, nodes that it reads
    for index, node in enumerate(nodes):
        if done[index] or not alive[index]:
            continue
        anchor = node.operator
        if not anchor.moves_data:
            if node.inputs:
                origin[index] = origin[node.inputs[0]]
            continue
        members = [index]
        fused = []
        inputs = list(node.inputs)
        computes = node.dtype or dtype
        writes = node.write_dtype or computes
        slots = runtime.after(anchor)
        last = index
        while slots.slots and (follower := reader[last]) >= 0 and not done[follower]:
            node = nodes[follower]
            operator = node.operator
            remaining = slots.after(operator)
            if remaining is None or operator.output_shape != anchor.output_shape:
                break
            if ((node.dtype or dtype) != writes or node.write_dtype) and not _keeps_dtype(node, dtype, writes):
                break
            slots = remaining
            inputs += [source for source in node.inputs if source != last]
            last = follower
            members.append(last)
            fused.append(operator)
            done[last] = True
        if writes == computes:
            kernel = make_kernel(anchor, tuple(fused), computes)
        else:
            kernel = make_kernel(anchor, tuple(fused), computes, writes)
        found.append((last, kernel, members, inputs))
    found.sort(key=itemgetter(0))
    written_at = origin.__getitem__
    return tuple(
        [KernelNode(kernel, tuple(members), tuple(map(written_at, inputs))) for _, kernel, members, inputs in found]
    )


def names_that_follow(kernel: Kernel, runtime: Runtime) -> frozenset[str]:
    """Names of the operators that would be fused into the kernel if they came next."""
    remaining: Open | None = runtime.after(kernel.anchor)
    for operator in kernel.fused:
        remaining = remaining.after(operator) if remaining else None
    return frozenset(name for slot in remaining.slots for name in slot.names) if remaining else frozenset()


def only_reader(graph: Graph, index: int, runtime: Runtime) -> Operator | None:
    """The operator that alone reads what a node writes, None for none, several, or an output of the network."""
    alive = _alive(graph) if runtime.removes_dead_branches else [True] * len(graph.nodes)
    found = _only_readers(graph, alive)[index]
    return graph.nodes[found].operator if found >= 0 else None


def load_runtime(name: str | Path) -> Runtime:
    """The runtime of that name in `configs/runtime`, or of a YAML file."""
    path = named_file(name, (shipped("runtime"),), "runtime")
    return runtime_from_mapping(read_yaml(path), str(path.name))


def runtime_from_mapping(mapping: Mapping[str, Any], where: str = "runtime") -> Runtime:
    """Validate a runtime's plain mapping and freeze it. A slot is a list of names, or `repeat: [names]`."""
    keys = ("name", "description", "source", "removes_dead_branches", "fusion")
    check_keys(mapping, keys, keys, where)
    return Runtime(
        name=check_type(mapping["name"], str, f"{where}: name"),
        description=check_type(mapping["description"], str, f"{where}: description"),
        source=check_type(mapping["source"], str, f"{where}: source"),
        removes_dead_branches=check_type(mapping["removes_dead_branches"], bool, f"{where}: removes_dead_branches"),
        rules=fusion_rules(mapping["fusion"], f"{where}: fusion"),
    )


def fusion_rules(rules: object, where: str) -> tuple[FusionRule, ...]:
    """Validate the plain list of rules of a runtime's or a device's file and freeze it."""
    return tuple(_rule(rule, f"{where}[{index}]") for index, rule in enumerate(check_type(rules, list, where)))


# ------------------------------------------------------------------------------------------------------------ private


def _keeps_dtype(node: Node, dtype: str, writes: str) -> bool:
    reads = node.dtype or dtype
    return stored_as(reads) == stored_as(node.write_dtype or reads) == stored_as(writes)


def _alive(graph: Graph) -> list[bool]:
    """Nodes that an output needs. A product with zero (`zero`) is known beforehand: it needs nothing and never runs."""
    nodes = graph.nodes
    alive = [False] * len(nodes)
    for index in graph.outputs:
        alive[index] = True
    for index in range(len(nodes) - 1, -1, -1):
        if alive[index]:
            node = nodes[index]
            operator = node.operator
            if operator.kind == "elementwise" and operator.variant == "zero":
                alive[index] = False
            else:
                for source in node.inputs:
                    alive[source] = True
    return alive


def _only_readers(graph: Graph, alive: list[bool]) -> list[int]:
    """For each node the only one that reads it; -1 for none, -2 for several or an output of the network."""
    reader = [-1] * len(graph.nodes)
    for index, (node, is_alive) in enumerate(zip(graph.nodes, alive)):
        if is_alive:
            for source in node.inputs:
                reader[source] = index if reader[source] == -1 else -2
    for index in graph.outputs:
        reader[index] = -2
    return reader


def _rule(mapping: object, where: str) -> FusionRule:
    rule = check_keys(mapping, ("anchors", "then"), ("anchors", "then"), where)
    return FusionRule(
        anchors=_names(rule["anchors"], f"{where}: anchors"),
        slots=tuple(
            _slot(slot, f"{where}: then[{index}]")
            for index, slot in enumerate(check_type(rule["then"], list, f"{where}: then"))
        ),
    )


def _slot(slot: object, where: str) -> Slot:
    if isinstance(slot, Mapping):
        return Slot(names=_names(check_keys(slot, ("repeat",), ("repeat",), where)["repeat"], where), repeats=True)
    return Slot(names=_names(slot, where))


def _names(names: object, where: str) -> frozenset[str]:
    return frozenset(check_type(name, str, where) for name in check_type(names, list, where))
