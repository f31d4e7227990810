"""The command that measures a search's front: `python -m nas.verify run=outputs/...`.

This module stays light, so that `--help` is quick; `nas.verifying` does the work.
"""

from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from nas.cli import plain_mapping, reported_errors, run_command


@dataclass
class VerifyConfig:
    """Keys and types of the top level; see configs/verify.yaml."""

    run: str | None = None
    hw: dict[str, Any] | None = None
    runtime: dict[str, Any] | None = None
    num_networks: int | None = None
    measured: str | None = None
    models: str | None = None
    here: bool = False
    threads: int | None = None
    budget_s: float = 600.0
    precision: float = 0.01
    passes: int = 2
    again: bool = False
    recalibrate: bool = True
    save_as: str | None = None


ConfigStore.instance().store(name="verify_schema", node=VerifyConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="verify")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.verifying import verify_from_mapping

        verify_from_mapping(plain_mapping(config))


if __name__ == "__main__":
    run_command(main)
