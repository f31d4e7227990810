"""The command that compares two sources of accuracy: `python -m nas.rank accuracy=supernet against=alone`."""

from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from nas.cli import plain_mapping, reported_errors, run_command


@dataclass
class RankConfig:
    """Keys and types of the top level; see configs/rank.yaml."""

    space: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    training: dict[str, Any] = MISSING
    accuracy: dict[str, Any] = MISSING
    against: dict[str, Any] = MISSING
    baselines: list[str] = field(default_factory=lambda: ["macs", "params"])
    num_archs: int = 20
    seed: int = 0
    num_resamples: int = 2000
    run_dir: str | None = None


ConfigStore.instance().store(name="rank_schema", node=RankConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="rank")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.ranking import rank_from_mapping

        rank_from_mapping(plain_mapping(config))


if __name__ == "__main__":
    run_command(main)
