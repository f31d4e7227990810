import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

import predictors
from predictors import GraphBuilder, LatencyPredictor, UnknownOperatorError, load_device, trace
from predictors.measure.onnx_model import onnx_bytes


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real


def test_a_module_is_summed_up_in_two_lines() -> None:
    found = predictors.summary(small(), torch.zeros(1, 3, 8, 8))
    assert found.macs == 3 * 8 * 9 * 36 + 8 * 36 * 10
    assert found.num_params == 3 * 8 * 9 + 8 + 8 * 36 * 10 + 10
    assert [each.device for each in found.devices] == ["mobile_gpu", "mobile_cpu", "v100"]
    assert found.unknown_operators == ()


def test_figures_are_those_of_the_prediction() -> None:
    x = torch.zeros(1, 3, 8, 8)
    prediction = LatencyPredictor(load_device("v100"), dtype="float32").predict(trace(small(), x))
    found = predictors.summary(small(), x, hw="v100", dtype="float32")["v100"]
    for name in ("latency_s", "std_s", "traffic_bytes", "arithmetic_intensity", "peak_memory_bytes", "coverage"):
        assert getattr(found, name) == getattr(prediction, name)
    assert (found.dtype, found.num_kernels) == ("float32", prediction.num_kernels)
    assert sum(found.bound_shares.values()) == pytest.approx(1.0)


def test_a_graph_a_file_and_a_module_agree(tmp_path: Path) -> None:
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(small(), x)
    (tmp_path / "net.onnx").write_bytes(onnx_bytes(graph, spelt_out=True))
    summaries = [
        predictors.summary(each, hw=["v100"]) for each in (graph, tmp_path / "net.onnx", str(tmp_path / "net.onnx"))
    ]
    assert {each.macs for each in summaries} == {graph.macs}
    assert summaries[0]["v100"] == predictors.summary(small(), x, hw=[load_device("v100")])["v100"]


def test_its_text_its_table_and_its_html_say_the_same() -> None:
    found = predictors.summary(small(), torch.zeros(1, 3, 8, 8))
    console = Console(width=200, file=io.StringIO())
    console.print(found)
    in_console = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (str(found), repr(found), in_console, found._repr_html_()):
        assert found.title in text
        for each in found.devices:
            assert all(cell in text for cell in each.cells)


def test_its_table_fits_a_terminal() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(predictors.summary(small(), torch.zeros(1, 3, 8, 8)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1 + 1 + 3  # the title, the header, a line for each device: nothing is folded


def test_unknown_operators_stand_in_every_form() -> None:
    with pytest.raises(UnknownOperatorError, match="fft"):
        predictors.summary(Odd(), torch.zeros(1, 16), hw="v100")
    found = predictors.summary(Odd(), torch.zeros(1, 16), hw="v100", allow_unknown=True)
    assert [each.name for each in found.unknown_operators] == ["aten::_fft_r2c.default"]
    console = Console(width=200, file=io.StringIO())
    console.print(found)
    for text in (str(found), found._repr_html_(), console.file.getvalue()):  # type: ignore[attr-defined]
        assert "aten::_fft_r2c.default" in text


def test_mistakes_are_said() -> None:
    builder = GraphBuilder()
    graph = builder.graph(builder.linear(builder.input((1, 8)), 4))
    x = torch.zeros(1, 8)
    with pytest.raises(ValueError, match="needs example_inputs"):
        predictors.summary(nn.Linear(8, 4))
    with pytest.raises(ValueError, match="leave example_inputs out"):
        predictors.summary(graph, x)
    with pytest.raises(ValueError, match="a torch module, a graph, a path or a name, found int"):
        predictors.summary(3, x)
    with pytest.raises(ValueError, match="nearest are"):
        predictors.summary(graph, hw="v101")
    with pytest.raises(ValueError, match="names no device"):
        predictors.summary(graph, hw=[])
    with pytest.raises(ValueError, match="no peak for dtype 'int4'"):
        predictors.summary(graph, hw="v100", dtype="int4")
    with pytest.raises(RuntimeError, match=r"reduction dim|shapes"):  # the module's own error
        predictors.summary(nn.Linear(8, 4), torch.zeros(1, 9))
    with pytest.raises(KeyError, match="no device 'a100'"):
        predictors.summary(graph, hw="v100")["a100"]


def test_summing_up_a_graph_loads_neither_torch_nor_rich() -> None:
    check = (
        "import sys, predictors; builder = predictors.GraphBuilder(); "
        "graph = builder.graph(builder.linear(builder.input((1, 8)), 4)); text = str(predictors.summary(graph)); "
        "print([name for name in ('torch', 'rich', 'plotly', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
