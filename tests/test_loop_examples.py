"""Loops that people have, with costs plugged in: the examples learn, and the pages show what they changed."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARK = "  # + ridgeline"
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("plug_into_training_loops", "plug_into_optuna")}
EXAMPLES = {  # and the least that each has to learn
    "plain_loop": 0.9, "lightning_loop": 0.9, "huggingface_loop": 0.9, "timm_loop": 0.9, "tensorboard_loop": 0.85,
    "optuna_study": 0.9,
}  # fmt: skip
NEEDS = {"lightning_loop": "lightning", "huggingface_loop": "transformers", "timm_loop": "timm"}


def added(name: str) -> list[str]:
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    return [line.removesuffix(MARK) for line in lines if line.endswith(MARK)]


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_learns_and_says_what_its_network_costs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    accuracies = [float(each) for each in re.findall(r"accuracy: (\S+)", printed)]
    assert max(accuracies) >= EXAMPLES[name], printed
    assert re.search(r"(latency|traffic).*: \d+\.\d+ (ms|kB)", printed)
    if name == "plain_loop":
        assert "kernels: [3, 3]" in printed, "the larger ones are not worth their time"
    if name == "tensorboard_loop":
        assert list(tmp_path.glob("runs/tensorboard/events*"))
    if name == "timm_loop":
        header, *rows = (tmp_path / "runs" / "timm" / "summary.csv").read_text().splitlines()
        assert "eval_mobile_gpu/latency_ms" in header.split(",")
        assert len(rows) == 3


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_diffs_are_the_marked_lines_of_the_examples(page: str) -> None:
    diffs = re.findall(r"```diff\n(.*?)```", PAGES[page], re.DOTALL)
    shown = [[line[1:] for line in diff.splitlines() if line.startswith("+")] for diff in diffs]
    names = ["optuna_study"] if page == "plug_into_optuna" else [name for name in EXAMPLES if name != "optuna_study"]
    assert shown == [added(name) for name in names]
    for name, diff in zip(names, diffs):
        lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
        places = [lines.index(line[1:]) for line in diff.splitlines() if line.startswith(" ")]
        assert places == sorted(places)


def test_the_page_counts_the_lines_that_are_added() -> None:
    counted = re.findall(r"\| (\d+) \| \[(\w+)\.py\]", PAGES["plug_into_training_loops"])
    assert {name: int(num) for num, name in counted} == {name: len(added(name)) for name in EXAMPLES}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_code_runs_and_prints(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
        assert re.search(r"\d", capsys.readouterr().out)
