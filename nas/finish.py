"""The command that finishes chosen subnets: `python -m nas.finish run=outputs/...`.

This module stays light, so that `--help` is quick; `nas.finishing` does the work.
"""

from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from nas.cli import plain_mapping, reported_errors, run_command


@dataclass
class FinishConfig:
    """Keys and types of the top level; see configs/finish.yaml."""

    run: str | None = None
    subnets: list[str] | None = None
    finetune: dict[str, Any] = field(default_factory=dict)
    image_size: str = "trained"
    num_calibration: int = 400
    from_scratch: bool = False


ConfigStore.instance().store(name="finish_schema", node=FinishConfig)


@hydra.main(version_base="1.3", config_path="pkg://configs", config_name="finish")
def main(config: DictConfig) -> None:
    with reported_errors():
        from nas.finishing import finish_from_mapping

        finish_from_mapping(plain_mapping(config))


if __name__ == "__main__":
    run_command(main)
