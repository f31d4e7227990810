"""The page about pruning and its example run as they stand, and keep the limits that they set."""

import re
import runpy
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]


def test_the_page_s_loop_ends_at_or_under_its_limit_and_still_reads_digits(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "prune_your_network.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "prune_your_network.md", "exec"), {"__name__": "page"})
    right, share = map(float, capsys.readouterr().out.split())
    assert 0.95 < share <= 1.0
    assert right > 0.8


def test_the_resnet_of_the_example_is_pruned_by_three_lines_and_is_as_good_as_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prune_resnet.py", "--epochs", "4"])
    runpy.run_path(str(ROOT / "examples" / "prune_resnet.py"), run_name="__main__")
    printed = capsys.readouterr().out
    found = {key: float(value) for key, value in re.findall(r"(\w[\w-]*): +([\d.]+)", printed)}
    latency, limit = map(float, re.findall(r"([\d.]+) ms, limit ([\d.]+) ms", printed)[0])
    assert 0.95 * limit < latency <= limit
    assert found["fine-tuned"] > 90.0
    assert found["fine-tuned"] > found["whole"] - 3.0
    assert found["changes"] == 3.0
