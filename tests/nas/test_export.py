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
from safetensors.torch import load_file
from search_results import make_result
from torch import nn

from nas.export import export_onnx, export_subnet, input_shape
from nas.result import SearchResult
from predictors import GraphBuilder

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    """Images of at most 32 pixels in training, of at most 64 as deployed, two at a time."""
    return make_result(3, resolutions=[16, 32], resolution=64, batch=2)


@pytest.fixture(scope="module")
def exported(result: SearchResult, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The smallest subnet, with statistics that are not those of a fresh module, and the folder of its files."""
    torch.manual_seed(0)
    module = result.space.build(result.candidates[0].arch)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 1, 16, 16) + 0.5)
    folder = tmp_path_factory.mktemp("subnets") / "fastest"
    export_subnet(module, result.candidates[0], result, folder)
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
