"""The command that holds strategies against each other: `python -m nas.compare hw=mobile_gpu`.

This module stays light, so that `--help` is quick; `nas.compare.job` does the work.
"""

from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from nas.cli import plain_mapping, reported_errors, run_command
from nas.search import DeployConfig, checked_command, prepared


@dataclass
class CompareConfig:
    """Keys and types of the top level; see configs/compare.yaml."""

    hw: dict[str, Any] | None = None
    runtime: dict[str, Any] | None = None
    space: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    training: dict[str, Any] = MISSING
    accuracy: dict[str, Any] = MISSING
    sampler: dict[str, Any] = MISSING
    yardstick: dict[str, Any] | None = None
    deploy: DeployConfig = field(default_factory=DeployConfig)
    constraints: dict[str, Any] = field(default_factory=dict)
    hard_constraints: bool = True
    strategies: list[str] = field(default_factory=list)
    baseline: str = "flops_only"
    num_trials: int = 200
    num_seeds: int = 10
    seed: int = 0
    jobs: int = 1
    sweep: bool = True
    run_dir: str | None = None


ConfigStore.instance().store(name="compare_schema", node=CompareConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="compare")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.compare.job import compare_from_mapping

        compare_from_mapping(plain_mapping(config), command=checked_command("nas.compare"))


if __name__ == "__main__":
    run_command(main, prepared=prepared)
