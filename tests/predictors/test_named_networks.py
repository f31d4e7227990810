import json
import sys
from pathlib import Path

import onnx
import pytest
import torch
from simulated import network
from torch import nn

from predictors import Graph, GraphBuilder, trace
from predictors.graph_file import write_graphs
from predictors.measure.onnx_model import onnx_bytes
from predictors.named_networks import load_space, read_network
from predictors.network_inputs import parse_input


def test_a_network_of_a_graph_file_is_named_behind_a_hash(tmp_path: Path) -> None:
    write_graphs(tmp_path / "some.graphs.jsonl", {"a": network(4), "b": network(8)})
    assert read_network("some.graphs.jsonl#b", tmp_path) == network(8)
    with pytest.raises(ValueError, match="has no network ''; it has 'a', 'b'"):
        read_network("some.graphs.jsonl", tmp_path)
    write_graphs(tmp_path / "one.graphs.jsonl", {"a": network(4)})
    assert read_network(str(tmp_path / "one.graphs.jsonl")) == network(4)


def test_a_network_with_shapes_of_its_own_takes_no_inputs(tmp_path: Path) -> None:
    write_graphs(tmp_path / "one.graphs.jsonl", {"a": network(4)})
    with pytest.raises(ValueError, match="has its shapes in the file; leave the batch out"):
        read_network("one.graphs.jsonl", tmp_path, batch=2)
    with pytest.raises(ValueError, match="leave the input out"):
        read_network("space:mobilenet_v3_tiny:{}", inputs=[parse_input("1,3,8,8")])


def test_an_exported_module_is_traced(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    x = torch.zeros(1, 3, 8, 8)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "mine.pt2")
    assert read_network("mine.pt2", tmp_path).macs == trace(module, x).macs == 3 * 8 * 9 * 36


def test_an_onnx_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(onnx_bytes(network(8), spelt_out=True))
    assert read_network("mine.onnx", tmp_path).macs == network(8).macs


def convolution() -> Graph:
    builder = GraphBuilder()
    return builder.graph(builder.conv2d(builder.input((1, 3, 16, 16)), 8, kernel=3))


def open_batch(path: Path, *, of_all: bool = False) -> Path:
    """An ONNX file whose input has no size for the batch, or for any axis."""
    model = onnx.ModelProto()
    model.ParseFromString(onnx_bytes(convolution(), spelt_out=True))
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim in dims if of_all else dims[:1]:
        dim.dim_param = "N"
    path.write_bytes(model.SerializeToString())
    return path


def test_what_an_onnx_file_leaves_open_is_given(tmp_path: Path) -> None:
    path = str(open_batch(tmp_path / "open.onnx"))
    name = onnx.load(path).graph.input[0].name
    for options in (
        {"batch": 3},
        {"inputs": [parse_input("3,3,16,16")]},
        {"inputs": [parse_input(f"{name}=3,3,16,16")]},
    ):
        assert read_network(path, **options).macs == 3 * convolution().macs  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"has axes without a size; give them as in {name}=1,3,16,16, or a batch"):
        read_network(path)
    nothing = str(open_batch(tmp_path / "nothing.onnx", of_all=True))
    with pytest.raises(ValueError, match=rf"give them as in {name}=5,1,1,1"):
        read_network(nothing, batch=5)
    with pytest.raises(ValueError, match="says the dtypes"):
        read_network(path, inputs=[parse_input("3,3,16,16:float16")])


def test_a_batch_takes_the_place_of_the_first_axis(tmp_path: Path) -> None:
    (tmp_path / "user_makes.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "def pair():\n    return nn.Linear(8, 4), {'input': torch.zeros(2, 8)}\n\n\nmade = nn.Conv2d(3, 8, 3)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        assert read_network("user_makes:pair").macs == 2 * 8 * 4
        assert read_network("user_makes:pair", batch=7).macs == 7 * 8 * 4
        assert read_network("user_makes:pair", inputs=[parse_input("input=5,3,8")]).macs == 15 * 8 * 4
        assert read_network("user_makes:made").macs == 3 * 8 * 9 * 222 * 222  # one image of 224x224
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("user_makes", None)
    dynamic = torch.export.export(
        nn.Linear(8, 4), (torch.zeros(2, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(dynamic, tmp_path / "dynamic.pt2")
    assert read_network("dynamic.pt2", tmp_path).macs == 2 * 8 * 4
    assert read_network("dynamic.pt2", tmp_path, batch=9).macs == 9 * 8 * 4
    arch = json.dumps({knob: values[-1] for knob, values in load_space("mobilenet_v3_tiny").choices.items()})
    one, four = (read_network(f"space:mobilenet_v3_tiny:{arch}", batch=batch) for batch in (None, 4))
    assert four.macs == 4 * one.macs


def test_ncnns_text_is_read_with_the_shape_that_it_leaves_out(tmp_path: Path) -> None:
    lines = ["7767517", "2 2", "Input x 0 1 x", "Convolution c 1 1 x y 0=16 1=3 4=1 5=1 6=432", ""]
    (tmp_path / "net.param").write_text("\n".join(lines))
    for text in ("3,8,8", "1,3,8,8", "x=3,8,8"):
        assert read_network("net.param", tmp_path, inputs=[parse_input(text)]).macs == 16 * 3 * 9 * 8 * 8
    with pytest.raises(ValueError, match="no batch axis"):
        read_network("net.param", tmp_path, inputs=[parse_input("3,8,8")], batch=2)


def test_a_network_that_takes_one_size_alone_gets_it() -> None:
    pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    assert read_network("timm:vit_tiny_patch16_384").nodes[0].operator.output_shape == (1, 3, 384, 384)
    assert read_network("timm:resnet18", batch=2).nodes[0].operator.output_shape == (2, 3, 224, 224)


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
