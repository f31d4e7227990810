"""The shipped h200 against whole networks that were measured on the card beside its tables, and not profiled.

`pytest tests/predictors/test_h200.py -s` prints the figures of docs/decisions.md. `_meta` in h200_networks.json says
how the golden numbers were measured; `predictors.profile --processor cuda` checks networks on a card the same way.
"""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from predictors import LatencyPredictor, fuse, kernel_cost, load_device, load_runtime, roofline, trace
from predictors.efficiency import ExtrapolationWarning
from predictors.graph import Graph
from search_spaces import load_space

GOLDEN = json.loads((Path(__file__).parent / "h200_networks.json").read_text(encoding="utf-8"))


@cache
def graph_of(name: str) -> Graph:
    model, _, batch = name.partition("@b")
    if model.startswith("space"):
        graph: Graph = load_space("mobilenet_v3").deployed(224, int(batch)).graph(GOLDEN["archs"][name])
        return graph
    timm = pytest.importorskip("timm", reason="timm is not installed; it comes with ridgeline-nas[dev]")
    with torch.device("meta"):
        net = timm.create_model(model)
    return trace(net, torch.zeros(int(batch), 3, 224, 224, device="meta"))


def errors(runtime: str, dtype: str, measured: dict[str, dict[str, float]]) -> dict[str, np.ndarray]:
    """Relative errors, network by network: of the GPU's time, of that on the wall; of the former by bare roofline."""
    predictor = LatencyPredictor(load_device("h200"), dtype=dtype, runtime=runtime)
    found: dict[str, list[float]] = {"gpu": [], "wall": [], "roofline": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # networks of other kinds than those profiled
        for name, numbers in measured.items():
            prediction = predictor.predict(graph_of(name))
            gpu_s = sum(row.latency_s for row in prediction.kernels)
            kernels = [node.kernel for node in fuse(graph_of(name), load_runtime(runtime), dtype)]
            bare_s = sum(roofline(kernel_cost(each), predictor.device, dtype).latency_s for each in kernels)
            found["gpu"].append(gpu_s / numbers["gpu_ms"] * 1e3 - 1.0)
            found["wall"].append(prediction.latency_s / numbers["wall_ms"] * 1e3 - 1.0)
            found["roofline"].append(bare_s / numbers["gpu_ms"] * 1e3 - 1.0)
    return {name: np.array(each) for name, each in found.items()}


@pytest.mark.parametrize(
    ("dtype", "mape", "rank"), [("float32", 0.057, 0.97), ("bfloat16", 0.045, 0.98), ("tf32", 0.13, 0.92)]
)
def test_the_gpus_time_of_networks_that_were_not_profiled(dtype, mape, rank):
    measured = GOLDEN["eager"][dtype]
    found = errors("torch_eager", dtype, measured)
    gpu_ms = np.array([each["gpu_ms"] for each in measured.values()])
    spearman = spearmanr(gpu_ms * (1.0 + found["gpu"]), gpu_ms).statistic
    alone = np.array([name.endswith("@b1") for name in measured])
    gpu, bare, wall = (abs(found[name]) for name in ("gpu", "roofline", "wall"))
    print(f"\n{dtype} eager, {len(measured)} networks: GPU {gpu.mean():.1%}, Spearman {spearman:.3f}", end="; ")
    print(
        f"bare roofline {bare.mean():.1%}; wall {wall[alone].mean():.1%} at batch 1, {wall[~alone].mean():.1%} others"
    )
    assert gpu.mean() < mape
    assert spearman > rank
    assert bare.mean() > 2.0 * gpu.mean()


def test_networks_that_wait_for_a_steady_host_are_predicted_on_the_wall():
    measured = GOLDEN["eager"]["float32"]
    found = errors("torch_eager", "float32", measured)["wall"]
    assert abs(found).mean() < 0.08


@pytest.mark.parametrize(("dtype", "mape"), [("float32", 0.15), ("tf32", 0.08)])
def test_compiled_networks_on_the_wall(dtype, mape):
    found = errors("torch_compile_cuda", dtype, GOLDEN["compiled"][dtype])["wall"]
    print(f"\n{dtype} compiled: wall {abs(found).mean():.1%}")
    assert abs(found).mean() < mape


def test_kernels_unlike_the_few_measured_ones_are_predicted_from_other_gpus():
    """resnet34's 3x3 convolutions of 32 images: the table has two, of one image, and a grouped one."""
    measured = GOLDEN["compiled"]["bfloat16"]
    found = errors("torch_compile_cuda", "bfloat16", measured)["wall"]
    print(f"\nbfloat16 compiled: wall {abs(found).mean():.1%}")
    assert max(abs(found)) < 0.15
