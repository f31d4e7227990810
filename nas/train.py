"""The command that trains a supernet, or goes on where training stopped: `python -m nas.train data=digits`."""

from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from nas.cli import plain_mapping, reported_errors, run_command


@dataclass
class TrainConfig:
    """Keys and types of the top level; see configs/train.yaml."""

    space: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    training: dict[str, Any] = MISSING


ConfigStore.instance().store(name="train_schema", node=TrainConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="train")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.job import train_from_mapping

        train_from_mapping(plain_mapping(config))


if __name__ == "__main__":
    run_command(main)
