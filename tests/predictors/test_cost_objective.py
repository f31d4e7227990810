"""Costs as objectives and constraints of studies of other people's networks."""

import optuna
import pytest
import torch
from torch import nn

from predictors import LatencyPredictor, load_device, trace
from predictors.training import CostObjective

torch.set_num_threads(1)

X = torch.zeros(1, 64)


def test_metrics_are_those_of_the_predictors_in_their_order() -> None:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    cost = CostObjective(["mobile_gpu", "edge_tpu"], X, metrics=("edge_tpu.energy_j", "latency_s", "num_params"))
    on_phone, on_tpu = (LatencyPredictor(load_device(name)).predict(trace(net, X)) for name in cost.predictors)
    assert cost(net) == (on_tpu.energy_j, on_phone.latency_s, 64 * 32 + 32 + 32 * 10 + 10)
    assert len(CostObjective("v100", X, metrics="latency_s")(net)) == 1


def test_a_study_finds_the_widest_network_within_the_limit() -> None:
    # float16: a hidden layer of `width` holds 2 * (64 + 1 + 10) * width bytes of weights, and 2 * 10 of the last bias
    limit = 2 * (75 * 40 + 10) + 2 * (40 + 64)  # all of it beside the activations of the widest step, at width 40
    cost = CostObjective("v100", X, metrics=("traffic_bytes",), limits={"peak_memory_bytes": limit})

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        width = trial.suggest_int("width", 8, 64, step=8)
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 16))
        if not cost.constrain(trial, net):
            raise optuna.TrialPruned
        return -float(width), *cost(net)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GridSampler({"width": list(range(8, 65, 8))}, seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=8)
    fits = {trial.params["width"]: trial.state.name == "COMPLETE" for trial in study.trials}
    assert sum(fits.values()) in range(1, 8)
    assert sorted(width for width, fit in fits.items() if fit) == sorted(fits)[: sum(fits.values())]
    for trial in study.trials:
        [excess] = trial.constraints.values()
        assert (excess <= 0) == fits[trial.params["width"]]
    assert max(-trial.values[0] for trial in study.best_trials) == max(width for width, fit in fits.items() if fit)


def test_the_excess_is_a_share_of_the_limit() -> None:
    net, told = nn.Linear(64, 16), {}

    class Trial:
        def set_constraint(self, key: str, value: float) -> None:
            told[key] = value

    # 64 * 16 macs; 65 * 16 parameters
    assert not CostObjective("v100", X, limits={"macs": 512, "v100.num_params": 2080}).constrain(Trial(), net)
    assert told == {"macs": pytest.approx(1.0), "v100.num_params": pytest.approx(-0.5)}
    assert CostObjective("v100", X, limits={"macs": 1024}).constrain(Trial(), net), "at the limit is within it"
    assert CostObjective("v100", X).constrain(Trial(), net), "without limits all hold"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"metrics": ("latency",)},
            r"unknown metric 'latency'; known are \['latency_s'.* of the devices \['mobile_gpu'\]",
        ),
        ({"metrics": ("v100.latency_s",)}, r"unknown metric 'v100.latency_s'.* of the devices \['mobile_gpu'\]"),
        ({"metrics": ("energy_j",)}, "device 'mobile_gpu' gives no energy per MAC or byte"),
        ({"metrics": ()}, "no metric was given"),
        ({"limits": {"latency_s": 0}}, "the limit of latency_s must be positive, found 0"),
        ({"limits": {"arithmetic_intensity": 5}}, "arithmetic_intensity is good when large"),
        ({"limits": {"latency_ms": 5}}, "unknown metric 'latency_ms'"),
    ],
)
def test_what_is_wrong_is_named_before_the_first_trial(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CostObjective("mobile_gpu", X, **settings)
