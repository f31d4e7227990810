"""Reading and augmenting images; OPS times the batch is images a second.

pytest tests/speed/test_data_speed.py --benchmark-enable

With `--benchmark-timer=time.process_time`, seconds are those of one core, whatever else the machine does.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from nas.data import Augmentation, ImageData, Labelled, load_data
from nas.data.image_folder import ImageFolder
from nas.data.inputs import evaluation_input, training_input
from nas.data.listing import _scanned, listed
from nas.data.picture_source import IMAGENET_NORMALISATION
from search_spaces import load_space

NUM_PICTURES = 64
IMAGENET = Augmentation(crop_area=(0.08, 1.0), flip=0.5, brightness=0.125, saturation=0.5)
CIFAR = Augmentation(crop_padding=4, flip=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of 500x375 pixels and about 100 kB, as ImageNet's mean: noise of every scale."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(NUM_PICTURES):
        pixels = np.zeros((375, 500, 3))
        for scale in (1, 2, 4, 8, 16, 32, 64):
            noise = rng.normal(0, 3.5 * scale**0.5, (375 // scale + 1, 500 // scale + 1, 3))
            layers = [
                Image.fromarray(noise[..., each]).resize((500, 375), Image.Resampling.BICUBIC) for each in range(3)
            ]
            pixels += np.stack([np.asarray(layer) for layer in layers], axis=2)
        path = root / ("val" if index % 8 == 0 else "train") / f"class{index // 8 % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(path, quality=96)
    return root


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path))


def test_reading_48_jpegs_of_500x375(benchmark: BenchmarkFixture, folder: Path) -> None:
    data = ImageFolder(path=str(folder), num_valid=8, memory_gb=0.0).load()
    sizes = [path.stat().st_size for path in folder.glob("*/*/*")]
    benchmark.extra_info["mean_kilobytes"] = round(sum(sizes) / len(sizes) / 1000)
    batch = benchmark(data.train.read, np.arange(48))
    assert batch.images.shape == (48, 3, 256, 256)


@pytest.mark.parametrize(
    ("stored", "size", "num", "augmentation"),
    [
        (32, 32, 256, Augmentation()),
        (32, 32, 256, CIFAR),
        (32, 32, 256, Augmentation(crop_padding=4, flip=0.5, cutout=1.0)),
        (32, 32, 256, Augmentation(crop_padding=4, flip=0.5, num_random=2)),
        (256, 224, 64, Augmentation()),
        (256, 224, 64, IMAGENET),
        (256, 224, 64, Augmentation(crop_area=(0.08, 1.0), flip=0.5, num_random=2)),
    ],
    ids=["32-none", "32-cifar", "32-cifar-cutout", "32-cifar-random", "224-none", "224-imagenet", "224-random"],
)
def test_augmenting_a_batch(
    benchmark: BenchmarkFixture, stored: int, size: int, num: int, augmentation: Augmentation
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (num, stored, stored, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
    part = Labelled(images=images, labels=np.zeros(num, np.int64))
    data = ImageData(
        name="x", num_classes=1, train=part, valid=part, test=part, normalisation=IMAGENET_NORMALISATION,
        augmentation=augmentation, evaluation_crop=size / stored,
    )  # fmt: skip
    rows = np.arange(num)
    x_BCHW = benchmark(lambda: training_input(data, images, size, seed=(0,), rows=rows, num=num))
    assert x_BCHW.shape == (num, 3, size, size)


@pytest.mark.parametrize(("name", "size", "num"), [("mobilenet_v3_tiny", 32, 64), ("mobilenet_v3", 224, 8)])
def test_a_plain_training_step_to_compare_with(benchmark: BenchmarkFixture, name: str, size: int, num: int) -> None:
    """Forward and backward of the largest subnet; a supernet's step has four such passes."""
    space = load_space(name, in_channels=3)
    network = space.build(space.largest()).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_BCHW = torch.rand(num, 3, size, size).to(memory_format=torch.channels_last)
    benchmark(lambda: network(x_BCHW).square().mean().backward())
    assert all(each.grad is not None and each.grad.isfinite().all() for each in network.parameters())


def test_listing_a_folder(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / "x" / f"n{label:08}").mkdir(parents=True)
        for index in range(200):
            (tmp_path / "x" / f"n{label:08}" / f"n{label:08}_{index}.JPEG").touch()
    assert len(benchmark(_scanned, tmp_path / "x")[0]) == 2000


def test_reading_the_list_of_a_folder_again(benchmark: BenchmarkFixture, folder: Path) -> None:
    assert len(benchmark(listed, folder / "train")) == 56


def test_evaluation_input_of_images_in_memory(benchmark: BenchmarkFixture) -> None:
    data = load_data("cluttered_digits", num_train=10, num_valid=1000, num_test=10)
    images = data.valid.read(np.arange(1000)).images
    assert benchmark(evaluation_input, data, images, 32).shape == (1000, 1, 32, 32)
