import importlib
import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from nas.data import ImageData, load_data
from nas.data.huggingface import HuggingFace
from nas.data.lazy import LazyImages

SIZE = 8
NAMES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8).transpose(2, 0, 1)


def split(first_seed: int, num: int, label: object = None, image: str = "image") -> datasets.Dataset:
    label = datasets.ClassLabel(names=NAMES) if label is None else label
    labels: list[object] = [index % 2 for index in range(num)]
    if label == datasets.Value("string"):
        labels = [NAMES[1 - index % 2] for index in range(num)]
    features = datasets.Features({image: datasets.Image(), "label": label, "other": datasets.Value("int64")})
    images = [{"bytes": encoded(first_seed + index), "path": None} for index in range(num)]
    return datasets.Dataset.from_dict({image: images, "label": labels, "other": list(range(num))}, features=features)


def saved(path: Path, **fields: object) -> Path:
    splits = {"train": split(0, 12, **fields), "test": split(100, 4, **fields)}  # type: ignore[arg-type]
    datasets.DatasetDict(splits).save_to_disk(str(path))
    return path


def task(folder: Path, **fields: object) -> ImageData:
    return load_data("huggingface", **({"path": str(folder), "stored_size": SIZE, "num_valid": 2} | fields))


def test_a_saved_data_set_is_read_lazily_and_whole(tmp_path: Path) -> None:
    data = task(saved(tmp_path / "x"))
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.valid), len(data.test)) == (10, 2, 4)
    batch = data.test.read(np.array([2, 0]))
    np.testing.assert_array_equal(batch.images, np.stack([pixels(102), pixels(100)]))
    assert batch.labels.tolist() == [0, 0]
    assert isinstance(data.train, LazyImages)
    places = data.train._places
    assert set(places.tolist()).isdisjoint(data.valid._places.tolist())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(data.train.read(np.array([3])).images[0], pixels(int(places[3])))
    np.testing.assert_array_equal(data.train.labels, places % 2)


def test_columns_splits_and_kinds_of_labels_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", image="img", label=datasets.Value("string"))
    data = task(path, image_column="img")
    assert data.class_names == ("cat", "dog")
    assert data.test.labels.tolist() == [1, 0, 1, 0]
    data = task(saved(tmp_path / "y", label=datasets.Value("int64")))
    assert (data.class_names, data.test.labels.tolist()) == (("0", "1"), [0, 1, 0, 1])


def test_a_split_of_its_own_guides_the_search(tmp_path: Path) -> None:
    splits = {name: split(seed, 4) for name, seed in (("train", 0), ("validation", 50), ("test", 100))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "x"))
    data = task(tmp_path / "x", valid_split="validation")
    assert (len(data.train), len(data.valid), len(data.test)) == (4, 4, 4)
    images = data.valid.read(np.arange(4)).images
    assert sorted(images.sum(axis=(1, 2, 3))) == sorted(pixels(seed).sum() for seed in range(50, 54))


def test_a_selection_is_read_through_its_indices(tmp_path: Path) -> None:
    """`shuffle` and `select` keep the table and say which rows count."""
    splits = {"train": split(0, 12).select([5, 3, 8, 1, 0, 2]), "test": split(100, 4).select([3, 1])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "x"))
    data = task(tmp_path / "x")
    np.testing.assert_array_equal(data.test.read(np.arange(2)).images, np.stack([pixels(103), pixels(101)]))
    assert data.test.labels.tolist() == [1, 1]


def test_local_files_are_loaded_without_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    split(0, 12).to_parquet(str(folder / "train-0.parquet"))
    split(100, 4).to_parquet(str(folder / "test-0.parquet"))
    data = task(folder)
    np.testing.assert_array_equal(data.test.read(np.array([1])).images[0], pixels(101))


def test_the_digest_sees_sizes_and_labels_and_is_the_same_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "x")
    assert task(path).digest == task(path).digest
    other = {"train": split(1, 12), "test": split(100, 4)}
    datasets.DatasetDict(other).save_to_disk(str(tmp_path / "y"))
    relabelled = {"train": split(0, 12).map(lambda row: {"label": 1 - row["label"]}), "test": split(100, 4)}
    datasets.DatasetDict(relabelled).save_to_disk(str(tmp_path / "z"))
    assert len({task(each).digest for each in (path, tmp_path / "z")}) == 2


def test_a_damaged_image_is_named_by_its_row(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": b"no picture", "path": None}, {"bytes": encoded(1), "path": None}], "label": [0, 1]}
    splits = {"train": split(0, 12), "test": datasets.Dataset.from_dict(rows, features=features)}
    splits["train"] = splits["train"].remove_columns("other")
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "x"))
    data = task(tmp_path / "x")
    with pytest.warns(UserWarning, match=r"x: test\[0\] cannot be read and is left out"):
        assert data.test.read(np.arange(2)).places(np.arange(2)).tolist() == [1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": None}, r"give data\.path="),
        ({"test_split": "dev"}, r"no split 'dev'; it has \['test', 'train'\]; see data\.train_split"),
        ({"test_split": "train"}, "must be different"),
        ({"image_column": "picture"}, r"no column 'picture'; it has \['image', 'label', 'other'\]"),
        ({"image_column": "other"}, r"column 'other' has the type .*not Image"),
        ({"label_column": "image"}, "is no label"),
        ({"num_valid": 11}, r"11 validation images cannot be split .*allowed are 1\.\.10"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        task(path, **fields)


def test_a_name_is_looked_up_in_the_cache_only_unless_a_download_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(name: str, config: str | None) -> datasets.DatasetDict:
        asked.append((name, config, datasets.config.HF_HUB_OFFLINE))
        return datasets.DatasetDict({"train": split(0, 6), "test": split(9, 2)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for download in (False, True):
        HuggingFace(path="owner/name", config="small", download=download, num_valid=2).load()
    assert asked == [("owner/name", "small", True), ("owner/name", "small", False)]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_name_that_the_cache_lacks_is_told_with_the_way_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"'owner/nothing' cannot be loaded: .*set data\.download=true"):
        HuggingFace(path="owner/nothing").load()


def test_a_missing_library_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match=r"pip install ridgeline-nas\[huggingface\]"):
        task(tmp_path)
