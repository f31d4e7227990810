import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cifar_files import archive, binary_records, python2_pickle, unpacked

import nas.data.cifar
from nas.data import load_data
from nas.data.cifar import CIFAR10, CIFAR100, Cifar10, Cifar100, Layout, read_cifar
from nas.data.plain_pickle import read_plain_pickle

NUM = 20
NAMES10 = tuple(f"class{index}" for index in range(10))
FINE, COARSE = tuple(f"fine{index}" for index in range(100)), tuple(f"coarse{index}" for index in range(20))


def small(layout: Layout) -> Layout:
    return replace(layout, num_images=dict.fromkeys(layout.num_images, NUM))


SMALL10, SMALL100 = tuple(map(small, CIFAR10)), tuple(map(small, CIFAR100))


def images(seed: int, num: int = NUM) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, 3, 32, 32), dtype=np.uint8)


def labels(num_classes: int, num: int = NUM) -> np.ndarray:
    return np.arange(num) * 7 % num_classes


def content10(layout: Layout) -> dict[str, bytes]:
    """Every file of CIFAR-10 as published, with 20 images each; those of the n-th file have the seed n."""
    found = {}
    for seed, name in enumerate((*layout.train_files, layout.test_file)):
        if layout.is_pickled:
            batch = {
                b"batch_label": b"training batch 1 of 5",
                b"labels": labels(10).tolist(),
                b"data": images(seed).reshape(NUM, -1),
                b"filenames": [b"a_%d.png" % index for index in range(NUM)],
            }
            found[name] = python2_pickle(batch)
        else:
            found[name] = binary_records(images(seed), labels(10))
    if layout.is_pickled:
        meta = {b"num_cases_per_batch": NUM, b"label_names": [name.encode() for name in NAMES10], b"num_vis": 3072}
        return found | {"batches.meta": python2_pickle(meta), "readme.html": b"<html>"}
    return found | {"batches.meta.txt": ("\n".join(NAMES10) + "\n\n").encode(), "readme.html": b"<html>"}


def content100(layout: Layout) -> dict[str, bytes]:
    found = {}
    for seed, name in enumerate((*layout.train_files, layout.test_file)):
        if layout.is_pickled:
            batch = {
                b"filenames": [b"a.png"] * NUM,
                b"batch_label": b"training batch 1 of 1",
                b"fine_labels": labels(100).tolist(),
                b"coarse_labels": labels(4).tolist(),
                b"data": images(seed).reshape(NUM, -1),
            }
            found[name] = python2_pickle(batch)
        else:
            found[name] = binary_records(images(seed), labels(4), labels(100))
    if layout.is_pickled:
        meta = {
            b"fine_label_names": [name.encode() for name in FINE],
            b"coarse_label_names": [n.encode() for n in COARSE],
        }
        return found | {"meta": python2_pickle(meta)}
    return found | {
        "fine_label_names.txt": "\n".join(FINE).encode(), "coarse_label_names.txt": "\n".join(COARSE).encode(),
    }  # fmt: skip


@pytest.mark.parametrize("layout", SMALL10, ids=["binary", "python"])
@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "folder"])
def test_cifar10_is_read_from_archive_and_folder_of_both_versions(
    layout: Layout, is_archive: bool, tmp_path: Path
) -> None:
    files = content10(layout)
    path = (
        archive(tmp_path / layout.archive.file, layout.archive.folder, files)
        if is_archive
        else unpacked(tmp_path / layout.archive.folder, files)
    )
    cifar = read_cifar(path, layout, "labels")
    np.testing.assert_array_equal(cifar.train.images, np.concatenate([images(seed) for seed in range(5)]))
    np.testing.assert_array_equal(cifar.train.labels, np.tile(labels(10), 5))
    np.testing.assert_array_equal(cifar.test.images, images(5))
    assert cifar.class_names == NAMES10


@pytest.mark.parametrize("layout", SMALL100, ids=["binary", "python"])
def test_cifar100_has_fine_and_coarse_labels(layout: Layout, tmp_path: Path) -> None:
    path = archive(tmp_path / layout.archive.file, layout.archive.folder, content100(layout))
    fine, coarse = (read_cifar(path, layout, kind) for kind in ("fine_labels", "coarse_labels"))
    np.testing.assert_array_equal(fine.train.labels, labels(100))
    np.testing.assert_array_equal(coarse.test.labels, labels(4))
    np.testing.assert_array_equal(fine.test.images, images(1))
    assert (fine.class_names, coarse.class_names) == (FINE, COARSE)


def test_the_published_numbers_of_images_are_expected() -> None:
    assert {num for layout in CIFAR10 for num in layout.num_images.values()} == {10_000}
    for layout in CIFAR100:
        assert [layout.num_images[name] for name in (*layout.train_files, layout.test_file)] == [50_000, 10_000]


def test_at_full_size_validation_images_are_training_images_and_test_images_are_never_in_sight(tmp_path: Path) -> None:
    """Every image carries its number in its first pixels: 0..49,999 for training, 50,000..59,999 for the test."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES10))
    records = np.zeros((10_000, 3073), np.uint8)
    for index, name in enumerate((*CIFAR10[0].train_files, "test_batch.bin")):
        numbers = np.arange(index * 10_000, (index + 1) * 10_000)
        records[:, 0] = numbers % 10
        records[:, 1], records[:, 2] = numbers // 256, numbers % 256
        records.tofile(folder / name)
    data = load_data("cifar10", path=str(tmp_path))
    train, valid, test = (
        part.images[:, 0, 0, 0].astype(int) * 256 + part.images[:, 0, 0, 1]
        for part in (data.train, data.valid, data.test)
    )
    assert sorted(np.concatenate([train, valid])) == list(range(50_000))
    assert sorted(test) == list(range(50_000, 60_000))
    assert np.bincount(data.valid.labels).tolist() == [500] * 10
    np.testing.assert_array_equal(data.train.labels, train % 10)
    assert np.bincount(data.train.labels[:1000]).min() > 60  # any leading piece has all classes
    assert data.class_names == NAMES10


def test_either_archive_is_found_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.data.cifar, "CIFAR100", SMALL100)
    archive(tmp_path / "cifar-100-python.tar.gz", "cifar-100-python", content100(SMALL100[1]))
    for path in (tmp_path, tmp_path / "cifar-100-python.tar.gz"):
        data = Cifar100(path=str(path), num_valid=3, coarse=True).load()
        assert (data.num_classes, len(data.train), len(data.valid), len(data.test)) == (20, 17, 3, 20)


def test_both_versions_give_the_same_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.data.cifar, "CIFAR10", SMALL10)
    digests = set()
    for layout in SMALL10:
        path = archive(tmp_path / layout.archive.file, layout.archive.folder, content10(layout))
        digests.add(Cifar10(path=str(path), num_valid=None).load().digest)
    assert len(digests) == 1


def test_what_is_missing_is_said_with_where_it_is_published(tmp_path: Path) -> None:
    for path, state in ((None, "is not part of this package"), (tmp_path, "holds none"), (tmp_path / "x", "not exist")):
        with pytest.raises(ValueError, match=rf"{state}.*cifar-10-binary\.tar\.gz.*cs\.toronto\.edu.*data\.path="):
            load_data("cifar10", path=None if path is None else str(path))


@pytest.mark.parametrize("layout", SMALL10, ids=["binary", "python"])
def test_a_truncated_archive_is_named(layout: Layout, tmp_path: Path) -> None:
    path = archive(tmp_path / layout.archive.file, layout.archive.folder, content10(layout))
    whole = path.read_bytes()
    for num_bytes in (len(whole) // 2, len(whole) * 9 // 10, 5):
        path.write_bytes(whole[:num_bytes])
        with pytest.raises(ValueError, match=rf"{layout.archive.file}: the archive is truncated.*{layout.archive.md5}"):
            read_cifar(path, layout, "labels")


def test_files_that_are_missing_or_of_another_size_are_named(tmp_path: Path) -> None:
    layout = SMALL10[0]
    files = content10(layout)
    folder = unpacked(tmp_path / "short", files | {"data_batch_3.bin": files["data_batch_3.bin"][:-1]})
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: 20 records of 3073 bytes .*61460 together, found 61459"):
        read_cifar(folder, layout, "labels")
    del files["test_batch.bin"]
    with pytest.raises(ValueError, match=r"'test_batch\.bin' is missing"):
        read_cifar(unpacked(tmp_path / "fewer", files), layout, "labels")
    with pytest.raises(ValueError, match=r"'test_batch\.bin' is missing"):
        read_cifar(archive(tmp_path / layout.archive.file, layout.archive.folder, files), layout, "labels")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": images(0).reshape(NUM, 3, -1)}, r"data must be uint8 of shape \(20, 3072\), found uint8 of shape"),
        ({b"data": [1, 2]}, "data must be uint8 of shape .*, found list"),
        ({b"labels": labels(10).tolist()[1:]}, "labels must be a list of 20 integers"),
        ({b"labels": [10] * NUM}, "label 10 is found, batches.meta names 10 classes"),
        ({b"labels": [-1] * NUM}, "labels has the negative label -1"),
    ],
)
def test_a_pickle_of_another_layout_is_refused(change: dict[bytes, object], message: str, tmp_path: Path) -> None:
    layout = SMALL10[1]
    batch = {b"labels": labels(10).tolist(), b"data": images(0).reshape(NUM, -1)}
    files = content10(layout) | {"data_batch_2": python2_pickle(batch | change)}
    with pytest.raises(ValueError, match=f"data_batch_2: {message}"):
        read_cifar(unpacked(tmp_path / "x", files), layout, "labels")


def test_a_pickle_with_code_in_it_is_refused_by_name_and_the_code_does_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {touched}",)

    layout = SMALL10[1]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        bad = pickle.dumps({"labels": labels(10).tolist(), "data": Malicious()}, protocol)
        folder = unpacked(tmp_path / f"protocol{protocol}", content10(layout) | {"data_batch_4": bad})
        with pytest.raises(ValueError, match=r"data_batch_4: the pickle asks for '(posix|nt)\.system'.*was not read"):
            read_cifar(folder, layout, "labels")
    assert not touched.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x0a__import__\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__reduce\x93.",
        b"(S'ls'\nios\nsystem\n.",
    ],
)
def test_no_other_name_is_ever_looked_up(code: bytes) -> None:
    with pytest.raises(ValueError, match=r"the pickle asks for .*allowed are .*'numpy\.dtype'"):
        read_plain_pickle(io.BytesIO(code), "file")


@pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"no pickle", b"\x80\x02K\x01R."])
def test_a_damaged_pickle_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^file: damaged, or no pickle"):
        read_plain_pickle(io.BytesIO(content), "file")


def test_an_archive_is_read_from_its_own_folder_only(tmp_path: Path) -> None:
    """A member of the right name elsewhere in the archive, or a link, is not taken for the file."""
    path = tmp_path / "cifar-10-binary.tar.gz"
    layout = SMALL10[0]
    files = content10(layout)
    files.pop("test_batch.bin")
    archive(path, layout.archive.folder, files)
    with tarfile.open(path) as opened:
        members = [(member, opened.extractfile(member).read()) for member in opened]  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as opened:
        for member, content in members:
            opened.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{layout.archive.folder}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(link)
        opened.addfile(tarfile.TarInfo("elsewhere/test_batch.bin"), io.BytesIO(b""))
    with pytest.raises(ValueError, match=r"'test_batch\.bin' is missing"):
        read_cifar(path, layout, "labels")
