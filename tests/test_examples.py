"""The examples run, as a person would run them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from predictors import trace
from search_spaces import load_space

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(folder: Path, *command: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1", "RIDGELINE_HOME": str(folder / "home")}
    done = subprocess.run([sys.executable, *command], cwd=EXAMPLES, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_space_of_ones_own_is_short_and_holds_what_spaces_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len((EXAMPLES / "own_space.py").read_text().splitlines()) < 60
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    space = load_space("own_space")
    supernet = space.supernet().eval()
    rng = np.random.default_rng(0)
    for arch in (space.smallest(), space.largest(), space.sample(rng), space.sample(rng)):
        x = torch.randn(2, 1, space.image_size(arch), space.image_size(arch))
        assert trace(space.build(arch), x[:1]) == space.graph(arch)
        supernet.set_arch(arch)
        with torch.inference_mode():
            torch.testing.assert_close(supernet.extract(arch)(x), supernet(x), rtol=0, atol=1e-5)
    assert space.deployed(resolution=224).graph(space.largest()).nodes[0].operator.output_shape == (1, 1, 224, 224)


@pytest.mark.parametrize("name", ["own_space", "elastic_resnet"])
def test_a_file_in_the_folder_space_is_found_by_the_command(name: str, tmp_path: Path) -> None:
    shown = run(tmp_path, "-m", "nas.search", "hw=mobile_gpu", f"space={name}", "data=digits", "--cfg", "job")
    assert f"name: {name}\n" in shown


def test_an_elastic_network_is_trained_and_searched(tmp_path: Path) -> None:
    printed = run(tmp_path, "elastic_resnet.py", "--steps", "2", "--trials", "2", "--folder", str(tmp_path))
    assert "% right" in printed
    assert "'layer1_depth': " in printed
    assert list(tmp_path.glob("elastic_resnet-*.safetensors"))
