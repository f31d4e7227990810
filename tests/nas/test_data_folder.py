import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nas.data.listing
from nas.accuracy import check_data_fits
from nas.data import Augmentation, ImageData, load_data
from nas.data.image_folder import ImageFolder
from nas.data.inputs import evaluation_input, training_input
from nas.data.lazy import LazyImages
from nas.data.listing import listed
from nas.data.pictures import NUM_NAMED, decoded
from nas.training import Recipe, train_network
from search_spaces import load_space

SIZE = 16


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    """Smooth colours that differ from seed to seed."""
    values = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def made_folder(root: Path, numbers: dict[str, dict[str, int]]) -> Path:
    """`numbers` of PNG pictures by part and class; each picture's seed is its number over all."""
    seed = 0
    for part, classes in numbers.items():
        for name, number in classes.items():
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                picture(seed).save(root / part / name / f"{index}.png", compress_level=0)
                seed += 1
    return root


def small_folder(root: Path, **parts: dict[str, int]) -> Path:
    return made_folder(root, {"train": {"b": 6, "a": 4, "B": 2}, "val": {"a": 2, "b": 3}} | parts)


def task(root: Path, **fields: object) -> ImageData:
    return load_data("image_folder", path=str(root), stored_size=SIZE, num_valid=3, **fields)


def lazy(images: object) -> LazyImages:
    assert isinstance(images, LazyImages)
    return images


# ------------------------------------------------------------------------------------------------- one picture


@pytest.mark.parametrize(
    ("width", "height", "size"), [(50, 37, 16), (37, 50, 16), (32, 32, 32), (21, 300, 15), (12, 10, 24), (101, 33, 17)]
)
def test_a_picture_is_resized_and_cropped_as_torchvision_does(
    width: int, height: int, size: int, tmp_path: Path
) -> None:
    from torchvision.transforms import v2

    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    expected = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(Image.open(tmp_path / "x.png"))
    assert abs(decoded(tmp_path / "x.png", size).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1", "P", "LA", "I;16"])
def test_every_kind_of_picture_becomes_red_green_and_blue(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    whole = picture(0)
    if mode == "P":
        whole.quantize(8).save(path, transparency=b"\x00\x80")
    elif mode == "I;16":
        Image.fromarray(np.full((20, 24), 300, np.uint16)).save(path)
    else:
        whole.convert(mode).save(path)
    assert decoded(path, SIZE).shape == (SIZE, SIZE, 3)
    assert decoded(path, SIZE, channels=1).shape == (SIZE, SIZE, 1)
    if mode in ("RGBA", "CMYK"):
        whole.save(tmp_path / "plain.png")
        assert abs(decoded(path, SIZE).astype(int) - decoded(tmp_path / "plain.png", SIZE)).mean() < 2


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 501), (260, 261)])
def test_evaluation_sees_what_published_checkpoints_of_imagenet_were_judged_on(
    width: int, height: int, tmp_path: Path
) -> None:
    from torchvision.transforms import v2

    for part in ("train", "val"):
        (tmp_path / "x" / part / "a").mkdir(parents=True)
        for index in range(2):
            picture(index, width, height).save(tmp_path / "x" / part / "a" / f"{index}.jpg")
    data = load_data("imagenet", path=str(tmp_path / "x"), num_classes=1, num_valid=1)
    pixels = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(Image.open(tmp_path / "x" / "val" / "a" / "1.jpg"))
    mean, std = (torch.tensor(each) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = ((torch.from_numpy(np.array(pixels)).float() / 255 - mean) / std).permute(2, 0, 1)
    found = evaluation_input(data, data.test.read(np.array([1])).images, 224)[0]
    one_of_255 = 1 / 255 / 0.224
    assert abs(found - expected).max() < 1.001 * one_of_255
    assert abs(found - expected).mean() < 0.1 * one_of_255


def test_orientation_is_ignored_and_large_photographs_are_decoded_smaller(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    whole = picture(0, 400, 320)
    whole.save(tmp_path / "x.jpg", quality=95, exif=exif)
    found = decoded(tmp_path / "x.jpg", SIZE)
    assert abs(found.astype(int) - _plain(whole)).max() < 8  # decoded at an eighth: 50x40
    with Image.open(tmp_path / "x.jpg") as opened:
        opened.draft("RGB", (2 * SIZE, 2 * SIZE))
        assert opened.size == (50, 40)


def _plain(whole: Image.Image) -> np.ndarray:
    width, height = whole.size
    box = ((width - height) / 2, 0, (width + height) / 2, height)
    return np.asarray(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)).astype(int)


# ------------------------------------------------------------------------------------------------- the folder


def test_classes_and_files_are_numbered_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Published

    root = tmp_path / "train"
    for name in ("n02", "n01", "N03", "ä", "10", "9", "a/deeper", "a/Above"):
        (root / name).mkdir(parents=True)
    (root / "a" / "x.JPEG").write_bytes(b"1")
    for name in ("n02", "n01", "N03", "ä", "10", "9", "a/deeper", "a/Above"):
        for file in ("b.jpg", "B.png", "note.txt", "10.webp", "9.bmp"):
            (root / name / file).write_bytes(b"12")
    ours, theirs = listed(root), Published(str(root))
    assert {name: number for number, name in enumerate(ours.classes)} == theirs.class_to_idx
    assert [(ours.name(place), int(ours.labels[place])) for place in range(len(ours))] == theirs.samples
    assert int(ours.sizes.sum()) == 2 * 8 * 4 + 1


def test_the_parts_hold_the_pictures_of_their_folders(tmp_path: Path) -> None:
    data = task(small_folder(tmp_path / "x"))
    assert data.class_names == ("B", "a", "b")
    assert (len(data.train), len(data.valid), len(data.test)) == (9, 3, 5)
    assert data.test.labels.tolist() == [1, 1, 2, 2, 2]
    assert np.bincount(np.concatenate([data.train.labels, data.valid.labels])).tolist() == [2, 4, 6]
    for images in (data.train, data.valid, data.test):
        batch = images.read(np.arange(len(images))[::-1])
        assert batch.images.shape == (len(images), 3, SIZE, SIZE)
        assert batch.rows is None
        np.testing.assert_array_equal(batch.labels, images.labels[::-1])
        listing, places = lazy(images)._pictures, lazy(images)._places
        for image, place in zip(batch.images, places[::-1]):
            expected = decoded(Path(listing.name(int(place))), SIZE)
            np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))


def test_no_picture_is_in_two_parts_and_any_leading_piece_of_training_is_mixed(tmp_path: Path) -> None:
    root = made_folder(tmp_path / "x", {"train": {"a": 30, "b": 30}, "val": {"a": 2, "b": 2}})
    data = task(root, seed=1)
    train, valid = set(lazy(data.train)._places.tolist()), set(lazy(data.valid)._places.tolist())
    assert (len(train), len(valid), len(train | valid)) == (57, 3, 60)
    assert 0 < data.train.labels[:20].sum() < 20
    assert set(lazy(task(root, seed=2).valid)._places.tolist()) != valid


@pytest.mark.parametrize(
    ("folders", "fields", "valid", "test"),
    [
        ([], {}, None, "val"),
        (["test"], {}, "val", "test"),
        (["dev"], {"valid_folder": "dev"}, "dev", "val"),
        (["test"], {"valid_folder": "test"}, "test", "val"),
        (["test"], {"test_folder": "val"}, None, "val"),
        (["test", "dev"], {"valid_folder": "dev"}, "dev", "test"),
    ],
)
def test_which_folder_is_the_test_set(
    folders: list[str], fields: dict[str, str], valid: str | None, test: str, tmp_path: Path
) -> None:
    root = small_folder(tmp_path / "x", **{name: {"a": 1, "b": 1} for name in folders})
    data = task(root, **fields)
    roots = [Path(lazy(part)._pictures.name(0)).parent.parent.name for part in (data.train, data.valid, data.test)]
    assert roots == ["train", valid or "train", test]


def test_a_test_folder_without_labels_is_none(tmp_path: Path) -> None:
    """As ImageNet's: its pictures lie in the folder itself."""
    root = small_folder(tmp_path / "x")
    (root / "test").mkdir()
    picture(0).save(root / "test" / "0.png")
    assert len(task(root).test) == 5


def test_missing_and_unfitting_folders_are_told(tmp_path: Path) -> None:
    root = small_folder(tmp_path / "x")
    with pytest.raises(ValueError, match=r"is not part of this package: give data\.path="):
        load_data("imagenet")
    with pytest.raises(ValueError, match=r"has no folder 'train': give data\.path="):
        task(tmp_path)
    with pytest.raises(ValueError, match=r"no folder 'dev' .*data\.test_folder="):
        task(root, test_folder="dev")
    with pytest.raises(ValueError, match="'train' serves for another part"):
        task(root, valid_folder="train")
    with pytest.raises(ValueError, match="has 3 class folders, num_classes is 1000"):
        load_data("imagenet", path=str(root))
    with pytest.raises(ValueError, match=r"in_channels must be one of \[1, 3\], found 4"):
        task(root, in_channels=4)
    (root / "val" / "c").mkdir()
    with pytest.raises(ValueError, match=r"val.c: no image in the folder of this class"):
        task(root)
    picture(0).save(root / "val" / "c" / "x.png")
    with pytest.raises(ValueError, match=r"1 class folders are not in .*train, the first is 'c'"):
        task(root)


def test_validation_pictures_that_were_not_sorted_are_told(tmp_path: Path) -> None:
    root = made_folder(tmp_path / "x", {"train": {"a": 3}})
    (root / "val").mkdir()
    for index in range(2):
        picture(index).save(root / "val" / f"ILSVRC2012_val_0000000{index}.JPEG")
    with pytest.raises(ValueError, match="a folder for each class was expected, found 2 images and no folder; sort"):
        task(root)


def test_a_space_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"num_classes 3, space .* has 10; set space\.num_classes=3"):
        check_data_fits(load_space("mobilenet_v3_tiny", in_channels=3), task(small_folder(tmp_path / "x")))


def test_a_list_of_files_is_made_once_and_again_when_a_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = []
    scan = nas.data.listing._scanned
    monkeypatch.setattr(nas.data.listing, "_scanned", lambda root: scans.append(root.name) or scan(root))
    root = small_folder(tmp_path / "x")
    first, second = task(root), task(root)
    assert scans == ["train", "val"]
    assert first.digest == second.digest
    picture(99).save(root / "train" / "a" / "new.png")
    assert len(task(root).train) == len(first.train) + 1
    assert scans == ["train", "val", "train"]
    for kept in (tmp_path / "home" / "lists").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    task(root)
    assert scans == ["train", "val", "train", "train", "val"]


def test_a_list_that_cannot_be_kept_is_told_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="the list of images cannot be kept"):
        assert len(task(small_folder(tmp_path / "x")).test) == 5


def test_the_digest_sees_names_sizes_labels_split_and_stored_size_but_not_where_the_folder_is(tmp_path: Path) -> None:
    root = small_folder(tmp_path / "x")
    before = task(root).digest
    os.rename(root, tmp_path / "y")
    root = tmp_path / "y"
    assert task(root).digest == before
    others = {before, task(root, seed=1).digest, load_data("image_folder", path=str(root), num_valid=3).digest}
    assert len(others) == 3
    os.rename(root / "train" / "a" / "0.png", root / "train" / "a" / "0_.png")
    assert len(others | {task(root).digest}) == 4


# ------------------------------------------------------------------------------------------------- reading


@pytest.fixture
def with_damage(tmp_path: Path) -> Path:
    """One class with 24 pictures, 12 of which cannot be decoded, and one that is whole."""
    root = made_folder(tmp_path / "x", {"train": {"a": 24, "b": 2}, "dev": {"a": 1}, "val": {"a": 1}})
    for index in range(12):
        path = root / "train" / "a" / f"{2 * index}.png"
        path.write_bytes(path.read_bytes()[:200] if index else b"no picture")
    return root


def test_pictures_that_cannot_be_read_are_named_counted_and_left_out(with_damage: Path) -> None:
    data = task(with_damage, valid_folder="dev", memory_gb=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = data.train.read(np.arange(26))
        again = data.train.read(np.arange(26))
    texts = [str(each.message) for each in caught]
    assert len(texts) == NUM_NAMED + 1
    assert len(set(texts)) == len(texts)
    for text in texts[:NUM_NAMED]:
        assert "train/a/" in text
        assert "cannot be read and is left out" in text
    assert texts[-1] == "10 images of data 'image_folder', train cannot be read and are left out, so far"
    assert len(lazy(data.train).unreadable) == 12
    places = lazy(data.train)._places
    whole = [row for row, place in enumerate(places) if "/b/" in (name := lazy(data.train)._pictures.name(int(place)))
             or int(Path(name).stem) % 2]  # fmt: skip
    assert batch.rows is not None
    assert batch.rows.tolist() == again.rows.tolist() == whole  # type: ignore[union-attr]
    assert len(batch.images) == len(batch.labels) == 14
    np.testing.assert_array_equal(batch.places(np.arange(100, 126)), 100 + batch.rows)
    np.testing.assert_array_equal(batch.labels, data.train.labels[batch.rows])


def test_training_and_evaluation_go_on_without_them(with_damage: Path) -> None:
    data = task(with_damage, valid_folder="dev", augmentation={"flip": 0.5, "crop_area": [0.3, 1.0]})
    with pytest.warns(UserWarning, match="left out"):
        batch = data.train.read(np.arange(26))
    rows = batch.places(np.arange(26))
    x_BCHW = training_input(data, batch.images, 12, seed=(0,), rows=rows, num=26)
    assert x_BCHW.shape == evaluation_input(data, batch.images, 12).shape == (14, 3, 12, 12)
    empty = batch.images[:0]
    assert training_input(data, empty, SIZE, seed=(0,), rows=rows[:0], num=26).shape == (0, 3, SIZE, SIZE)


def test_a_network_trains_on_what_can_be_read(with_damage: Path) -> None:
    """12 of 26 images are damaged, so some of 6 batches of 8 are short."""
    data = task(with_damage, valid_folder="dev")
    network = nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), nn.Linear(3, 2))
    recipe = Recipe(num_steps=6, batch_size=8, learning_rate=0.01, accelerator="cpu", log_steps=0)
    with pytest.warns(UserWarning, match="left out"):
        trained = train_network(network, data, recipe, size=12, progress=False)
    assert not torch.equal(trained[2].weight, network[2].weight)  # type: ignore[index,union-attr]


def test_a_folder_that_is_gone_stops_the_reading(tmp_path: Path) -> None:
    root = small_folder(tmp_path / "x")
    data = task(root)
    os.rename(root, tmp_path / "y")
    with pytest.raises(ValueError, match="the folder of the images is gone"):
        data.train.read(np.arange(2))


def test_pictures_stay_in_memory_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes 3 * 16 * 16 = 768 bytes: 3 of the search 2,304, 9 of training 6,912, together 9,216."""
    root = small_folder(tmp_path / "x")
    for memory_bytes, processes, kept in (
        (9216, "1", [True, True]), (9215, "1", [True, False]), (2303, "1", [False, False]), (9216, "2", [True, False]),
        (6912, "1", [True, False]),
    ):  # fmt: skip
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        data = task(root, memory_gb=memory_bytes / 1e9)
        assert [lazy(part)._kept is not None for part in (data.valid, data.train)] == kept
        assert lazy(data.test)._kept is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    data = task(root)
    first = data.train.read(np.array([3, 1, 3]))
    for path in (root / "train").glob("*/*"):
        path.unlink()
    second = data.train.read(np.array([3, 1, 3]))
    np.testing.assert_array_equal(first.images, second.images)
    assert second.rows is None
    with pytest.warns(UserWarning, match="cannot be read"):
        mixed = data.train.read(np.array([0, 1, 2, 3]))
    assert mixed.places(np.arange(4)).tolist() == [1, 3]
    np.testing.assert_array_equal(mixed.images[1], first.images[0])


def test_evaluation_looks_at_the_middle_at_any_size(tmp_path: Path) -> None:
    data = ImageFolder(
        path=str(small_folder(tmp_path / "x")), stored_size=SIZE, evaluation_crop=0.75, num_valid=3
    ).load()
    images = data.test.read(np.arange(2)).images
    x_BCHW = evaluation_input(data, images, 12)
    mean, std = (torch.tensor(each)[:, None, None] for each in (data.normalisation.mean, data.normalisation.std))
    expected = (torch.from_numpy(images[:, :, 2:14, 2:14]).float() / 255 - mean) / std
    torch.testing.assert_close(x_BCHW, expected)
    assert evaluation_input(data, images, 20).shape == (2, 3, 20, 20)
    assert data.augmentation == Augmentation()
