"""Networks as text: JSON Lines, a network a line, its operators as tables write them.

    {"format": "ridgeline-graphs", "version": 1}
    {"name": "small", "nodes": [["input(shape=(1, 3, 8, 8))", [], ""], ["conv2d(...)", [0], "stem"]], "outputs": [1]}

A node whose dtypes are its own says them after its name: `["conv2d(...)", [0], "stem", "int8", "float32"]`.

A network that stands here needs neither torch nor the search space or the package that it came from.
"""

from collections.abc import Mapping
from pathlib import Path

from predictors.cost import bytes_per_element
from predictors.graph import Graph, Node
from predictors.json_lines import append_records, read_records
from predictors.mapping import check_keys, check_type
from predictors.operators import operator_from_text

FORMAT = "ridgeline-graphs"
VERSION = 1
SUFFIX = ".graphs.jsonl"


def write_graphs(path: Path, graphs: Mapping[str, Graph]) -> None:
    """Write networks under their names, in the place of what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.part")
    written.unlink(missing_ok=True)
    records = ({"name": name, **graph_record(graph)} for name, graph in graphs.items())
    append_records(written, [{"format": FORMAT, "version": VERSION}, *records])
    written.replace(path)


def read_graphs(path: Path) -> dict[str, Graph]:
    """Networks by name.

    Raises:
        ValueError: another format or version, a malformed line (file and line are named), or one name twice.
    """
    records = read_records(path)
    if not records or records[0].get("format") != FORMAT:
        raise ValueError(f"{path}: no file of networks; its first line has format {FORMAT!r}")
    if records[0].get("version") != VERSION:
        raise ValueError(f"{path}: version {records[0].get('version')!r}; this release reads version {VERSION}")
    found: dict[str, Graph] = {}
    for number, record in enumerate(records[1:], start=2):
        where = f"{path}:{number}"
        keys = ("name", "nodes", "outputs")
        check_keys(record, keys, keys, where)
        name = check_type(record["name"], str, f"{where}: name")
        if name in found:
            raise ValueError(f"{where}: two networks are called {name!r}")
        found[name] = graph_from_record(record, where, name)
    return found


def graph_record(graph: Graph) -> dict[str, object]:
    """A network as plain lists, for JSON."""
    return {
        "nodes": [
            [node.operator.text, list(node.inputs), node.name]
            + ([node.dtype, node.write_dtype] if node.dtype or node.write_dtype else [])
            for node in graph.nodes
        ],
        "outputs": list(graph.outputs),
    }


def graph_from_record(record: Mapping[str, object], where: str, name: str = "") -> Graph:
    """Read what `graph_record` made.

    Raises:
        ValueError: malformed; `where` and the node are named.
    """
    nodes = [
        _node(node, f"{where}: nodes[{index}]")
        for index, node in enumerate(check_type(record["nodes"], list, f"{where}: nodes"))
    ]
    try:
        return Graph(tuple(nodes), integers(record["outputs"], f"{where}: outputs"), name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def integers(value: object, where: str) -> tuple[int, ...]:
    """A list of integers."""
    return tuple(check_type(each, int, where) for each in check_type(value, list, where))


# ------------------------------------------------------------------------------------------------------------ private


def _node(entry: object, where: str) -> Node:
    parts = check_type(entry, list, where)
    if len(parts) not in (3, 5):
        raise ValueError(f"{where}: expected [operator, inputs, name] or these and two dtypes, found {parts!r}")
    name, *dtypes = (check_type(part, str, where) for part in parts[2:])
    try:
        operator = operator_from_text(check_type(parts[0], str, where))
        for dtype in filter(None, dtypes):
            bytes_per_element(dtype)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Node(operator, integers(parts[1], where), name, *dtypes)
