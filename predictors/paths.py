"""Where device files, tables and trained supernets live: shipped ones in the package, a user's own beside them."""

import os
from importlib import resources
from pathlib import Path

import platformdirs


def home() -> Path:
    """The user's folder: `$RIDGELINE_HOME`, or the platform's user data folder. It is not made here."""
    chosen = os.environ.get("RIDGELINE_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("ridgeline"))


def shipped(group: str) -> Path:
    """Folder of a config group in the installed package, e.g. `shipped("hw")`."""
    return Path(str(resources.files("configs"))) / group


def user_folders(group: str) -> tuple[Path, ...]:
    """Folders of the user's own files of a config group, the nearest first."""
    return (Path.cwd() / group, home() / group)


def user_device_folders() -> tuple[Path, ...]:
    """Folders of the user's own devices and tables, the nearest first."""
    return user_folders("hw")
