"""The code of docs/costs_in_training.md runs as it stands there and keeps the limit that it sets."""

import re
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def test_the_page_s_loop_ends_at_or_under_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "costs_in_training.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "costs_in_training.md", "exec"), {})
    assert 0.9e-3 < float(capsys.readouterr().out) <= 1.2e-3
