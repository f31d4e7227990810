import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas.data import Augmentation, ImageData, Labelled, load_data
from nas.data.digits import PARTS, ClutteredDigits, Digits, split_sources
from nas.data.inputs import training_input
from nas.data.splits import num_valid_of, stratified_split
from predictors.paths import shipped

NAMES = sorted(path.stem for path in shipped("data").glob("*.yaml"))
EMBEDDED = ["cluttered_digits", "digits"]
SMALL = {"num_train": 30, "num_valid": 20, "num_test": 10}


def small(**fields: object) -> ImageData:
    return ClutteredDigits(**(SMALL | fields)).load()


def labelled(num: int = 4, size: int = 8) -> Labelled:
    return Labelled(images=np.zeros((num, 1, size, size), np.uint8), labels=np.arange(num))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(EMBEDDED)))
def test_data_that_the_user_has_to_give_says_how(name: str) -> None:
    with pytest.raises(ValueError, match=rf"data '{name}'.*give data\.path="):
        load_data(name)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_data_has_three_parts_of_square_images_and_no_augmentation(name: str) -> None:
    fields = SMALL if name == "cluttered_digits" else {}
    data = load_data(name, **fields)
    assert data.name == name
    assert data.augmentation == Augmentation()
    for part in (data.train, data.valid, data.test):
        assert part.images.shape == (len(part), data.in_channels, 32, 32)
        assert set(part.labels) <= set(range(data.num_classes))


def test_no_real_digit_is_in_two_parts() -> None:
    sources = split_sources(seed=0, valid_fraction=0.2, test_fraction=0.2)
    positions = [set(sources[part].positions.tolist()) for part in PARTS]
    assert sum(map(len, positions)) == len(set.union(*positions)) == 1797
    assert [len(each) for each in positions] == [1079, 359, 359]


def test_a_composed_image_shows_its_own_digit() -> None:
    """Without clutter, noise, rotation, and at full size the image is the real digit of its part, dimmed."""
    plain = {"num_pieces": 0, "noise": 0.0, "max_rotation_deg": 0.0, "scales": (1.0, 1.0), "size": 8}
    data = small(**plain)
    sources = split_sources(seed=0, valid_fraction=0.15, test_fraction=0.15)["valid"]
    images = torch.from_numpy(data.valid.images).float().flatten(1)
    expected = sources.images[: len(images)].flatten(1)
    assert torch.cosine_similarity(images, expected, dim=1).min() > 0.999
    assert (data.valid.labels == sources.labels[: len(images)].numpy()).all()


def test_clutter_of_a_part_comes_from_that_part() -> None:
    """Composed from black sources alone, images stay black: clutter has no other place to come from."""
    only_black = torch.zeros(5, 1, 8, 8)
    source = ClutteredDigits(**SMALL, noise=0.0)
    composed = source._compose(only_black, torch.arange(5), torch.Generator().manual_seed(0))
    assert not composed.any()


def test_the_same_seed_gives_the_same_images_and_another_gives_others() -> None:
    assert small().digest == small().digest
    assert small().digest != small(seed=1).digest
    np.testing.assert_array_equal(small().test.images, small().test.images)


def test_the_digest_sees_a_single_label() -> None:
    data = small()
    labels = data.train.labels.copy()
    labels[0] = (labels[0] + 1) % 10
    train = Labelled(images=data.train.images, labels=labels)
    changed = ImageData(name=data.name, num_classes=10, train=train, valid=data.valid, test=data.test)
    assert changed.digest != data.digest


def test_plain_digits_are_the_real_ones() -> None:
    data = Digits(size=8).load()
    sources = split_sources(seed=0, valid_fraction=0.3, test_fraction=0.2)["train"]
    np.testing.assert_array_equal(data.train.images, (sources.images * 255).round().to(torch.uint8).numpy())


def test_unknown_data_lists_what_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown data .imagenot.; .*there are .*'cifar10',.*'imagenet'\]"):
        load_data("imagenot")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nois": 0.1}, r"unknown key 'nois'; allowed are .*'noise'"),
        ({"noise": "much"}, "noise: expected int or float, found 'much'"),
        ({"num_train": 1.5}, "num_train: expected int, found 1.5"),
        ({"num_valid": 0}, "num_valid must be positive, found 0"),
        ({"scales": [0.9, 0.6]}, "scales must be two increasing fractions"),
        ({"piece_size": 9}, r"piece_size must be in 1\.\.8, found 9"),
        ({"noise": -0.1}, "must not be negative"),
        ({"valid_fraction": 0.9}, "leave something"),
        ({"source": "nas.data.digits.Digit"}, "cannot be imported"),
        ({"source": "nas.data.digits.split_sources"}, "is no dataclass"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data("cluttered_digits", **fields)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 9))
def test_a_split_is_disjoint_whole_and_has_the_classes_in_proportion(counts: list[int], part: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    most = sum(counts) - len(counts)
    num_valid = round(part * most)
    if not 0 < num_valid <= most:
        with pytest.raises(ValueError, match=rf"allowed are 1\.\.{most}"):
            stratified_split(labels, num_valid, seed)
        return
    train, valid = stratified_split(labels, num_valid, seed)
    assert sorted(np.concatenate([train, valid])) == list(range(len(labels)))
    assert len(valid) == num_valid
    shares = np.bincount(labels[valid], minlength=len(counts))
    exact = num_valid * np.array(counts) / len(labels)
    assert (shares < counts).all()
    if (np.ceil(exact) < counts).all():
        assert (np.floor(exact) <= shares).all()
        assert (shares <= np.ceil(exact)).all()


def test_a_split_follows_from_its_seed_and_is_mixed() -> None:
    labels = np.repeat(np.arange(4), 100)
    first, again, other = (stratified_split(labels, 40, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert set(first.valid) != set(other.valid)
    assert np.bincount(labels[first.valid]).tolist() == [10] * 4
    for part in first:
        assert len(set(labels[part[:20]])) == 4


def test_the_number_of_validation_images_counts_before_their_fraction() -> None:
    assert num_valid_of(200, 7, 0.5) == 7
    assert num_valid_of(200, None, 0.1) == 20
    assert num_valid_of(3, None, 0.1) == 1
    with pytest.raises(ValueError, match="valid_fraction must be in"):
        num_valid_of(200, None, 1.0)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="images of valid have shape"):
        ImageData(name="x", num_classes=4, train=labelled(), valid=labelled(size=9), test=labelled())
    with pytest.raises(ValueError, match=r"a label of train is not in 0\.\.2"):
        ImageData(name="x", num_classes=3, train=labelled(), valid=labelled(), test=labelled())
    with pytest.raises(ValueError, match="no images for test"):
        ImageData(name="x", num_classes=4, train=labelled(), valid=labelled(), test=labelled(num=0))
    with pytest.raises(ValueError, match="must be square and uint8"):
        Labelled(images=np.zeros((1, 1, 8, 8)), labels=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="as many int64 labels"):
        Labelled(images=np.zeros((1, 1, 8, 8), np.uint8), labels=np.zeros(2, np.int64))


def test_the_own_data_of_the_documentation_loads_and_augments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Squares" in block)
    (tmp_path / "own_squares.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "squares.yaml"
    file.write_text("source: own_squares.Squares\nnum: 100\naugmentation: {flip: 0.5}\n", encoding="utf-8")
    data = load_data(file)
    assert (len(data.train), len(data.valid), len(data.test)) == (80, 20, 100)
    assert data.augmentation == Augmentation(flip=0.5)
    brightness = data.test.images.mean(axis=(1, 2, 3))
    assert brightness[data.test.labels == 1].min() > brightness[data.test.labels == 0].max()
    images = data.train.read(np.arange(8)).images
    assert training_input(data, images, 24, seed=(0,), rows=np.arange(8), num=8).shape == (8, 1, 24, 24)


def test_the_table_of_the_documentation_has_every_source_and_every_key_of_augmentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for name in (*NAMES, *(each.name for each in fields(Augmentation))):
        assert f"`{name}`" in text
