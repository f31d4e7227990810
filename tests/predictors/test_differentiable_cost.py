"""Costs of masked channels against networks that are really cut and traced again."""

import copy
import pickle
import random
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from predictors import Device, LatencyPredictor, available_devices, load_device, trace
from predictors.training import WIDTH_METRICS, ChannelGates, DifferentiableCost, widths_within
from search_spaces.channel_budget import ChannelBudget
from search_spaces.channel_cutting import pruned

torch.set_num_threads(1)

X = torch.zeros(1, 3, 16, 16)


def conv(in_channels: int, channels: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip


class Mixed(nn.Module):
    """A residual sum over a stride, a depthwise layer, a concatenation, a gate, groups, and a flattened end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 24)
        self.down = conv(24, 20, stride=2)
        self.skip = nn.Conv2d(24, 20, 1, 2)
        self.depthwise = conv(20, 20, groups=20)
        self.branch = conv(20, 12, kernel=1)
        self.squeeze, self.excite = nn.Conv2d(32, 6, 1), nn.Conv2d(6, 32, 1)
        self.grouped = conv(32, 32, stride=2, groups=8)
        self.head = nn.Linear(32 * 16, 40)
        self.classifier = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.down(x) + self.skip(x))
        x = torch.cat([x, self.branch(self.depthwise(x))], 1)
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.classifier(torch.relu(self.head(self.grouped(x).flatten(1))))


class Small(nn.Module):
    """Two groups of channels, so that all of their widths can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1)
        self.c = nn.Conv2d(20, 12, 3, 2, 1)
        self.classifier = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.relu(self.c(x + torch.relu(self.b(x))))
        return self.classifier(x.mean((2, 3)))


def with_random_norms(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                for tensor in (each.weight, each.bias, each.running_mean, each.running_var):
                    assert tensor is not None
                    tensor.uniform_(0.5, 1.5)
    return module.eval()


@pytest.fixture(scope="module")
def mixed() -> nn.Module:
    torch.manual_seed(0)
    return with_random_norms(Mixed())


def device_with_energy() -> Device:
    return next(load_device(name) for name in available_devices() if name != "host" and load_device(name).has_energy)


def device_of(metric: str) -> Device:
    return device_with_energy() if metric == "energy_j" else load_device("mobile_gpu")


def random_masks(cost: DifferentiableCost, seed: int, smallest: int = 1) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    masks = {}
    for name, size in cost.groups.items():
        masks[name] = torch.zeros(size, dtype=torch.float64)
        masks[name][torch.from_numpy(rng.permutation(size)[: rng.integers(smallest, size + 1)])] = 1.0
    return masks


# ------------------------------------------------------------------------------------------------------------ the value


@pytest.mark.parametrize("metric", WIDTH_METRICS)
def test_a_hard_mask_costs_what_is_predicted_for_the_module_that_is_cut(mixed: nn.Module, metric: str) -> None:
    predictor = LatencyPredictor(device_of(metric))
    cost = DifferentiableCost(mixed, X, predictor, metric)
    for seed in range(4):
        masks = random_masks(cost, seed, smallest=2)
        smaller = pruned(mixed, X, cost, {name: mask > 0 for name, mask in masks.items()})
        expected = getattr(predictor.predict(trace(smaller, X)), metric)
        assert cost(masks).item() == pytest.approx(expected, rel=1e-9), seed
        assert sum(each.numel() for each in smaller.parameters()) < sum(each.numel() for each in mixed.parameters())


@pytest.mark.parametrize("device", ["cpu_x86", "h200", "a100", "jetson_nano"])
@pytest.mark.filterwarnings("ignore::predictors.efficiency.ExtrapolationWarning")
def test_it_does_so_on_devices_with_tables_queues_and_tiles(mixed: nn.Module, device: str) -> None:
    predictor = LatencyPredictor(load_device(device))
    cost = DifferentiableCost(mixed, X, predictor)
    masks = random_masks(cost, 1)
    smaller = pruned(mixed, X, cost, {name: mask > 0 for name, mask in masks.items()})
    assert cost(masks).item() == pytest.approx(predictor.predict(trace(smaller, X)).latency_s, rel=1e-9)


def test_the_gated_network_computes_what_the_cut_one_does(mixed: nn.Module) -> None:
    cost = DifferentiableCost(mixed, X, load_device("mobile_gpu"), "macs")
    gates = ChannelGates(mixed, cost)
    torch.manual_seed(1)
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(gates(x), mixed(x))  # all are open at first
    with torch.no_grad():
        gates.logits_U.uniform_(-1.0, 1.0)
    masks = gates.masks()
    kept = {name: mask.detach() > 0.5 for name, mask in masks.items()}
    assert 0 < sum(int(mask.sum()) for mask in kept.values()) < sum(cost.groups.values())
    smaller = pruned(mixed, X, cost, kept)
    torch.testing.assert_close(gates(x), smaller(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(gates(x), mixed(x), atol=1e-3)


def test_every_width_of_a_small_network_is_as_its_cut_graph_says() -> None:
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    cost = DifferentiableCost(Small(), X, predictor)
    assert cost.groups == {"a": 20, "c": 12}  # the sum joins a and b
    for a, c in product(range(1, 21), range(1, 13)):
        widths = {"a": a, "c": c}
        expected = predictor.predict(cost.graph_at(widths)).latency_s
        assert cost.exact(widths) == pytest.approx(expected, rel=1e-12)
        near = {"a": torch.tensor(a - 0.3), "c": torch.tensor(c + 0.2 if c < 12 else 12.0)}
        assert cost.of_widths(near).item() == pytest.approx(expected, rel=1e-6)
    assert cost.least() == pytest.approx(predictor.predict(cost.graph_at({"a": 1, "c": 1})).latency_s, rel=1e-12)


def test_the_value_has_the_device_s_steps() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))  # channels in fours
    found = [cost.exact({"a": width}) for width in range(1, 21)]
    assert all(found[4 * step + 1] == found[4 * step + 3] for step in range(5))
    assert all(found[4 * step + 3] < found[4 * step + 4] for step in range(4))


# ------------------------------------------------------------------------------------------------------------ the slope


@pytest.mark.parametrize("metric", WIDTH_METRICS)
def test_slopes_are_those_of_the_interpolation_by_finite_differences(mixed: nn.Module, metric: str) -> None:
    cost = DifferentiableCost(mixed, X, device_of(metric), metric)
    whole = cost.exact()

    def relative(*widths: Tensor) -> Tensor:
        return cost.interpolated(dict(zip(cost.groups, widths))) / whole

    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        shares = torch.rand(len(cost.groups), dtype=torch.float64, generator=generator)
        widths = [(1.37 + (size - 1.5) * share).requires_grad_() for size, share in zip(cost.groups.values(), shares)]
        assert torch.autograd.gradcheck(relative, widths, eps=1e-5, atol=1e-7, rtol=1e-4)


def test_masks_get_the_slopes_of_the_interpolation_of_their_widths(mixed: nn.Module) -> None:
    cost = DifferentiableCost(mixed, X, load_device("mobile_gpu"))
    masks = {name: torch.full((size,), 0.63, requires_grad=True) for name, size in cost.groups.items()}
    widths = {name: torch.tensor(0.63 * size, requires_grad=True) for name, size in cost.groups.items()}
    cost(masks).backward()
    cost.interpolated(widths).backward()
    for name in cost.groups:
        gradient, slope = masks[name].grad, widths[name].grad
        assert gradient is not None
        assert slope is not None
        torch.testing.assert_close(gradient, slope.expand_as(gradient))


@pytest.mark.parametrize("device", ["mobile_gpu", "mobile_cpu", "a100", "edge_tpu"])
def test_no_width_is_without_a_slope_though_the_value_has_plateaus(device: str) -> None:
    cost = DifferentiableCost(Small(), torch.zeros(4, 3, 64, 64), LatencyPredictor(load_device(device)))
    for share in np.linspace(0.05, 1.0, 25):
        widths = {name: torch.tensor(share * size, requires_grad=True) for name, size in cost.groups.items()}
        cost.of_widths(widths).backward()
        for name, width in widths.items():
            assert width.grad is not None
            assert width.grad > 0, (name, share)


def test_at_aligned_widths_the_interpolation_is_the_value_and_between_them_it_is_straight() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"), "macs")
    for a in (8, 16, 20):
        widths = {"a": torch.tensor(float(a)), "c": torch.tensor(8.0)}
        assert cost.interpolated(widths).item() == pytest.approx(cost.exact({"a": a, "c": 8}))
    between = cost.interpolated({"a": torch.tensor(10.0), "c": torch.tensor(8.0)}).item()
    ends = [cost.exact({"a": a, "c": 8}) for a in (8, 16)]
    assert between == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_a_network_that_waits_for_its_host_has_no_slope_of_latency() -> None:
    cost = DifferentiableCost(Small(), X, LatencyPredictor(load_device("h200"), tables=[]))
    assert cost.least() == cost.exact()
    widths = {name: torch.tensor(5.0, requires_grad=True) for name in cost.groups}
    cost.of_widths(widths).backward()
    assert all(width.grad == 0 for width in widths.values())


def test_learning_by_the_cost_alone_closes_everything_but_one_unit() -> None:
    net = Small()
    cost = DifferentiableCost(net, X, load_device("mobile_gpu"))
    gates = ChannelGates(net, cost)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        cost(gates.masks()).log().backward()
        optimizer.step()
    assert {name: int(mask.sum()) for name, mask in gates.masks().items()} == {"a": 1, "c": 1}


# ----------------------------------------------------------------------------------------------------------- the limit


def test_widths_within_a_limit_are_at_or_under_it_and_close_below() -> None:
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    torch.manual_seed(0)
    net = Mixed()
    cost = DifferentiableCost(net, X, predictor)
    shortfalls = []
    for seed, share in product(range(4), (0.35, 0.5, 0.75, 0.9)):
        limit = cost.least() + share * (cost.exact() - cost.least())
        generator = torch.Generator().manual_seed(seed)
        scores = {name: torch.rand(size, generator=generator) for name, size in cost.groups.items()}
        kept = cost.kept_within(scores, limit)
        found = predictor.predict(trace(pruned(net, X, cost, kept), X)).latency_s
        assert found <= limit
        shortfalls.append(1 - found / limit)
        for name, mask in kept.items():
            if not mask.all():
                assert scores[name][mask].min() >= scores[name][~mask].max()
    assert np.median(shortfalls) < 0.02
    assert max(shortfalls) < 0.1


def test_with_all_widths_at_hand_the_choice_is_near_the_best_there_is() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))
    generator = torch.Generator().manual_seed(3)
    scores = {name: torch.rand(size, generator=generator) for name, size in cost.groups.items()}
    sums = {name: each.sort(descending=True).values.cumsum(0) for name, each in scores.items()}

    def worth(a: int, c: int) -> float:
        return float(sums["a"][a - 1] + sums["c"][c - 1])

    for share in (0.3, 0.6, 0.8):
        limit = cost.least() + share * (cost.exact() - cost.least())
        fitting = [(a, c) for a in range(1, 21) for c in range(1, 13) if cost.exact({"a": a, "c": c}) <= limit]
        found = cost.widths_within(scores, limit)
        assert worth(found["a"], found["c"]) >= 0.93 * max(worth(*each) for each in fitting)


def test_several_limits_hold_at_once_and_one_that_everything_keeps_cuts_nothing() -> None:
    net = Mixed()
    latency = DifferentiableCost(net, X, load_device("mobile_gpu"))
    memory = DifferentiableCost(net, X, load_device("mobile_cpu"), "peak_memory_bytes")
    scores = {name: torch.rand(size) for name, size in latency.groups.items()}
    limits = [(latency, 0.5 * (latency.least() + latency.exact())), (memory, 0.5 * memory.exact())]
    widths = widths_within(scores, limits)
    assert all(cost.exact(widths) <= limit for cost, limit in limits)
    assert max(cost.exact(widths) / limit for cost, limit in limits) > 0.95
    assert latency.widths_within(scores, latency.exact() * 1.01) == latency.groups


def test_a_limit_that_no_width_reaches_says_the_least() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))
    scores = {name: torch.rand(size) for name, size in cost.groups.items()}
    with pytest.raises(ValueError, match=rf"no widths keep latency_s <= .*mobile_gpu .*{cost.least():.4g}"):
        cost.widths_within(scores, 0.9 * cost.least())
    with pytest.raises(ValueError, match="limit must be positive"):
        cost.widths_within(scores, float("nan"))
    with pytest.raises(ValueError, match="scores of group 'c' are missing"):
        cost.widths_within({"a": scores["a"]}, 1.0)
    with pytest.raises(ValueError, match="scores of 'c' must be 12 finite numbers"):
        cost.widths_within(scores | {"c": torch.full((12,), float("nan"))}, 1.0)


# --------------------------------------------------------------------------------------------- in other people's loops


def test_it_compiles_without_breaking_the_graph() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))

    def gradients(run: nn.Module) -> tuple[Tensor, list[Tensor]]:
        masks = {name: torch.full((size,), 0.6, requires_grad=True) for name, size in cost.groups.items()}
        found = run(masks)
        return found.detach(), list(torch.autograd.grad(found, list(masks.values())))

    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled), gradients(cost))


def test_it_adds_nothing_to_a_checkpoint_and_may_be_copied_pickled_and_asked_in_half_precision() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))
    assert cost.state_dict() == {}
    assert not list(cost.parameters())
    masks = {name: torch.full((size,), 0.5) for name, size in cost.groups.items()}
    expected = cost(masks)
    twins = [copy.deepcopy(cost), pickle.loads(pickle.dumps(cost))]
    assert [twin(masks) for twin in twins] == [expected, expected]
    assert cost({name: mask.half() for name, mask in masks.items()}) == expected


def test_gates_and_module_are_trained_together_and_kept_apart() -> None:
    net = Small()
    before = copy.deepcopy(net.state_dict())
    cost = DifferentiableCost(net, X, load_device("mobile_gpu"))
    gates = ChannelGates(net, cost)
    gates(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert [name for name, _ in gates.named_parameters()] == ["logits_U"]
    assert list(gates.state_dict()) == ["logits_U"]
    gradients = [gates.logits_U.grad, *(each.grad for each in net.parameters())]
    assert all(each is not None and each.abs().sum() > 0 for each in gradients)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())


# ---------------------------------------------------------------------------------------------------- a whole training


def train(budget: ChannelBudget, net: nn.Module, steps: range) -> list[Tensor]:
    """Steps that want the network's output large, each on images of its own."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    logits = []
    for step in steps:
        x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        ((budget(x) - 1.0).square().mean() + budget.penalty()).backward()
        optimizer.step()
        logits.append(budget.gates.logits_U.detach().clone())
    return logits


def test_a_budget_closes_channels_until_its_limits_hold_and_returns_a_network_that_keeps_them() -> None:
    torch.manual_seed(0)
    net = Mixed()
    predictor = LatencyPredictor(load_device("mobile_gpu"))
    limits = {"macs": 2.5e5, "peak_memory_bytes": 30e3}
    budget = ChannelBudget(net, X, predictor, rate=0.05, **limits)
    assert budget.predicted()["macs"] == trace(net, X).macs > 2 * limits["macs"]
    train(budget, net, range(60))
    assert 0.5 * limits["macs"] < budget.predicted()["macs"] < 1.1 * limits["macs"]
    smaller = budget.pruned()
    prediction = predictor.predict(trace(smaller, X))
    assert prediction.macs <= limits["macs"]
    assert prediction.peak_memory_bytes <= limits["peak_memory_bytes"]
    assert max(prediction.macs / limits["macs"], prediction.peak_memory_bytes / limits["peak_memory_bytes"]) > 0.9


def test_a_budget_goes_on_where_it_stopped() -> None:
    torch.manual_seed(0)
    net = Small()
    twin = copy.deepcopy(net)
    expected = train(ChannelBudget(net, X, load_device("mobile_gpu"), macs=1e5), net, range(12))
    first = ChannelBudget(twin, X, load_device("mobile_gpu"), macs=1e5)
    train(first, twin, range(6))
    first.penalty()  # what the last step left behind
    second = ChannelBudget(twin, X, load_device("mobile_gpu"), macs=1e5)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(train(second, twin, range(6, 12))[-1], expected[-1])


def test_layers_whose_size_the_code_holds_are_left_whole_and_said() -> None:
    class Numbered(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
            return self.classifier(x.view(len(x), 12, 64).mean(2))

    net = Numbered()
    budget = ChannelBudget(net, X, load_device("mobile_gpu"), macs=0.5 * trace(net, X).macs)
    assert list(budget.kept_whole) == ["c"]
    assert "invalid for input of size" in budget.kept_whole["c"]
    assert budget.cost.groups == {"a": 20, "b": 20}
    assert trace(budget.pruned(), X).macs <= 0.5 * trace(net, X).macs


def test_a_budget_that_nothing_keeps_or_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no widths keep macs <= 10 on mobile_gpu; the narrowest network has \d+"):
        ChannelBudget(Small(), X, load_device("mobile_gpu"), macs=10.0)
    with pytest.raises(ValueError, match="no limit was given"):
        ChannelBudget(Small(), X, load_device("mobile_gpu"))
    with pytest.raises(ValueError, match="unknown metric 'latency'"):
        ChannelBudget(Small(), X, load_device("mobile_gpu"), latency=1.0)
    with pytest.raises(ValueError, match="rate must be positive"):
        ChannelBudget(Small(), X, load_device("mobile_gpu"), rate=0.0, macs=1e5)
    with pytest.raises(ValueError, match=r"unknown groups \['stem'\]; there are \['a', 'c', 'classifier'\]"):
        DifferentiableCost(Small(), X, load_device("mobile_gpu"), keep=["stem"])


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_wrong_masks_are_named() -> None:
    cost = DifferentiableCost(Small(), X, load_device("mobile_gpu"))
    good = {name: torch.ones(size) for name, size in cost.groups.items()}
    with pytest.raises(ValueError, match=r"groups \['c'\] are missing"):
        cost({"a": good["a"]})
    with pytest.raises(ValueError, match="'classifier' cannot be cut: they leave the network"):
        cost(good | {"classifier": torch.ones(5)})
    with pytest.raises(ValueError, match=r"mask of 'c' has shape \(3,\); it has 12 units"):
        cost(good | {"c": torch.ones(3)})
    for wrong, found in ((1.5, "1.5"), (-0.5, "-0.5"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=f"gates of 'c' must be from 0 to 1, found {found} .*sigmoid"):
            cost(good | {"c": torch.full((12,), wrong)})
    widths = {"a": torch.tensor(20.0), "c": torch.tensor(12.0)}
    for wrong, found in ((13.0, "13"), (-1.0, "-1"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=f"width of 'c' must be from 0 to 12, found {found}"):
            cost.of_widths(widths | {"c": torch.tensor(wrong)})
    with pytest.raises(ValueError, match="width of 'c' must be a scalar"):
        cost.of_widths(widths | {"c": torch.ones(12)})
    with pytest.raises(ValueError, match="width of 'c' must be a whole number from 1 to 12, found 0"):
        cost.exact({"c": 0})


def test_what_a_device_does_not_have_and_metrics_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="'v100' gives no energy"):
        DifferentiableCost(Small(), X, load_device("v100"), "energy_j")
    with pytest.raises(ValueError, match=r"unknown metric 'latency'.*nearest are"):
        DifferentiableCost(Small(), X, load_device("v100"), "latency")


def test_a_network_that_decides_by_its_data_or_by_chance_is_refused() -> None:
    class ByData(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else x * 2)

    class ByChance(Small):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(int(1e6 * random.random()) % 999983):
                x = x + 1.0
                if random.random() < 0.3:
                    break
            return super().forward(x)

    with pytest.raises(ValueError, match=r"ByData cannot be traced: .*it makes a number, for the network to decide by"):
        DifferentiableCost(ByData(), X, load_device("mobile_gpu"))
    random.seed(1)
    with pytest.raises(ValueError, match="the graph of ByChance changes from call to call"):
        DifferentiableCost(ByChance(), X, load_device("mobile_gpu"))


def test_a_network_of_which_nothing_can_be_cut_says_why() -> None:
    with pytest.raises(ValueError, match=r"nothing of Linear can be cut .*they leave the network"):
        DifferentiableCost(nn.Linear(3, 4), torch.zeros(1, 3), load_device("mobile_gpu"))


def test_code_that_holds_numbers_of_channels_is_told_when_it_is_cut() -> None:
    class Numbered(Small):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.c(torch.relu(self.a(x))))
            return self.classifier(x.view(1, 12, 64).mean(2))

    net = Numbered()
    cost = DifferentiableCost(net, X, load_device("mobile_gpu"))
    kept = {name: torch.arange(size) < 8 for name, size in cost.groups.items()}
    with pytest.raises(ValueError, match="Numbered does not run, its own code may hold numbers of channels"):
        pruned(net, X, cost, kept)
    with pytest.raises(ValueError, match="kept units of 'c' must be 12 booleans"):
        pruned(net, X, cost, kept | {"c": torch.ones(12)})
    with pytest.raises(ValueError, match="kept has groups"):
        pruned(net, X, cost, {"c": kept["c"]})
