"""The files of a data set, from its published archive or from the folder that unpacking it makes."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What is published.

    Args:
        file: name of the archive.
        md5: its published checksum.
        folder: the folder in it that holds all files.
    """

    file: str
    md5: str
    folder: str


def published_files(path: Path, archive: Archive, names: tuple[str, ...]) -> dict[str, bytes]:
    """The content of the named files; nothing is unpacked to disk.

    Args:
        path: the archive, or the folder that it holds.

    Raises:
        ValueError: the archive is truncated or damaged, or a file is missing from it or from the folder.
    """
    if path.is_dir():
        missing = [name for name in names if not (path / name).is_file()]
        found = {name: (path / name).read_bytes() for name in names if name not in missing}
    else:
        with _damage_named(path, archive):
            found = dict(_members(path, archive, names))
        missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: {missing[0]!r} is missing; {archive.file} holds {[*names]} in {archive.folder}/")
    return found


def locate(path: Path, archives: tuple[Archive, ...]) -> tuple[Path, Archive] | None:
    """Where one of the archives is: the path is the archive, its unpacked folder, or a folder that holds either.

    Archives may have been renamed if their own name is still part of the file's, as in `cifar-10-binary (1).tar.gz`.
    """
    for archive in archives:
        stem = archive.file.removesuffix(".tar.gz")
        if path.is_file() and path.name.startswith(stem):
            return path, archive
        if path.is_dir() and path.resolve().name == archive.folder:
            return path, archive
    for archive in archives:
        for inside in (path / archive.folder, path / archive.file):
            if inside.exists():
                return inside, archive
    return None


# ------------------------------------------------------------------------------------------------------------ private


def _members(path: Path, archive: Archive, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    # Through gzip itself, which tells a truncated file from one that ends; tarfile takes some for complete.
    with gzip.open(path) as decompressed, tarfile.open(fileobj=decompressed, mode="r|") as opened:
        for member in opened:
            folder, _, name = member.name.removeprefix("./").partition("/")
            if folder == archive.folder and name in names and member.isfile():
                file = opened.extractfile(member)
                assert file is not None
                content = file.read()
                if len(content) != member.size:
                    raise EOFError(f"{member.name} ends after {len(content)} of {member.size} bytes")
                yield name, content


@contextmanager
def _damage_named(path: Path, archive: Archive) -> Iterator[None]:
    try:
        yield
    except (EOFError, tarfile.TarError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise ValueError(
            f"{path}: the archive is truncated or damaged ({error}); it has {path.stat().st_size} bytes; the published "
            f"{archive.file} has the MD5 {archive.md5}"
        ) from None
