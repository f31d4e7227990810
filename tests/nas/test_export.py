"""Exported subnets: the same network for other tools, whole or not at all."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from search_results import make_result
from torch import nn

from nas.data import ImageData, Labelled
from nas.data.inputs import evaluation_input
from nas.export import export_onnx, export_subnet, input_shape
from nas.quantisation import OnnxModel, quantise
from nas.result import SearchResult
from predictors import GraphBuilder, read_onnx
from predictors.explain import main as explain
from predictors.operators import Conv2d, Linear
from search_spaces import load_space

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    """Images of at most 32 pixels in training, of at most 64 as deployed, two at a time."""
    small = {"depths": [1, 2], "kernels": [3, 5], "stage_widths": [8, 8, 8], "head_width": 16, "feature_width": 16}
    return make_result(3, resolutions=[16, 32], resolution=64, batch=2, **small)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Grey squares of ten brightnesses, ten of each; 33 for validation, which are no whole number of batches of 2."""
    rng = np.random.default_rng(0)

    def part(number: int) -> Labelled:
        labels = np.arange(number, dtype=np.int64) % 10
        images = 25 * labels[:, None, None, None] + rng.integers(0, 10, size=(number, 1, 32, 32))
        return Labelled(images=images.astype(np.uint8), labels=labels)

    return ImageData(name="squares", num_classes=10, train=part(100), valid=part(33), test=part(10))


@pytest.fixture(scope="module")
def exported(result: SearchResult, data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The smallest subnet, with statistics that are not those of a fresh module, and the folder of its files."""
    torch.manual_seed(0)
    module = result.space.build(result.candidates[0].arch).to(memory_format=torch.channels_last)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 1, 16, 16) + 0.5)
    folder = tmp_path_factory.mktemp("subnets") / "fastest"
    export_subnet(module, result.candidates[0], result, folder, data)
    return module, folder


def test_onnx_computes_what_pytorch_computes(exported: tuple[nn.Module, Path], result: SearchResult) -> None:
    module, folder = exported
    images = torch.randn(2, 1, 32, 32)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    with torch.no_grad():
        expected = module.eval()(images).numpy()
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_onnx_takes_the_image_and_the_batch_of_the_deployed_arch(
    exported: tuple[nn.Module, Path], result: SearchResult
) -> None:
    # Trained at 16 of at most 32 pixels, so deployed at 32 of at most 64.
    assert result.candidates[0].arch["resolution"] == 16
    (image,) = onnx.load(exported[1] / "model.onnx").graph.input
    assert [axis.dim_value for axis in image.type.tensor_type.shape.dim] == [2, 1, 32, 32]


def test_the_exported_network_has_the_operators_that_it_computes_with_and_no_others(
    exported: tuple[nn.Module, Path],
) -> None:
    """No norms, no identities, no arithmetic on shapes, although the weights lay channels last."""
    operators = {node.op_type for node in onnx.load(exported[1] / "model.onnx").graph.node}
    assert operators == {
        "Conv", "Relu", "HardSwish", "HardSigmoid", "ReduceMean", "Mul", "Add", "Reshape", "Gemm",
    }  # fmt: skip


def test_a_transformer_is_exported_and_quantised_as_it_computes_too(tmp_path: Path) -> None:
    space = load_space(
        "vit_digits", resolutions=[8], depths=[1], heads=[1], embed_dims=[8], mlp_tenths=[10], head_dim=8
    )
    arch, path = space.largest(), tmp_path / "model.onnx"
    shape = input_shape(space.deployed(16, 3).graph(arch))
    assert shape == (3, 1, 16, 16)
    assert export_onnx(space.build(arch), shape, path) < 1e-4
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"Identity", "Shape", "Gather", "ConstantOfShape", "Cast", "Constant", "Expand", "Resize"}
    quantise(path, tmp_path / "int8.onnx", [np.ones(shape, np.float32)])
    weighted = [node for node in read_onnx(tmp_path / "int8.onnx").nodes if isinstance(node.operator, Conv2d | Linear)]
    assert len(weighted) >= 5, "patches, queries with keys and values, projection, two of the MLP, classifier"
    assert {node.dtype for node in weighted} == {"int8"}


def test_branches_of_training_are_folded_and_a_wrong_fold_writes_nothing(tmp_path: Path) -> None:
    class Branches(nn.Module):
        """1x1 and identity, as one 1x1 when deployed."""

        def __init__(self, error: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1, bias=False)
            self.error = error

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.conv(x) + x).mean(dim=(2, 3))

        def folded(self) -> nn.Module:
            conv = nn.Conv2d(2, 2, 1, bias=False)
            conv.weight.data = self.conv.weight.data + (1 + self.error) * torch.eye(2)[:, :, None, None]
            return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    module = Branches(0.0)
    assert export_onnx(module, (1, 2, 4, 4), tmp_path / "right.onnx") < 1e-5
    kinds = [node.op_type for node in onnx.load(tmp_path / "right.onnx").graph.node]
    assert kinds.count("Conv") == 1
    assert "Add" not in kinds
    real = torch.full((1, 2, 4, 4), 0.5)
    with pytest.raises(
        ValueError, match=r"differ from PyTorch's by up to 0\.\d+, allowed is 0.0001.*nothing was written"
    ):
        export_onnx(Branches(0.5), (1, 2, 4, 4), tmp_path / "wrong.onnx", [real])
    assert [path.name for path in tmp_path.iterdir()] == ["right.onnx"]


def test_the_int8_copy_has_int8_weights_and_its_accuracy_stands_beside_that_of_the_float_model(
    exported: tuple[nn.Module, Path], data: ImageData
) -> None:
    module, folder = exported
    found = json.loads((folder / "int8.json").read_text())
    images = evaluation_input(data, data.valid.read(np.arange(33)).images, 32)
    with torch.no_grad():
        answers = module.eval()(images).argmax(dim=1).numpy()
    assert found["float_accuracy"] == pytest.approx((answers == data.valid.labels).mean())
    int8 = OnnxModel(folder / "model.int8.onnx")
    padded = np.concatenate([images, images[-1:]]).astype(np.float32).reshape(17, 2, 1, 32, 32)
    of_int8 = np.concatenate([int8.logits(batch).argmax(axis=1) for batch in padded])[:33]
    assert found["int8_accuracy"] == pytest.approx((of_int8 == data.valid.labels).mean())
    assert found["same_answers"] == pytest.approx((of_int8 == answers).mean())
    assert (found["num_images"], found["image_size"], found["num_calibration"]) == (33, 32, 100)
    assert found["trained_size"] == 16
    nodes = [node for node in read_onnx(folder / "model.int8.onnx").nodes if isinstance(node.operator, Conv2d | Linear)]
    assert len(nodes) > 10
    assert {node.dtype for node in nodes} == {"int8"}


def test_explain_says_int8_of_the_kernels_of_the_int8_copy(
    exported: tuple[nn.Module, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain([str(exported[1] / "model.int8.onnx"), "--hw", "v100"]) == 0
    assert "int8 and float32" in capsys.readouterr().out


def test_symmetric_activations_have_no_zero_point_but_zero_as_tensorrt_wants(
    exported: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    quantise(exported[1] / "model.onnx", tmp_path / "q.onnx", [np.ones((2, 1, 32, 32), np.float32)], symmetric=True)
    model = onnx.load(tmp_path / "q.onnx")
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    points = [arrays[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)


def test_an_int8_copy_without_calibration_images_is_refused_and_leaves_nothing(
    exported: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"calibration|No data"):
        quantise(exported[1] / "model.onnx", tmp_path / "q.onnx", [])
    assert not list(tmp_path.iterdir())


def test_the_same_network_is_not_exported_again(
    exported: tuple[nn.Module, Path], result: SearchResult, data: ImageData
) -> None:
    module, folder = exported
    before = (folder / "model.onnx").stat().st_mtime_ns
    export_subnet(module, result.candidates[0], result, folder, data)
    assert (folder / "model.onnx").stat().st_mtime_ns == before


def test_weights_say_whose_they_are(exported: tuple[nn.Module, Path], result: SearchResult) -> None:
    with safe_open(exported[1] / "weights.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["space"] == result.space.name
    assert json.loads(metadata["arch"]) == result.candidates[0].arch
    assert json.loads(metadata["identity"])["depths"] == [1, 2]


def test_weights_load_into_a_fresh_module_of_the_arch(exported: tuple[nn.Module, Path], result: SearchResult) -> None:
    module, folder = exported
    description = json.loads((folder / "arch.json").read_text())
    fresh = result.space.build(description["arch"])
    fresh.load_state_dict(load_file(folder / "weights.safetensors"))
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(images), module.eval()(images))


def test_description_says_what_was_scored_and_for_which_device(
    exported: tuple[nn.Module, Path], result: SearchResult
) -> None:
    description = json.loads((exported[1] / "arch.json").read_text())
    assert description["metrics"] == result.candidates[0].metrics
    assert (description["device"], description["dtype"]) == ("board", "float16")
    assert description["input_shape"] == [2, 1, 32, 32]


def test_a_failed_export_leaves_the_earlier_files_alone(result: SearchResult, tmp_path: Path) -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken on purpose")

    folder = tmp_path / "knee"
    folder.mkdir()
    (folder / "arch.json").write_text("earlier")
    with pytest.raises(Exception, match="broken on purpose"):
        export_subnet(Broken(), result.candidates[0], result, folder)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["knee", "knee/arch.json"]
    assert (folder / "arch.json").read_text() == "earlier"


def test_exporting_says_nothing_and_leaves_the_module_in_its_mode(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # as Hydra does for the whole process
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    export_onnx(module, (1, 1, 8, 8), tmp_path / "model.onnx")
    assert module.training
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == set()


def test_a_network_with_two_inputs_is_refused() -> None:
    builder = GraphBuilder()
    both = builder.elementwise("add", builder.input((1, 3, 8, 8)), builder.input((1, 3, 8, 8)))
    with pytest.raises(ValueError, match="'twin' has 2 inputs"):
        input_shape(replace(builder.graph(both), name="twin"))
