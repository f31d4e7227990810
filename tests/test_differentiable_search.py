"""The differentiable search and the study of its limits run as a person runs them."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *options: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_both_searches_of_one_supernet_learn_and_keep_the_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(monkeypatch, capsys, "differentiable_search", "--steps", "100", "--latency-ms", "0.7")
    found = re.findall(r"(\w+): accuracy (\S+) \(valid\) (\S+) \(test\), latency (\S+) ms of at most 0.7 ms", printed)
    assert [name for name, *_ in found] == ["differentiable", "Optuna"], printed
    for _, valid, test, latency_ms in found:
        assert min(float(valid), float(test)) > 0.7  # ten digits: chance is 0.1
        assert float(latency_ms) <= 0.7


def test_a_limit_that_no_network_keeps_is_refused_before_anything_is_learned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"no arch keeps latency_s <= 0.0005 on mobile_gpu: the least .* 0.0006025"):
        run(monkeypatch, capsys, "differentiable_search", "--latency-ms", "0.5")


def test_every_network_of_the_study_keeps_its_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("mobile_gpu.latency_s+mobile_cpu.peak_memory_bytes", "h200.latency_s")
    options = ("--space", "mobilenet_v3_tiny", "--runs", "3", "--steps", "100", "--limits", *limits)
    printed = run(monkeypatch, capsys, "limit_study", *options)
    assert re.search(r"all +held +6 of 6 keep the limit", printed), printed
    below = [float(each) / 100 for each in re.findall(r"all +held .*: median (\S+)%", printed)]
    assert below[0] < 0.1
