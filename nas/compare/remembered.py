"""An accuracy that is asked once for each network: kept on disk, shared by strategies, seeds, devices and processes."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from nas.files import one_at_a_time
from predictors.json_lines import append_records
from search_spaces.space import Arch, Space

_Key = tuple[int, ...]


class RememberedAccuracy:
    """An accuracy whose answers are written down, and read before it is asked; picklable where it is.

    Several processes may use one file. What two of them asked at once has the answer that was written first, for both,
    so that a comparison does not depend on who was faster.

    Args:
        accuracy: of networks of the space. What it raises is not remembered.
        path: of this accuracy's answers alone: JSON Lines, an arch and its accuracy in each.

    Raises:
        ValueError: the file has a line that is not of this space; it is named.
    """

    def __init__(self, accuracy: Callable[[Arch], float], space: Space, path: Path) -> None:
        self.accuracy, self.space, self.path = accuracy, space, path.absolute()
        self._known: dict[_Key, float] = {}
        self._num_bytes = self._num_lines = 0
        with self._alone():
            self._read()

    def __call__(self, arch: Mapping[str, int]) -> float:
        key = self._key(arch)
        if key not in self._known:
            with self._alone():
                self._read()  # another process may have asked
        if key not in self._known:
            value = float(self.accuracy(dict(arch)))
            with self._alone():
                self._read()
                if key not in self._known:
                    append_records(self.path, [{"arch": dict(zip(self.space.choices, key)), "accuracy": value}])
                    self._read()
        return self._known[key]

    def __len__(self) -> int:
        """Networks whose accuracy is known."""
        return len(self._known)

    # -------------------------------------------------------------------------------------------------------- private

    def _key(self, arch: Mapping[str, int]) -> _Key:
        return tuple(self.space.canonical(arch).values())

    def _alone(self) -> AbstractContextManager[None]:
        return one_at_a_time(self.path.with_name(f".{self.path.name}.lock"))

    def _read(self) -> None:
        """Whole lines that have come since. One that was torn by a kill is cut off by whoever writes next."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._num_bytes)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._num_lines += 1
            try:
                record = json.loads(line)
                key, value = self._key(record["arch"]), float(record["accuracy"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                where = f"{self.path}:{self._num_lines}"
                raise ValueError(f"{where}: no accuracy of a network of space {self.space.name!r}: {error}") from None
            self._known.setdefault(key, value)
        self._num_bytes += len(whole)
