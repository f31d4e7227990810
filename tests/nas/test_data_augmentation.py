import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nas.data import Augmentation, ImageData, Labelled, Normalisation, load_data
from nas.data.augmentation import Draws, draws
from nas.data.augmenting import crop_boxes, crops, cut_out, flipped, recoloured, resized_bytes, rotated, shifted
from nas.data.inputs import evaluation_input, training_input
from nas.data.random_operations import OPERATIONS, apply_operation

PLAIN = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
EVERYTHING = Augmentation(
    crop_area=(0.2, 1.0), flip=0.5, vertical_flip=0.3, brightness=0.4, contrast=0.4, saturation=0.4, rotation_deg=20,
    num_random=2, random_strength=1.0, cutout=0.6,
)  # fmt: skip
MIDDLE = Draws(*np.full((len(Draws._fields), 1), 0.5))
NO_MEAN = torch.zeros(3, 1, 1)


def random_images(num: int, size: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, channels, size, size), dtype=np.uint8)


def task(images: np.ndarray, normalisation: Normalisation = PLAIN, **fields: object) -> ImageData:
    part = Labelled(images=images, labels=np.zeros(len(images), np.int64))
    return ImageData(
        name="x", num_classes=1, train=part, valid=part, test=part, normalisation=normalisation, **fields  # type: ignore[arg-type]
    )  # fmt: skip


def whole_batch(data: ImageData, size: int, seed: tuple[int, ...] = (0, 0)) -> torch.Tensor:
    num = len(data.train)
    return training_input(data, data.train.read(np.arange(num)).images, size, seed=seed, rows=np.arange(num), num=num)


def drawn(**fields: float) -> Draws:
    """Draws of one image: 0.5, but for those given."""
    return MIDDLE._replace(**{name: np.array([value]) for name, value in fields.items()})


# ------------------------------------------------------------------------------------------------- whole batches


def test_without_augmentation_training_sees_what_evaluation_sees() -> None:
    data = task(random_images(3, 8), evaluation_crop=0.5)
    assert torch.equal(whole_batch(data, 6), evaluation_input(data, data.train.read(np.arange(3)).images, 6))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.lists(st.integers(1, 11), max_size=3, unique=True), st.sampled_from([12, 9]))
def test_any_split_over_processes_gives_the_same_images(seed: int, cuts: list[int], size: int) -> None:
    padded = Augmentation(crop_padding=2, flip=0.5, contrast=0.3, cutout=0.5, num_random=1)
    images = random_images(12, 12)
    for augmentation in (EVERYTHING, padded):
        data = task(images, augmentation=augmentation)
        together = whole_batch(data, size, seed=(seed, 3))
        parts = [
            training_input(data, images[rows], size, seed=(seed, 3), rows=rows, num=12)
            for rows in np.split(np.arange(12), sorted(cuts))
        ]
        torch.testing.assert_close(torch.cat(parts), together, atol=1e-6, rtol=0)


def test_an_image_that_was_left_out_changes_no_other() -> None:
    images = random_images(6, 10)
    data = task(images, augmentation=EVERYTHING)
    rows = np.array([0, 1, 3, 5])
    found = training_input(data, images[rows], 10, seed=(1,), rows=rows, num=6)
    torch.testing.assert_close(found, whole_batch(data, 10, seed=(1,))[rows], atol=1e-6, rtol=0)


def test_the_seed_decides_and_the_stored_images_stay_as_they_are() -> None:
    images = random_images(4, 10)
    before = images.copy()
    data = task(images, augmentation=EVERYTHING)
    assert torch.equal(whole_batch(data, 10, seed=(0, 1)), whole_batch(data, 10, seed=(0, 1)))
    for other in ((0, 2), (1, 1)):
        assert not torch.equal(whole_batch(data, 10, seed=(0, 1)), whole_batch(data, 10, seed=other))
    for augmentation in (Augmentation(flip=1.0, brightness=0.5, cutout=1.0), Augmentation(crop_padding=1)):
        whole_batch(task(images, augmentation=augmentation), 10)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_come_normalised_and_channels_last_whatever_is_done_to_them(channels: int) -> None:
    normalisation = Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels)
    augmentation = Augmentation(crop_area=(0.5, 1.0), contrast=0.2, rotation_deg=5, num_random=1, cutout=0.5)
    data = task(random_images(5, 16, channels), normalisation, augmentation=augmentation)
    x_BCHW = whole_batch(data, 12)
    assert x_BCHW.shape == (5, channels, 12, 12)
    assert x_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert x_BCHW.dtype == torch.float32
    assert -2.001 <= x_BCHW.min() < x_BCHW.max() <= 2.001  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25


def test_a_mirrored_batch_is_the_evaluation_of_mirrored_images() -> None:
    images = random_images(3, 8)
    data = task(images, augmentation=Augmentation(flip=1.0))
    assert torch.equal(whole_batch(data, 8), evaluation_input(data, images[..., ::-1].copy(), 8))
    data = task(images, augmentation=Augmentation(vertical_flip=1.0))
    assert torch.equal(whole_batch(data, 8), evaluation_input(data, images[..., ::-1, :].copy(), 8))


def test_about_the_asked_part_of_a_batch_is_mirrored() -> None:
    """Of 4,000 images 25 % are mirrored, give or take four deviations of sqrt(4000 * 0.25 * 0.75) = 27."""
    images = np.zeros((4000, 1, 1, 2), np.uint8)
    images[..., 1] = 1
    found = flipped(images, Augmentation(flip=0.25), draws((0,), np.arange(4000), 4000))
    assert abs(found[..., 0].sum() - 1000) < 4 * 27


def test_draws_are_independent_of_each_other_and_even() -> None:
    whole = np.stack(draws((5, 7), np.arange(5000), 5000))
    correlations = np.corrcoef(whole) - np.eye(len(whole))
    assert abs(correlations).max() < 5 / math.sqrt(5000)
    assert abs(whole.mean(axis=1) - 0.5).max() < 5 * math.sqrt(1 / 12 / 5000)


# ------------------------------------------------------------------------------------------------- one by one


def test_a_crop_has_the_area_and_ratio_that_were_drawn() -> None:
    """Of 8x8 pixels, a quarter is 16: 4x4 at ratio 1, 8 wide and 2 high at ratio 4."""
    for ratio, height, width in ((1.0, 4, 4), (4.0, 2, 8)):
        asked = Augmentation(crop_area=(0.25, 0.25), crop_ratio=(ratio, ratio))
        box = crop_boxes(asked, drawn(crop_x=0.0, crop_y=0.999), (8, 8))
        assert [int(each[0]) for each in box] == [8 - height, 0, height, width]


def test_area_is_drawn_evenly_and_ratio_evenly_in_its_logarithm() -> None:
    asked = Augmentation(crop_area=(0.1, 0.5), crop_ratio=(0.25, 4.0))
    box = crop_boxes(asked, drawn(crop_area=0.5, crop_ratio=0.25), (1000, 1000))
    assert box.height[0] == round(math.sqrt(0.3 * 1e6 / 0.5)) == 775  # ratio 0.25 * 16 ** 0.25 = 0.5
    assert box.width[0] == round(math.sqrt(0.3 * 1e6 * 0.5)) == 387


@given(st.floats(0.01, 1), st.floats(0.1, 10), st.integers(1, 40), st.integers(0, 1000))
def test_crops_lie_inside(area: float, ratio: float, size: int, seed: int) -> None:
    asked = Augmentation(crop_area=(area, area), crop_ratio=(ratio, ratio))
    box = crop_boxes(asked, draws((seed,), np.arange(20), 20), (size, size))
    assert (box.top >= 0).all()
    assert (box.left >= 0).all()
    assert (box.height >= 1).all()
    assert (box.width >= 1).all()
    assert (box.top + box.height <= size).all()
    assert (box.left + box.width <= size).all()


def test_crops_are_those_of_torchvision() -> None:
    from torchvision.transforms.v2 import functional

    images = random_images(6, 32)
    boxes = crop_boxes(Augmentation(crop_area=(0.1, 1.0)), draws((0,), np.arange(6), 6), (32, 32))
    for image, found, box in zip(images, crops(images, boxes, 24), zip(*boxes)):
        expected = functional.resized_crop(torch.from_numpy(image), *map(int, box), [24, 24], antialias=True)
        assert abs(expected.int() - torch.from_numpy(found).int()).max() <= 1


def test_a_window_of_the_padded_image_is_cut() -> None:
    """Padding 1 with mean 0.2 = 51 of 255: windows start at 0, 1 or 2."""
    image = np.array([[[[10, 20], [30, 40]]]], np.uint8)
    for y, x, expected in (
        (0.0, 0.0, [[51, 51], [51, 10]]), (0.5, 0.5, [[10, 20], [30, 40]]), (0.99, 0.5, [[30, 40], [51, 51]]),
    ):  # fmt: skip
        assert shifted(image, 1, drawn(crop_y=y, crop_x=x), (0.2,))[0, 0].tolist() == expected


def test_brightness_contrast_and_saturation_have_the_values_of_their_formulas() -> None:
    grey = torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)
    brighter = recoloured(grey.clone(), Augmentation(brightness=0.5), drawn(brightness=1.0))
    assert brighter.flatten().tolist() == pytest.approx([0.3, 0.9])
    assert recoloured(grey * 1.2, Augmentation(brightness=0.5), drawn(brightness=1.0)).max() == 1.0  # 1.08 is cut off
    flatter = recoloured(grey.clone(), Augmentation(contrast=0.5), drawn(contrast=0.0))
    assert flatter.flatten().tolist() == pytest.approx([0.3, 0.5])  # half as far from their mean 0.4
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    paler = recoloured(red, Augmentation(saturation=0.5), drawn(saturation=0.0))
    assert paler.flatten().tolist() == pytest.approx([0.5 + 0.5 * 0.299, 0.5 * 0.299, 0.5 * 0.299])


def test_colours_are_those_of_torchvision_where_nothing_is_cut_off() -> None:
    from torchvision.transforms.v2 import functional

    x_BCHW = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    values = draws((2,), np.arange(4), 4)
    asked = Augmentation(brightness=0.3, contrast=0.4, saturation=0.5)
    found = recoloured(x_BCHW.clone(), asked, values)
    for index in range(4):
        expected = x_BCHW[index]
        expected = functional.adjust_brightness(expected, 1 + 0.3 * (2 * values.brightness[index] - 1))
        expected = functional.adjust_contrast(expected, 1 + 0.4 * (2 * values.contrast[index] - 1))
        expected = functional.adjust_saturation(expected, 1 + 0.5 * (2 * values.saturation[index] - 1))
        torch.testing.assert_close(found[index], expected, atol=2e-4, rtol=0)  # torchvision's weights: 0.2989, ...


@pytest.mark.parametrize("size", [4, 5])
def test_a_quarter_turn_moves_every_pixel_to_its_place(size: int) -> None:
    x_BCHW = torch.rand(1, 3, size, size)
    for draw, turns in ((1.0, -1), (0.0, 1), (0.5, 0)):
        found = rotated(x_BCHW, 90, drawn(rotation=draw))
        torch.testing.assert_close(found, torch.rot90(x_BCHW, turns, (2, 3)), atol=1e-4, rtol=0)


def test_a_box_is_painted_around_its_centre_and_may_lie_half_outside() -> None:
    """A quarter of 8x8 at ratio 1 is 4x4; from centre 4 it covers 2..5, from corner 0 it covers 0..1."""
    asked = Augmentation(cutout=1.0, cutout_area=(0.25, 0.25), cutout_ratio=(1.0, 1.0))
    for y, x, rows, columns in ((0.5, 0.5, slice(2, 6), slice(2, 6)), (0.0, 0.999, slice(0, 2), slice(5, 8))):
        expected = torch.ones(1, 2, 8, 8)
        expected[:, :, rows, columns] = 0
        assert torch.equal(cut_out(torch.ones(1, 2, 8, 8), asked, drawn(cutout_y=y, cutout_x=x)), expected)
    untouched = cut_out(torch.ones(1, 1, 8, 8), Augmentation(cutout=0.4), MIDDLE)
    assert untouched.min() == 1


def test_bytes_are_resized_like_floats() -> None:
    images = random_images(3, 20)
    floats = torch.nn.functional.interpolate(
        torch.from_numpy(images).float(), size=(13, 13), mode="bilinear", antialias=True
    )
    assert abs(resized_bytes(images, 13) - floats.numpy()).max() <= 1.001


# ------------------------------------------------------------------------------------------------- RandAugment's list


def operated(name: str, x_BCHW: torch.Tensor, strength: float) -> torch.Tensor:
    strengths_B = torch.full((len(x_BCHW),), strength)
    return apply_operation(list(OPERATIONS).index(name), x_BCHW, strengths_B, NO_MEAN[: x_BCHW.shape[1]])


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_shape_and_range_and_its_input(name: str, channels: int) -> None:
    x_BCHW = torch.rand(4, channels, 9, 9)
    before = x_BCHW.clone()
    for strength in (-1.0, 0.4, 1.0):
        found = operated(name, x_BCHW, strength)
        assert found.shape == x_BCHW.shape
        assert found.min() >= 0
        assert found.max() <= 1 + 1e-6
    assert torch.equal(x_BCHW, before)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalise", "posterise"}))
def test_an_operation_of_no_strength_changes_nothing(name: str) -> None:
    x_BCHW = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(operated(name, x_BCHW, 0.0), x_BCHW, atol=1e-5, rtol=0)


def test_posterising_keeps_leading_bits_and_solarising_inverts_bright_values() -> None:
    value = torch.tensor([0b10110111, 255, 16]).reshape(1, 1, 1, 3) / 255
    assert (operated("posterise", value, 1.0) * 255).flatten().tolist() == pytest.approx([0b10110000, 240, 16])
    assert (operated("posterise", value, 0.25) * 255).flatten().tolist() == pytest.approx([0b10110110, 254, 16])
    assert (operated("posterise", value, 0.0) * 255).flatten().tolist() == pytest.approx([0b10110111, 255, 16])
    values = torch.tensor([0.8, 0.7]).reshape(1, 1, 1, 2)
    assert operated("solarise", values, 0.25).flatten().tolist() == pytest.approx([0.2, 0.7])


def test_shifts_and_shears_move_pixels_by_their_part_of_the_image() -> None:
    """0.45 of 20 pixels is 9; at strength 1/3 that is 3. A shear of 0.3 moves line y by 0.3 * (y - middle)."""
    x_BCHW = torch.zeros(1, 1, 20, 20)
    x_BCHW[0, 0, 10, 10] = 1
    assert operated("shift_x", x_BCHW, 1 / 3)[0, 0, 10, 7] == pytest.approx(1, abs=1e-4)
    assert operated("shift_y", x_BCHW, -1 / 3)[0, 0, 13, 10] == pytest.approx(1, abs=1e-4)
    line = torch.zeros(1, 1, 20, 20)
    line[..., 10] = 1
    sheared = operated("shear_x", line, -1.0)[0, 0]
    places = (sheared * torch.arange(20)).sum(dim=1) / sheared.sum(dim=1)
    assert (places[18] - places[2]).item() == pytest.approx(16 * 0.3, abs=0.3)


def test_equalising_and_stretching_are_those_of_pillow() -> None:
    rng = np.random.default_rng(3)
    images = (rng.integers(0, 256, (4, 3, 40, 40)) ** 2 // 300).astype(np.uint8)
    images[0, 0] = 7  # a channel of one value stays
    x_BCHW = torch.from_numpy(images).float() / 255
    for name, oracle, tolerance in (("equalise", ImageOps.equalize, 0), ("autocontrast", ImageOps.autocontrast, 1)):
        found = (operated(name, x_BCHW, 1.0) * 255).round().int().numpy()
        for image, result in zip(images, found):
            expected = np.asarray(oracle(Image.fromarray(image.transpose(1, 2, 0)))).transpose(2, 0, 1)
            assert abs(result - expected.astype(int)).max() <= tolerance


def test_sharpening_is_that_of_torchvision() -> None:
    from torchvision.transforms.v2 import functional

    x_BCHW = torch.rand(2, 3, 9, 9)
    expected = functional.adjust_sharpness(x_BCHW, 1.9)
    torch.testing.assert_close(operated("sharpness", x_BCHW, 1.0), expected, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------- records


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip": 1.5}, r"flip must be in 0\.\.1, found 1.5"),
        ({"rotation_deg": -1.0}, "rotation_deg must not be negative"),
        ({"crop_area": (0.5,)}, r"crop_area must be two increasing parts of 1, found \[0.5\]"),
        ({"cutout_area": ()}, "cutout_area must be two increasing parts of 1"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio must be two increasing ratios"),
        ({"crop_area": (0.1, 1.0), "crop_padding": 4}, "two ways to crop; set one"),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)  # type: ignore[arg-type]


def test_what_does_not_fit_the_images_is_refused() -> None:
    grey = Normalisation()
    with pytest.raises(ValueError, match="saturation needs three channels, the images have 1"):
        task(random_images(2, 8, 1), grey, augmentation=Augmentation(saturation=0.5))
    with pytest.raises(ValueError, match="evaluation_crop must be in"):
        task(random_images(2, 8), evaluation_crop=0.0)
    with pytest.raises(ValueError, match="1 classes and 2 names"):
        task(random_images(2, 8), class_names=("a", "b"))


def test_the_digest_sees_the_augmentation_and_without_one_is_what_it_was() -> None:
    """Supernets that are trained already are found by it."""
    data = task(random_images(2, 8))
    before = hashlib.sha256(f"{data.train.digest} 1 {data.normalisation}".encode()).hexdigest()
    assert data.digest == before
    others = [
        task(random_images(2, 8), **fields).digest
        for fields in ({"augmentation": Augmentation(flip=0.5)}, {"evaluation_crop": 0.5}, {"class_names": ("a",)})
    ]
    assert len({before, *others[:2]}) == 3
    assert others[2] == before


def test_a_file_sets_the_fields_and_a_wrong_one_is_named() -> None:
    with pytest.raises(ValueError, match=r"augmentation: unknown key 'flipp'"):
        load_data("cifar10", augmentation={"flipp": 0.5})
    with pytest.raises(ValueError, match="augmentation: crop_padding: expected int"):
        load_data("cifar10", augmentation={"crop_padding": 0.5})
