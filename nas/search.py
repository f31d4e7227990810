"""The command of the main job: `python -m nas.search hw=mobile_gpu`.

This module stays light, so that `--help` is quick; `nas.job` does the work.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

from nas.cli import plain_mapping, reported_errors, run_command


@dataclass
class DeployConfig:
    """See configs/search.yaml."""

    resolution: int | None = 224
    batch: int = 1
    dtype: str | None = None


@dataclass
class SearchConfig:
    """Keys and types of the top level. Groups are plain mappings, validated by what is built from them."""

    hw: dict[str, Any] | None = None
    runtime: dict[str, Any] | None = None
    space: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    training: dict[str, Any] = MISSING
    accuracy: dict[str, Any] = MISSING
    objectives: dict[str, Any] = MISSING
    sampler: dict[str, Any] = MISSING
    storage: dict[str, Any] = MISSING
    deploy: DeployConfig = field(default_factory=DeployConfig)
    constraints: dict[str, Any] = field(default_factory=dict)
    hard_constraints: bool = True
    num_trials: int = 200
    num_workers: int = 1
    warm_start: list[str] = field(default_factory=list)
    seed: int = 0
    study_name: str | None = None
    run_dir: str | None = None


_OF_A_DEVICE = re.compile(r"constraints\.[^.=]+\.[^.=]+=")

ConfigStore.instance().store(name="search_schema", node=SearchConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="search")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.job import search_from_mapping

        search_from_mapping(plain_mapping(config), command=checked_command("nas.search"))


def checked_command(module: str) -> str:
    """What the user typed, once the device and the space that Hydra chose are what their names say.

    Raises:
        ValueError: no device was chosen, or one of the user's own hides behind the name of a shipped one.
    """
    from nas.job import check_device_name
    from search_spaces.loading import check_space_name

    chosen = HydraConfig.get()
    check_device_name(chosen.runtime.choices["hw"])
    check_space_name(str(chosen.runtime.choices["space"]))
    return f"python -m {module} {shlex.join(chosen.overrides.task)}"


def prepared(arguments: Sequence[str]) -> list[str]:
    """What Hydra gets of a command line: no password, and bounds on other devices as the keys that they add.

    >>> prepared(["hw=v100", "constraints.mobile_cpu.latency_ms=30", "constraints.latency_ms=5"])
    ['hw=v100', '++constraints.mobile_cpu.latency_ms=30', 'constraints.latency_ms=5']

    Raises:
        ValueError: a command line that must not be saved with the results, or a storage that is no URL.
    """
    found = list(arguments)
    if any("storage" in argument and "://" in argument for argument in found):
        from nas.storage import check_no_password, rewritten_overrides

        check_no_password(found)
        found, environment = rewritten_overrides(found)
        os.environ.update(environment)
    return [f"++{argument}" if _OF_A_DEVICE.match(argument) else argument for argument in found]


if __name__ == "__main__":
    run_command(main, prepared=prepared)
