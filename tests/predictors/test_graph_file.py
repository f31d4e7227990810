import json
from pathlib import Path

import pytest
from simulated import network

from predictors import Graph, GraphBuilder
from predictors.graph_file import graph_from_record, graph_record, read_graphs, write_graphs


def residual() -> Graph:
    builder = GraphBuilder()
    x = builder.conv2d(builder.input((1, 3, 8, 8), name="image"), 4, kernel=3, name="stem")
    y = builder.activation(builder.batch_norm(builder.conv2d(x, 4, kernel=1)), "relu")
    return builder.graph(builder.elementwise("add", x, y), y, name="residual")


def test_networks_come_back_as_they_were_written(tmp_path: Path) -> None:
    graphs = {"a": residual(), "b": network(8)}
    write_graphs(tmp_path / "deep" / "some.graphs.jsonl", graphs)
    found = read_graphs(tmp_path / "deep" / "some.graphs.jsonl")
    assert found == graphs
    assert [node.name for node in found["a"].nodes][:2] == ["image", "stem"]
    assert list(found) == ["a", "b"]


def test_writing_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "some.graphs.jsonl"
    write_graphs(path, {"a": residual(), "b": network(8)})
    write_graphs(path, {"c": network(4)})
    assert list(read_graphs(path)) == ["c"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_record_survives_json() -> None:
    record = json.loads(json.dumps(graph_record(residual())))
    assert graph_from_record(record, "here") == residual()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"format": "other", "version": 1}', "no file of networks"),
        ('{"format": "ridgeline-graphs", "version": 7}', "version 7; this release reads version 1"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_graphs(tmp_path / "x")


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([["input(shape=(1, 4))", [], ""], ["frobnicate(shape=(1, 4))", [0], ""]], [1], r":2: nodes\[1\]: unknown op"),
        ([["input(shape=(1, 4))", []]], [0], r":2: nodes\[0\]: expected \[operator, inputs, name\]"),
        ([["input(shape=(1, 4))", [], ""]], [3], ":2: outputs"),
        ([["input(shape=(1, 4))", ["0"], ""]], [0], ":2: nodes"),
    ],
)
def test_a_malformed_network_is_named_by_file_line_and_node(
    tmp_path: Path, nodes: list[object], outputs: list[int], message: str
) -> None:
    lines = [{"format": "ridgeline-graphs", "version": 1}, {"name": "a", "nodes": nodes, "outputs": outputs}]
    (tmp_path / "x").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read_graphs(tmp_path / "x")


def test_two_networks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_graphs(tmp_path / "x", {"a": residual()})
    line = (tmp_path / "x").read_text().splitlines()[1]
    with (tmp_path / "x").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="x:3: two networks are called 'a'"):
        read_graphs(tmp_path / "x")
