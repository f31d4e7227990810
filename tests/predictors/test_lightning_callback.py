"""Predicted costs in Lightning's own loop."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from predictors.training import lightning_callback, predicted_costs

pytest.importorskip("lightning", reason="Lightning is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]
torch.set_num_threads(1)

X = torch.zeros(1, 1, 8, 8)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


def module_of(pl: Any, with_forward: bool = True) -> Any:
    class Lit(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = self.network(8)

        @staticmethod
        def network(width: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, width, 3), nn.Dropout(), nn.Flatten(), nn.Linear(36 * width, 10))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    if with_forward:
        Lit.forward = lambda self, x: self.net(x)
    return Lit()


def fit(pl: Any, module: Any, folder: Path, *callbacks: Any, epochs: int = 2, **settings: Any) -> Any:
    data = DataLoader(TensorDataset(torch.randn(16, 1, 8, 8), torch.randint(10, (16,))), 8)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder,
        logger=pl.loggers.CSVLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1, **settings,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


def rows_of(trainer: Any) -> list[dict[str, float]]:
    rows = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    return [{name: float(cell) for name, cell in zip(names, row.split(",")) if cell} for row in rows[1:]]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_each_epoch_logs_the_costs_of_the_network_as_it_is(pl: Any, precision: str, tmp_path: Path) -> None:
    class Prune(pl.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                pl_module.net = pl_module.network(4).to(pl_module.dtype)

    module = module_of(pl)
    callback = lightning_callback(["mobile_gpu", "v100"], X)
    assert isinstance(callback, pl.Callback)
    trainer = fit(pl, module, tmp_path, callback, Prune(), precision=precision)
    first, second = (row for row in rows_of(trainer) if "mobile_gpu/latency_ms" in row)
    for row, width in ((first, 8), (second, 4)):
        expected = predicted_costs(module.network(width), X, ["mobile_gpu", "v100"])
        assert {key: row[key] for key in expected} == pytest.approx(
            expected, rel=1e-5
        )  # float32 in Lightning's results
    assert float(trainer.callback_metrics["v100/traffic_mb"]) == pytest.approx(second["v100/traffic_mb"])
    assert module.training


def test_the_module_s_own_example_input_and_a_named_network_serve(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    module = module_of(pl, with_forward=False)
    module.example_input_array = X
    trainer = fit(pl, module, tmp_path, lightning_callback("mobile_gpu", network="net"), epochs=1)
    expected = predicted_costs(module.net, X, "mobile_gpu")["network/macs_m"]
    assert float(trainer.callback_metrics["network/macs_m"]) == pytest.approx(expected)


def test_a_network_over_a_limit_is_not_trained(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    module = module_of(pl)
    before = module.net[0].weight.clone()
    callback = lightning_callback("mobile_gpu", X, limits={"mobile_gpu/latency_ms": 1e-3, "network/params_m": 1})
    with pytest.raises(ValueError, match=r"^mobile_gpu/latency_ms is 0\.\d+, over its limit 0.001$"):
        fit(pl, module, tmp_path, callback)
    assert torch.equal(module.net[0].weight, before)


def test_a_network_that_grows_over_its_limit_stops_after_that_epoch(tmp_path: Path) -> None:
    import lightning.pytorch as pl

    class Grow(pl.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.net = pl_module.network(8 * 2 ** (trainer.current_epoch + 1))

    module = module_of(pl)
    limit = predicted_costs(module.network(16), X, "v100")["network/params_m"]
    callback = lightning_callback("v100", X, limits={"network/params_m": limit})
    with pytest.warns(UserWarning, match=r"training stops: network/params_m is .*, over its limit"):
        trainer = fit(pl, module, tmp_path, Grow(), callback, epochs=9)
    assert trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no example input; give one, or set example_input_array of Lit"),
        ({"example_input": X}, r"Lit has no forward; name the attribute .* with network=, one of \['net'\]"),
        ({"example_input": X, "network": "model"}, "network='model': Lit has no attribute `model`"),
        ({"example_input": X[..., 1:], "network": "net"}, r"Sequential does not take the example input of shape"),
    ],
)
def test_what_is_wrong_is_named_before_the_first_step(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    import lightning.pytorch as pl

    with pytest.raises(ValueError, match=said):
        fit(pl, module_of(pl, with_forward=False), tmp_path, lightning_callback("mobile_gpu", **settings))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"mobile_gpu/energy_mj": 1}, "limit 'mobile_gpu/energy_mj': the device gives no energy per MAC or byte"),
        ({"latency_ms": 1}, r"limit 'latency_ms': there is no such cost; limits can be on \['mobile_gpu/latency_ms', "),
        ({"mobile_gpu/arithmetic_intensity_flop_per_byte": 1}, "there is no such cost"),
        ({"network/macs_m": 0}, "limit 'network/macs_m' must be positive, found 0"),
    ],
)
def test_a_limit_that_cannot_be_is_named_at_once(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lightning_callback("mobile_gpu", X, limits=limits)


def test_processes_that_are_spawned_get_the_callback() -> None:
    callback = lightning_callback("mobile_gpu", X, limits={"network/macs_m": 5})
    again = pickle.loads(pickle.dumps(callback))
    assert again.limits == callback.limits
    assert torch.equal(again.example_input, X)
    assert type(again) is type(callback)


def test_without_lightning_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from predictors.training import callbacks

    monkeypatch.setattr(callbacks, "_LIGHTNING", ("no_such_lightning",))
    with pytest.raises(ImportError, match="needs no_such_lightning, which is not installed: pip install lightning"):
        lightning_callback("mobile_gpu", X)
