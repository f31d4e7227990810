"""What an ONNX model has to be before it is read: of known versions, each tensor written once, nodes in an order."""

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import checker, helper

from predictors.onnx.nodes import FLATTENED, OnnxNode

LEAST_OPSET = 11

NEWEST_OPSETS = {"": onnx.defs.onnx_opset_version(), "com.microsoft": 1}
"""By domain; nodes of other domains have no formulas here."""


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """Version of each domain that the model imports.

    Raises:
        ValueError: ONNX's own operators are of a version that is not known, or of none.
    """
    found = {"" if each.domain == "ai.onnx" else each.domain: each.version for each in model.opset_import}
    version = found.get("", LEAST_OPSET)
    if not LEAST_OPSET <= version <= NEWEST_OPSETS[""]:
        newer = version > NEWEST_OPSETS[""]
        raise ValueError(
            f"it is of opset {version}; known are {LEAST_OPSET} to {NEWEST_OPSETS['']}, "
            + ("so export it for one of these, or install a newer onnx" if newer else "so export it anew")
        )
    return found


def check_names(graph: onnx.GraphProto) -> None:
    """Each tensor of a graph has one writer.

    Raises:
        ValueError: two nodes, inputs or weights have one name, or nodes read what is nowhere.
    """
    weights = [each.name for each in graph.initializer] + [each.values.name for each in graph.sparse_initializer]
    inputs = [each.name for each in graph.input]
    for names, what in ((weights, "weights"), (inputs, "inputs")):
        if twice := _twice(names):
            raise ValueError(f"two {what} have the name {twice!r}; each needs a name of its own")
    writers = dict.fromkeys(weights, "a weight") | dict.fromkeys(inputs, "an input")
    for node in graph.node:
        for name in filter(None, node.output):
            if name in writers:
                raise ValueError(
                    f"the tensor {name!r} is written twice: by {writers[name]} and by {_named(node)}; "
                    "each has one writer in ONNX"
                )
            writers[name] = _named(node)


def in_order(graph: onnx.GraphProto, known: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes, each after those whose outputs it or its branches read; as they stand where that is so already.

    Args:
        known: tensors from outside: inputs, weights, and those of the graph around a branch.

    Raises:
        ValueError: nodes wait for each other in a circle, or read what nobody writes.
    """
    nodes = list(graph.node)
    known = set(known)
    reads = [_reads(node) for node in nodes]
    found: list[onnx.NodeProto] = []
    waiting = list(range(len(nodes)))
    while waiting:
        later = []
        for place in waiting:
            if reads[place] <= known:
                found.append(nodes[place])
                known.update(nodes[place].output)
            else:
                later.append(place)
        if len(later) == len(waiting):
            _refuse([nodes[place] for place in later], [reads[place] - known for place in later])
        waiting = later
    return found


def check_domains(nodes: Sequence[onnx.NodeProto], opsets: Mapping[str, int]) -> None:
    """Every node is of a domain that the model imports.

    Raises:
        ValueError: one is not.
    """
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain not in opsets and not _is_implied(domain):
            raise ValueError(
                f"{_named(node)} is of domain {domain or 'ai.onnx'!r}, of which the model says no version; "
                f"it has {sorted(each or 'ai.onnx' for each in opsets)}"
            )


def broken_rule(node: OnnxNode, opset: int) -> str:
    """What ONNX's own checker says of a node that could not be read: an attribute is missing or of another type."""
    if node.domain:
        return ""
    attributes = {name: value for name, value in node.attributes.items() if name != FLATTENED}
    context = checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": opset}
    try:
        checker.check_node(helper.make_node(node.op_type, node.inputs, node.outputs, **attributes), context)
    except checker.ValidationError as error:
        return str(error).splitlines()[0]
    except (TypeError, ValueError):
        return ""
    return ""


# ------------------------------------------------------------------------------------------------------------ private


def _is_implied(domain: str) -> bool:
    """ONNX Runtime writes contributed operators without a version."""
    return domain.startswith("com.microsoft")


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def _named(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node {node.name or next(iter(node.output), '')!r}"


def _reads(node: onnx.NodeProto) -> set[str]:
    """Tensors from outside of the node that it or its branches read."""
    found = set(filter(None, node.input))
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            own = {each.name for each in (*inner.input, *inner.initializer)}
            own.update(name for each in inner.node for name in each.output)
            for each in inner.node:
                found |= _reads(each) - own
            found |= {each.name for each in inner.output} - own
    return found


def _refuse(nodes: Sequence[onnx.NodeProto], missing: Sequence[set[str]]) -> None:
    written = {name for node in nodes for name in node.output}
    for node, names in zip(nodes, missing):
        if absent := sorted(names - written):
            raise ValueError(f"{_named(node)} reads {absent[0]!r}, which no node, input or weight writes")
    circle = [_named(node) for node in nodes[:4]]
    raise ValueError(f"nodes wait for each other in a circle, among them {', '.join(circle)}; a network has none")
