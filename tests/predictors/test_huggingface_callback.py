"""Predicted costs in Hugging Face's Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from predictors.training import huggingface_callback, predicted_costs

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
torch.set_num_threads(1)

X = {"x": torch.zeros(1, 16)}


class Net(nn.Module):
    """As the trainer wants models: the loss comes with the labels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, width), nn.Dropout(), nn.Linear(width, 4))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layers(x)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


def trainer_of(model: nn.Module, folder: Path, *callbacks: Any, epochs: int = 2, **settings: Any) -> Any:
    examples = [{"x": torch.randn(16), "labels": torch.tensor(index % 4)} for index in range(16)]
    settings = {"logging_strategy": "epoch", "report_to": "none"} | settings
    args = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=epochs, save_strategy="no", use_cpu=True, disable_tqdm=True, **settings
    )
    return transformers.Trainer(model=model, args=args, train_dataset=examples, callbacks=list(callbacks))


def test_each_epoch_logs_the_costs_of_the_network_as_it_is_beside_the_loss(tmp_path: Path) -> None:
    class Prune(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if round(state.epoch) == 1:
                model.layers = Net(width=4).layers

    trainer = trainer_of(Net(), tmp_path)
    trainer.add_callback(huggingface_callback(trainer, ["mobile_gpu", "v100"], X))
    trainer.add_callback(Prune())
    trainer.train()
    rows = [row for row in trainer.state.log_history if "v100/latency_ms" in row]
    for row, width in zip(rows, (8, 4), strict=True):
        expected = predicted_costs(Net(width), X, ["mobile_gpu", "v100"])
        assert {key: row[key] for key in expected} == expected
    assert [row["epoch"] for row in trainer.state.log_history if "loss" in row] == [1, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_the_figures_reach_what_the_trainer_reports_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "drawn"))
    trainer = trainer_of(Net(), tmp_path, report_to="tensorboard")
    trainer.add_callback(huggingface_callback(trainer, "mobile_gpu", X))
    trainer.train()
    drawn = EventAccumulator(str(tmp_path / "drawn")).Reload()
    [tag] = [tag for tag in drawn.Tags()["scalars"] if tag.endswith("mobile_gpu/traffic_mb")]
    expected = predicted_costs(Net(), X, "mobile_gpu")["mobile_gpu/traffic_mb"]
    assert [each.value for each in drawn.Scalars(tag)] == pytest.approx([expected, expected])


def test_a_network_over_a_limit_is_not_trained_and_one_that_grows_over_it_stops(tmp_path: Path) -> None:
    class Grow(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            model.layers = Net(width=8 * 2 ** round(state.epoch)).layers

    limit = predicted_costs(Net(16), X, "v100")["network/macs_m"]
    trainer = trainer_of(Net(32), tmp_path)
    trainer.add_callback(huggingface_callback(trainer, "v100", X, limits={"network/macs_m": limit}))
    with pytest.raises(ValueError, match=r"^network/macs_m is .*, over its limit"):
        trainer.train()
    trainer = trainer_of(Net(8), tmp_path, Grow(), epochs=9)
    trainer.add_callback(huggingface_callback(trainer, "v100", X, limits={"network/macs_m": limit}))
    with pytest.warns(UserWarning, match="training stops: network/macs_m is"):
        trainer.train()
    assert trainer.state.epoch == 2


def test_what_is_wrong_is_named_before_the_first_step(tmp_path: Path) -> None:
    trainer = trainer_of(Net(), tmp_path)
    with pytest.raises(ValueError, match="limit 'v100/latency_s': there is no such cost"):
        huggingface_callback(trainer, "v100", X, limits={"v100/latency_s": 1})
    trainer.add_callback(huggingface_callback(trainer, "v100", {"x": torch.zeros(1, 15)}))
    with pytest.raises(ValueError, match=r"Net does not take the example input of shape \(1, 15\)"):
        trainer.train()
    assert trainer.state.global_step == 0
