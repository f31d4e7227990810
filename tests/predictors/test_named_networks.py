import json
from pathlib import Path

import pytest
import torch
from simulated import network
from torch import nn

from predictors import trace
from predictors.graph_file import write_graphs
from predictors.measure.onnx_model import onnx_bytes
from predictors.named_networks import load_space, read_network


def test_a_network_of_a_graph_file_is_named_behind_a_hash(tmp_path: Path) -> None:
    write_graphs(tmp_path / "some.graphs.jsonl", {"a": network(4), "b": network(8)})
    assert read_network("some.graphs.jsonl#b", tmp_path) == network(8)
    with pytest.raises(ValueError, match="has no network ''; it has 'a', 'b'"):
        read_network("some.graphs.jsonl", tmp_path)
    write_graphs(tmp_path / "one.graphs.jsonl", {"a": network(4)})
    assert read_network(str(tmp_path / "one.graphs.jsonl")) == network(4)


def test_an_exported_module_is_traced(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 8, 8)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "mine.pt2")
    assert read_network("mine.pt2", tmp_path).macs == trace(module, x).macs == 3 * 8 * 9 * 36


def test_an_onnx_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(onnx_bytes(network(8), spelt_out=True))
    assert read_network("mine.onnx", tmp_path).macs == network(8).macs


def test_an_arch_of_a_space_stands_in_the_name_or_in_a_file(tmp_path: Path) -> None:
    space = load_space("mobilenet_v3_tiny", 224)
    arch = {knob: values[-1] for knob, values in space.choices.items()}
    (tmp_path / "arch.json").write_text(json.dumps(arch))
    written_out = read_network(f"space:mobilenet_v3_tiny@224:{json.dumps(arch)}")
    assert written_out == read_network("space:mobilenet_v3_tiny@224:arch.json", tmp_path) == space.graph(arch)
    at_its_own = read_network(f"space:mobilenet_v3_tiny:{json.dumps(arch)}")
    assert at_its_own.macs < written_out.macs


def test_a_published_network_has_its_published_macs() -> None:
    pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    assert read_network("timm:resnet18").macs == pytest.approx(1.82e9, rel=0.01)  # He et al., 2016: 1.8e9
    assert read_network("timm:resnet18@112").macs < 0.3 * read_network("timm:resnet18@224").macs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "has none of the forms"),
        ("model.tflite", "has none of the forms"),
        ("missing.pt2", "there is no file"),
        ("missing.graphs.jsonl#a", "there is no file"),
        ("timm:resnet18@big", "a resolution in pixels, found 'big'"),
        ("space:mobilenet_v3_tiny", "names no arch"),
        ("space:mobilenet_v3_tiny:{not json", "not valid JSON"),
        ("space:nonesuch:{}", "nonesuch"),
    ],
)
def test_what_names_no_network_is_refused_with_what_is_allowed(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_network(text, tmp_path)
