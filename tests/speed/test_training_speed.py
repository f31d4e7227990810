"""What a step of the sandwich rule costs beside one of the largest network alone. Reported, never asserted:
`pytest tests/speed/test_training_speed.py --benchmark-enable -s`.
"""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from nas.accuracy import channels_last
from nas.data import ImageData, Labelled, load_data
from nas.training import Recipe
from nas.training.engine import Training
from nas.training.parallel import processes_of
from nas.training.passes import NetworkTrainee, SupernetTrainee, fresh_supernet
from search_spaces import Space, load_space

NUM_PAIRS = 40
NUM_WARM_UP = 3
RECIPE = Recipe(num_steps=NUM_PAIRS + NUM_WARM_UP, batch_size=64, learning_rate=0.001, accelerator="cpu", log_steps=0)


def report(space: Space, data: ImageData, recipe: Recipe, num_pairs: int, *, same_step: bool) -> float:
    """Steps of both in turn, so that a busy machine slows both: the median of the ratios of neighbours.

    Args:
        same_step: the first step is made again and again, with the same subnets and images. A GPU plans each
            convolution of a new shape once, which takes far longer than to run it.
    """
    processes = processes_of(recipe)
    supernet = fresh_supernet(space, 0)
    largest = channels_last(supernet.extract(space.largest()))
    trainings = {
        "sandwich": Training(SupernetTrainee(space=space, recipe=recipe, module=supernet), data, recipe, processes),
        "alone": Training(NetworkTrainee(module=largest, size=space.resolution), data, recipe, processes),
    }
    if same_step:
        for training in trainings.values():
            batch = training._next_batch()
            training._next_batch = lambda batch=batch: batch  # type: ignore[method-assign,misc]
    times_s: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(num_pairs + NUM_WARM_UP):
        for name, training in trainings.items():
            training.step = 0 if same_step else training.step
            start_s = time.perf_counter()
            training.run_step()
            if processes.device.type == "cuda":
                torch.cuda.synchronize()
            times_s[name].append(time.perf_counter() - start_s)
    for training in trainings.values():
        training.close()
    sandwich_s, alone_s = (np.array(times)[NUM_WARM_UP:] for times in times_s.values())
    low, median, high = np.quantile(sandwich_s / alone_s, [0.25, 0.5, 0.75])
    print(
        f"\n{space.name}, {recipe.batch_size} images, {recipe.precision} on {processes.device}, {num_pairs} pairs: "
        f"sandwich of 4 passes {1e3 * np.median(sandwich_s):.0f} ms, largest alone {1e3 * np.median(alone_s):.0f} ms; "
        f"ratio {median:.2f} (half of all between {low:.2f} and {high:.2f})"
    )
    return float(median)


def num_pairs(request: pytest.FixtureRequest) -> int:
    return NUM_PAIRS if request.config.getoption("benchmark_enable") else 1


def test_the_sandwich_on_digits(request: pytest.FixtureRequest) -> None:
    assert report(load_space("mobilenet_v3_tiny"), load_data("digits"), RECIPE, num_pairs(request), same_step=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_sandwich_at_the_size_of_imagenet(precision: str, request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(0)
    images = Labelled(
        images=rng.integers(0, 256, (512, 3, 224, 224), dtype=np.uint8), labels=rng.integers(0, 1000, 512)
    )
    data = ImageData(name="noise", num_classes=1000, train=images, valid=images, test=images)
    recipe = replace(RECIPE, batch_size=128, precision=precision, accelerator="cuda")
    assert report(load_space("mobilenet_v3"), data, recipe, num_pairs(request), same_step=True)
