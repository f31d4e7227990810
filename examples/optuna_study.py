"""A study of one's own: Optuna searches a network of its trial's numbers for accuracy and for time on a phone.

`python examples/optuna_study.py` runs it; what is added to an own loop is marked.
"""

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from predictors.training import CostObjective  # + ridgeline

digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, valid = order[:1300], order[1300:]
cost = CostObjective("mobile_gpu", torch.zeros(1, 1, 8, 8), limits={"peak_memory_bytes": 50e3})  # + ridgeline


def build(trial: optuna.Trial) -> nn.Module:
    layers, channels = [], 1
    for layer in range(trial.suggest_int("num_layers", 1, 3)):
        width = trial.suggest_int(f"width_{layer}", 8, 48, step=8)
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def trained_error(net: nn.Module) -> float:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(2):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    net.eval()
    with torch.inference_mode():
        return (net(images[valid]).argmax(1) != labels[valid]).float().mean().item()


def objective(trial):
    net = build(trial)
    if not cost.constrain(trial, net):  # + ridgeline
        raise optuna.TrialPruned  # + ridgeline
    return trained_error(net), *cost(net)  # + ridgeline


torch.manual_seed(0)
optuna.logging.set_verbosity(optuna.logging.WARNING)
sampler = optuna.samplers.TPESampler(seed=0)
study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)  # + ridgeline
study.optimize(objective, n_trials=10)
for trial in sorted(study.best_trials, key=lambda trial: trial.values[1]):
    print(f"accuracy: {1 - trial.values[0]:.3f}  latency: {1e3 * trial.values[1]:.3f} ms  {trial.params}")
