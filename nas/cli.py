"""The edge that all Hydra commands share: where configs are found, and how errors reach a person.

A user's mistake is one sentence on stderr and exit code 2; a full disk is a sentence and exit code 1, and the same
command goes on later; so are evaluations that fail one after the other, with the first traceback; Ctrl-C is exit code
130; anything else is ours, with its traceback. `HYDRA_FULL_ERROR=1` shows tracebacks of all.
"""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from traceback import print_exception
from types import TracebackType
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nas.errors import TooManyFailuresError
from predictors.paths import home, shipped

SPEAKING_PACKAGES = frozenset({"nas", "predictors", "search_spaces", "hydra", "omegaconf"})
"""Those whose ValueErrors are sentences for a person; a ValueError of any other package is a bug of ours."""

DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
}
_WITH_TRACEBACKS = os.environ.setdefault("RIDGELINE_TRACEBACKS", os.environ.get("HYDRA_FULL_ERROR", "0")) == "1"
"""What the user asked: `run_command` sets Hydra's variable for itself, and jobs that launchers start inherit it."""


class UserFolders(SearchPathPlugin):
    """Puts the working folder and the user's folder on Hydra's search path, so that `hw=my_phone` finds their `hw/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for provider, folder in (("working folder", Path.cwd()), ("user's folder", home())):
            if folder.is_dir():
                search_path.append(provider, f"{UserFolder.scheme()}://{folder.resolve()}")


class UserFolder(FileConfigSource):
    """A folder of which only those subfolders count that have the name of a config group; others may hold anything."""

    @staticmethod
    def scheme() -> str:
        return "user"

    def is_group(self, config_path: str) -> bool:
        """A folder `run` beside the command is no group, or `run=FOLDER` would choose of it."""
        return super().is_group(config_path) and (not config_path or shipped(config_path).is_dir())

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found = super().list(config_path, results_filter)
        return found if config_path else [name for name in found if shipped(name).is_dir()]


def run_command(main: Callable[[], None], prepared: Callable[[Sequence[str]], list[str]] | None = None) -> None:
    """Run a function made by `hydra.main` and leave the process with the exit code that the module documents.

    `prepared` gets the arguments and returns those that Hydra sees, or refuses them with a ValueError.
    """
    for plugin in (UserFolders, UserFolder):
        Plugins.instance().register(plugin)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    with reported_errors():
        if prepared is not None:
            sys.argv[1:] = prepared(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"
        main()


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn errors that a person can do something about into a sentence and an exit code.

    It stands around what Hydra runs as well as around Hydra, which would print the overrides before the sentence.

    Raises:
        SystemExit: with the code 2, 1 or 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on from here", 130)
    except (HydraException, OmegaConfBaseException) as error:
        _leave(hydra_sentence(error), 2, error)
    except ValueError as error:
        if not is_for_users(error.__traceback__):
            raise
        _leave(str(error), 2, error)
    except TooManyFailuresError as error:
        print(error.first, file=sys.stderr)
        _leave(f"{error.num} evaluations in a row failed, the first as above; the same command goes on from there", 1)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _leave(f"{DISK_ERRORS[error.errno]}{where}; what is finished is kept: the same command goes on later", 1, error)


def plain_mapping(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain data, its interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def hydra_sentence(error: Exception) -> str:
    """One sentence for what Hydra and OmegaConf say in several lines, with what exists where they do not list it."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"unknown {group} {name!r}; there are {sorted(error.options)}{_hint(name, error.options)}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    key, parent = getattr(cause, "key", None), getattr(cause, "parent_node", None)
    if isinstance(parent, DictConfig) and key is not None and key not in parent:
        known = [str(each) for each in parent if each != "hydra"]
        place = str(getattr(cause, "full_key", "")).rpartition(".")[0]
        where = f" in {place}" if place else ""
        return f"unknown key {str(key)!r}{where}; there are {known}{_hint(str(key), known)}"
    text = f"{error}\n{str(cause).splitlines()[0]}" if cause is not error and str(cause or "") else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ended = [f"{line}." if after[0].isupper() and line[-1] not in ".:;," else line for line, after in pairwise(lines)]
    return " ".join([*ended, *lines[-1:]])


# ------------------------------------------------------------------------------------------------------------ private


def _hint(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_for_users(traceback: TracebackType | None) -> bool:
    """Whether the error was raised in one of the packages that speak to users."""
    assert traceback is not None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0] in SPEAKING_PACKAGES


def _leave(sentence: str, code: int, error: Exception | None = None) -> None:
    sys.stdout.flush()
    if error is not None and _WITH_TRACEBACKS:
        print_exception(error)
    print(f"error: {sentence}" if code != 130 else sentence, file=sys.stderr)
    raise SystemExit(code) from error
