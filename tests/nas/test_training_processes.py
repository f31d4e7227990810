"""Several processes on one machine train as one does with the same batch. They find each other on the loopback."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas.data import Batch, Labelled
from nas.data.digits import ClutteredDigits
from nas.training import Phase, Recipe, train_network, train_supernet
from search_spaces import load_space

torch.set_num_threads(1)

RECIPE = Recipe(
    num_steps=4, batch_size=16, learning_rate=0.01, optimiser="sgd", accelerator="cpu", log_steps=0, label_smoothing=0.1
)  # fmt: skip
PHASES = (
    Phase(num_steps=2, learning_rate=0.01, elastic=("resolution",)),
    Phase(num_steps=2, learning_rate=0.01, distilled=True),
)
RECIPES = {
    "sandwich": replace(RECIPE, ema=0.9, clip_norm=1.0),
    "progressive": replace(RECIPE, num_steps=0, learning_rate=0.0, rule="sampled", accumulate=2, phases=PHASES),
}


class HalfUnreadable(Labelled):
    """The second batch of 16 has 8 images that cannot be read: all those of the second of two processes."""

    def read(self, indices: np.ndarray) -> Batch:
        rows = np.array([row for row, index in enumerate(indices) if index not in UNREADABLE], dtype=np.int64)
        return Batch(self.images[indices[rows]], self.labels[indices[rows]], rows)


UNREADABLE = set(np.random.default_rng([0, 0]).permutation(64)[24:32].tolist())
"""The second half of the second batch of the seed 0."""


def trained(folder: Path) -> dict[str, nn.Module]:
    """What this process, alone or one of several, trains."""
    data = ClutteredDigits(num_train=64, num_valid=20, num_test=20).load()
    assert isinstance(data.train, Labelled)
    space = load_space(
        "mobilenet_v3_tiny", stem_width=8, stage_widths=[8, 8], stage_strides=[2, 2], stage_se=[False, True],
        stage_activations=["relu", "hardswish"], depths=[1, 2], head_width=8, feature_width=8,
    )  # fmt: skip
    found: dict[str, nn.Module] = {
        name: train_supernet(space, data, recipe, folder, checkpoint_steps=2, progress=False)
        for name, recipe in RECIPES.items()
    }
    torn = replace(data, train=HalfUnreadable(images=data.train.images, labels=data.train.labels))
    torch.manual_seed(0)
    network = space.build(space.smallest())
    found["torn"] = train_network(network, torn, RECIPE, size=20, progress=False)
    found["own statistics"] = train_network(
        network, torn, replace(RECIPE, synchronise_norms=False), size=20, progress=False
    )
    return found


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "error"}
    subprocess.run([*command, __file__, str(tmp_path / "two")], check=True, env=environment, timeout=300)
    one = trained(tmp_path / "one")
    two = [torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, module in one.items():
        for key, weight in module.state_dict().items():
            assert torch.equal(two[0][name][key], two[1][name][key]), f"{name}: processes differ in {key}"
            difference = (weight - two[0][name][key]).abs().max().item()
            if name != "own statistics":
                assert difference <= 1e-4, f"{name}: {key} differs by {difference}"
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == len(RECIPES)
    assert sorted(path.name for path in (tmp_path / "two").glob("*.safetensors")) == names


if __name__ == "__main__":
    target = Path(sys.argv[1])
    states = {name: module.state_dict() for name, module in trained(target).items()}
    torch.save(states, target / f"{os.environ['RANK']}.pt")
