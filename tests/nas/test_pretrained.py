from pathlib import Path

import pytest
import safetensors.torch
import torch

from nas.accuracy import SupernetAccuracy
from nas.data import ImageData
from nas.data.digits import ClutteredDigits
from nas.pretrained import FromCheckpoint
from nas.training import save_supernet
from search_spaces import Space, load_space

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ClutteredDigits(num_train=120, num_valid=40, num_test=10).load()


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobilenet_v3_tiny", head_width=8, feature_width=8, resolutions=[16])


@pytest.fixture
def checkpoint(space: Space, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_supernet(tmp_path / "mine.safetensors", space.supernet(), "a key")
    return tmp_path / "mine.safetensors"


def test_a_trained_supernets_file_judges_as_the_supernet_does(checkpoint: Path, space: Space, data: ImageData) -> None:
    torch.manual_seed(0)
    arch = space.smallest()
    expected = SupernetAccuracy(space.supernet().eval(), data)
    source = FromCheckpoint(checkpoint=str(checkpoint))
    assert (source.needs_data, source.needs_training) == (True, False)
    source.check(space, data)
    scoring = source.load(space, data, None)
    assert scoring.accuracy(arch) == expected(arch)
    assert scoring.extract is not None
    own = scoring.extract(arch).state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.subnet(arch).state_dict().items())
    assert "mine.safetensors on the validation images of cluttered_digits" in scoring.judgement.origin


def test_other_weights_are_another_question(checkpoint: Path, space: Space, data: ImageData) -> None:
    source = FromCheckpoint(checkpoint=str(checkpoint))
    before = source.digest(space, data, None)
    assert source.digest(space, data, None) == before
    save_supernet(checkpoint, space.supernet(), "a key")
    assert source.digest(space, data, None) != before


def test_a_file_of_another_space_is_named(checkpoint: Path, data: ImageData) -> None:
    source = FromCheckpoint(checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=r"of space 'mobilenet_v3_tiny', not of 'mine'; set space=mobilenet_v3_tiny"):
        source.check(load_space("mobilenet_v3_tiny", name="mine"), data)
    with pytest.raises(ValueError, match=r"does not fit: it has '.*' of shape .*, not"):
        source.check(load_space("mobilenet_v3_tiny", head_width=16, feature_width=8, resolutions=[16]), data)


def test_a_file_with_missing_weights_names_them(checkpoint: Path, space: Space, data: ImageData) -> None:
    weights = safetensors.torch.load_file(checkpoint)
    del weights["network.classifier.bias"]
    safetensors.torch.save_file(weights, checkpoint)
    with pytest.raises(ValueError, match=r"lacks 'network\.classifier\.bias'"):
        FromCheckpoint(checkpoint=str(checkpoint)).check(space, data)


def test_a_damaged_or_missing_file_is_named(checkpoint: Path, space: Space, data: ImageData, tmp_path: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"mine\.safetensors is no whole safetensors file"):
        FromCheckpoint(checkpoint=str(checkpoint)).check(space, data)
    with pytest.raises(ValueError, match="is no file"):
        FromCheckpoint(checkpoint=str(tmp_path / "none.pth")).check(space, data)
    with pytest.raises(ValueError, match=r"needs a file of weights: accuracy\.checkpoint=FILE"):
        FromCheckpoint().check(space, data)
    published = tmp_path / "ofa.pth"
    published.write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"ofa\.pth"):
        FromCheckpoint(checkpoint=str(published)).check(load_space("mobilenet_v3"), _as_imagenet(data))


def _as_imagenet(data: ImageData) -> ImageData:
    """The same images with three channels, said to be of 1000 classes."""
    from nas.data import Labelled

    parts = {
        name: Labelled(images=getattr(data, name).images.repeat(3, axis=1), labels=getattr(data, name).labels)
        for name in ("train", "valid", "test")
    }
    return ImageData(name="three", num_classes=1000, **parts)
