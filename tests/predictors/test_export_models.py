import json
import subprocess
import sys
from pathlib import Path

import pytest

from predictors.export_models import FORMATS, export_models, main
from predictors.graph import GraphBuilder
from predictors.imports.manifest import ExportedModel, manifest_text, read_manifest
from predictors.operators import Normalization


def small_graph():
    builder = GraphBuilder()
    x = builder.activation(builder.batch_norm(builder.conv2d(builder.input((1, 3, 16, 16)), 8, kernel=3)), "relu")
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(x)), 10), name="small")


def refused_graph():
    """Three groups that no exchange format can write from the record alone."""
    builder = GraphBuilder()
    x = builder.input((1, 6, 8, 8))
    return builder.graph(builder.add(Normalization(shape=(1, 6, 8, 8), method="group_norm"), x))


@pytest.fixture(params=["onnx", "tflite", "ncnn"])
def model_format(request):
    package = {"onnx": "onnx", "tflite": "ai_edge_litert", "ncnn": "numpy"}[request.param]
    pytest.importorskip(package)
    return request.param


def test_every_format_writes_files_that_are_not_empty_and_a_manifest_that_gives_the_graph_back(tmp_path, model_format):
    graph = small_graph()
    models, refused = export_models({"small": graph}, model_format, tmp_path / "out")
    assert refused == []
    assert read_manifest(tmp_path / "out" / "manifest.json") == {"small": models[0]}
    assert models[0].graph == graph
    for file in models[0].files:
        assert (tmp_path / "out" / file).stat().st_size > 100


def test_tflite_operators_lead_back_to_nodes(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (model,), _ = export_models({"small": small_graph()}, "tflite", tmp_path)
    # CONV_2D with what fuses, MEAN or AVERAGE_POOL, RESHAPE of the view, FULLY_CONNECTED
    assert next(nodes for nodes in model.layers if nodes) == (1, 2, 3)
    assert {node for nodes in model.layers for node in nodes} == {1, 2, 3, 4, 5, 6}


def test_networks_that_cannot_be_written_are_left_out_with_the_reason(tmp_path):
    pytest.importorskip("onnx")
    models, refused = export_models({"bad": refused_graph(), "small": small_graph()}, "onnx", tmp_path)
    assert [model.name for model in models] == ["small"]
    assert "bad: normalization(" in refused[0]
    with pytest.raises(ValueError, match="no network can be written as onnx: bad: normalization"):
        export_models({"bad": refused_graph()}, "onnx", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_of_exported_models_is_not_written_over(tmp_path):
    pytest.importorskip("onnx")
    export_models({"small": small_graph()}, "onnx", tmp_path)
    with pytest.raises(ValueError, match="already holds exported models"):
        export_models({"small": small_graph()}, "onnx", tmp_path)


def test_the_command_exports_networks_of_a_space(tmp_path, capsys):
    pytest.importorskip("onnx")
    arguments = ["--space", "mobilenet_v3_tiny", "--networks", "2", "--batch", "3", "--format", "onnx"]
    assert main([*arguments, "--out", str(tmp_path / "models")]) == 0
    models = read_manifest(tmp_path / "models" / "manifest.json")
    assert list(models) == ["mobilenet_v3_tiny_00", "mobilenet_v3_tiny_01"]
    assert models["mobilenet_v3_tiny_00"].graph.nodes[0].operator.output_shape[:2] == (3, 1)
    assert models["mobilenet_v3_tiny_00"] != models["mobilenet_v3_tiny_01"]
    said = capsys.readouterr().out
    assert "wrote 2 networks" in said
    assert "mobilenet_v3_tiny_00.onnx: takes 3x1x" in said


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main(["--format", "onnx", "--out", str(tmp_path)]) == 2
    assert "name a space with --space" in capsys.readouterr().err
    assert main(["--format", "onnx", "--out", str(tmp_path), "--space", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_exporting_loads_no_torch_and_no_search_space_before_it_is_asked():
    check = "import sys, predictors.export_models, predictors.import_table; print([n for n in {} if n in sys.modules])"
    names = ("torch", "onnx", "flatbuffers", "ai_edge_litert", "search_spaces")
    done = subprocess.run([sys.executable, "-c", check.format(names)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def broken(change):
    content = json.loads(manifest_text([ExportedModel(name="small", files=("small.onnx",), graph=small_graph())]))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no manifest of exported models"),
        (broken(lambda content: content.update(version=99)), "version 99; this release reads version 1"),
        (broken(lambda content: content["models"].append(content["models"][0])), "two models are called 'small'"),
        (broken(lambda content: content["models"][0].pop("outputs")), r"models\[0\]: key 'outputs' is missing"),
        (
            broken(lambda content: content["models"][0]["nodes"].__setitem__(1, ["__import__('os')", [0], ""])),
            r"models\[0\]: nodes\[1\]: .* is no operator",
        ),
        (
            broken(lambda content: content["models"][0]["nodes"].__setitem__(1, ["input(shape=(1,))"])),
            "expected .opera",
        ),
        (broken(lambda content: content["models"][0].update(outputs=[99])), r"models\[0\]: outputs \(99,\)"),
        (broken(lambda content: content["models"][0].update(layers=[[0, 99]])), "layers name nodes"),
    ],
)
def test_a_malformed_manifest_is_named_with_the_place(tmp_path: Path, text, message):
    path = tmp_path / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


def test_all_formats_are_tested():
    assert set(FORMATS) == {"onnx", "tflite", "ncnn"}
