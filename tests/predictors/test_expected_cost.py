"""Expected costs against enumeration of every network of a small space."""

import numpy as np
import pytest
import torch
from small_space import all_archs, likelihoods, random_probabilities, small_space

from predictors import LatencyPredictor, load_device, trace
from predictors.training import METRICS, ArchitectureLogits, ExpectedCost, Probabilities
from predictors.training.probabilities import Mode
from search_spaces import Space
from search_spaces.elastic import elastic

torch.set_num_threads(1)

EXACT = [metric for metric in METRICS if metric not in ("arithmetic_intensity", "peak_memory_bytes")]


@pytest.fixture(scope="module")
def space() -> Space:
    return small_space()


@pytest.fixture(scope="module")
def archs() -> np.ndarray:
    return all_archs()


def predictor_of(name: str) -> LatencyPredictor:
    return LatencyPredictor(load_device(name))


@pytest.mark.parametrize("metric", EXACT)
def test_the_expectation_is_that_of_all_networks(space: Space, archs: np.ndarray, metric: str) -> None:
    predictor = predictor_of("jetson_nano") if metric != "energy_j" else predictor_of(device_with_energy())
    probabilities = random_probabilities()
    weights = likelihoods(archs, probabilities)
    assert weights.sum() == pytest.approx(1.0)
    expected = weights @ getattr(predictor.predict_many(space, archs), metric)
    assert ExpectedCost(space, predictor, metric)(probabilities).item() == pytest.approx(expected, rel=1e-6)


def device_with_energy() -> str:
    from predictors import available_devices

    return next(name for name in available_devices() if name != "host" and load_device(name).has_energy)


def test_a_decided_architecture_costs_what_is_predicted_for_it(space: Space, archs: np.ndarray) -> None:
    for device in ("mobile_gpu", "h200"):  # the second queues kernels: the host may decide
        predictor = LatencyPredictor(load_device(device), tables=[])
        costs = {metric: ExpectedCost(space, predictor, metric) for metric in ("latency_s", "arithmetic_intensity")}
        for row in archs[:: len(archs) // 7]:
            decided = {
                knob: torch.eye(len(values), dtype=torch.float64)[index]
                for (knob, values), index in zip(space.choices.items(), row)
            }
            prediction = predictor.predict(space.graph(space.decode(row[None])[0]))
            for metric, cost in costs.items():
                assert cost(decided).item() == pytest.approx(getattr(prediction, metric), rel=1e-6), (device, metric)


def test_peak_memory_is_between_the_expectation_and_its_stated_bound(space: Space, archs: np.ndarray) -> None:
    predictor = predictor_of("mobile_cpu")
    peaks = predictor.predict_many(space, archs).peak_memory_bytes
    cost = ExpectedCost(space, predictor, "peak_memory_bytes", smoothness=0.02)
    for seed in range(3):
        probabilities = random_probabilities(seed)
        found = cost(probabilities).item()
        assert likelihoods(archs, probabilities) @ peaks <= found
        assert found <= peaks.max() * (1 + 0.02 * np.log(len(space.positions)))
    decided = {knob: torch.eye(len(values), dtype=torch.float64)[-1] for knob, values in space.choices.items()}
    largest = predictor.predict(space.graph(space.largest())).peak_memory_bytes
    assert largest <= cost(decided).item() <= largest * (1 + 0.02 * np.log(len(space.positions)))


@pytest.mark.parametrize("mode", ["softmax", "gumbel"])
@pytest.mark.parametrize("metric", METRICS)
def test_gradients_are_those_of_finite_differences(space: Space, metric: str, mode: Mode) -> None:
    cost = ExpectedCost(space, device_with_energy(), metric)
    scale = cost(random_probabilities()).item()
    logits = ArchitectureLogits(space).double()

    def relative(flat_V: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)  # the same noise in every call
        made = {"mode": mode, "temperature": 0.7, "generator": generator}
        return cost(torch.func.functional_call(logits, {"flat_V": flat_V}, (), made)) / scale

    torch.manual_seed(0)
    flat_V = torch.randn(len(logits.flat_V), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relative, flat_V, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_a_straight_through_sample_has_its_network_s_cost_and_the_relaxed_one_s_gradient(
    space: Space, metric: str
) -> None:
    """The chain rule by hand: the cost's gradient where the hard sample is, times the Jacobian of the relaxed one."""
    cost = ExpectedCost(space, device_with_energy(), metric)
    logits = ArchitectureLogits(space).double()
    torch.manual_seed(0)
    flat_V = torch.randn(len(logits.flat_V), dtype=torch.float64)

    def probabilities(mode: Mode, at_V: torch.Tensor) -> torch.Tensor:
        made = {"mode": mode, "temperature": 0.7, "generator": torch.Generator().manual_seed(1)}
        return torch.func.functional_call(logits, {"flat_V": at_V}, (), made).flat_V

    def of(at_V: torch.Tensor) -> torch.Tensor:
        return cost(Probabilities(at_V, logits.choices))

    found = torch.autograd.functional.jacobian(lambda at_V: of(probabilities("straight_through", at_V)), flat_V)
    hard_V = probabilities("straight_through", flat_V)
    relaxed_VV = torch.autograd.functional.jacobian(lambda at_V: probabilities("gumbel", at_V), flat_V)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(of, hard_V) @ relaxed_VV)
    each_V = [
        hard_V[start : start + size]
        for start, size in zip(np.cumsum([0, *logits.choices.values()]), logits.choices.values())
    ]
    arch = {knob: values[int(each.argmax())] for (knob, values), each in zip(space.choices.items(), each_V)}
    predicted = getattr(predictor_of(device_with_energy()).predict(space.graph(arch)), metric)
    above = 0.02 * np.log(len(space.positions)) if metric == "peak_memory_bytes" else 1e-6
    assert predicted * (1 - 1e-6) <= of(hard_V).item() <= predicted * (1 + above)


def test_the_gradient_of_a_probability_is_the_cost_of_its_value_given_the_others(
    space: Space, archs: np.ndarray
) -> None:
    """dE/dp(knob=v) - dE/dp(knob=w) is the difference of the conditional expectations, by enumeration."""
    predictor = predictor_of("mobile_gpu")
    probabilities = random_probabilities()
    for each in probabilities.values():
        each.requires_grad_()
    ExpectedCost(space, predictor)(probabilities).backward()
    latencies = predictor.predict_many(space, archs).latency_s
    detached = {knob: each.detach() for knob, each in probabilities.items()}
    for column, knob in enumerate(space.choices):
        conditional = []
        for value in range(2):
            rows = archs[:, column] == value
            weights = likelihoods(archs[rows], detached)
            conditional.append(weights @ latencies[rows] / weights.sum())
        gradient = probabilities[knob].grad
        assert gradient is not None
        assert float(gradient[1] - gradient[0]) == pytest.approx(conditional[1] - conditional[0], rel=1e-4, abs=1e-12)


def test_relaxed_and_hard_samples_are_probabilities_with_gradients(space: Space) -> None:
    cost = ExpectedCost(space, predictor_of("mobile_gpu"))
    logits = ArchitectureLogits(space)
    for mode in ("softmax", "gumbel", "straight_through"):
        logits.zero_grad()
        found = logits(mode, temperature=0.7, generator=torch.Generator().manual_seed(0))
        if mode == "straight_through":
            assert all(sorted(each.tolist())[-1] == pytest.approx(1.0) for each in found.values())
        cost(found).backward()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in logits.parameters())
        assert any(each.grad.abs().sum() > 0 for each in logits.parameters())


def test_probabilities_are_each_knob_s_softmax_and_samples_follow_them(space: Space) -> None:
    logits = ArchitectureLogits(space)
    torch.manual_seed(0)
    with torch.no_grad():
        logits.flat_V.copy_(torch.randn(len(logits.flat_V)))
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([logits("straight_through", generator=generator).flat_V.detach() for _ in range(3000)])
    torch.testing.assert_close(samples.mean(dim=0), logits().flat_V.detach(), rtol=0, atol=0.04)
    starts = np.cumsum([0, *logits.choices.values()])
    entropy = 0.0
    for start, (knob, values) in zip(starts, space.choices.items()):
        expected = torch.softmax(logits.flat_V[start : start + len(values)] / 0.5, dim=0)
        torch.testing.assert_close(logits(temperature=0.5)[knob], expected)
        entropy += torch.distributions.Categorical(logits()[knob]).entropy().item()
        assert logits.arch()[knob] == values[int(logits()[knob].argmax())]
    assert logits.entropy.item() == pytest.approx(entropy, rel=1e-5)


def test_learning_by_the_cost_alone_finds_the_cheapest_network(space: Space, archs: np.ndarray) -> None:
    predictor = predictor_of("mobile_gpu")
    cost, logits = ExpectedCost(space, predictor), ArchitectureLogits(space)
    optimizer = torch.optim.Adam(logits.parameters(), lr=0.3)
    before = logits.entropy.item()
    for _ in range(100):
        optimizer.zero_grad()
        cost(logits()).log().backward()
        optimizer.step()
    cheapest = predictor.predict_many(space, archs).latency_s.min()
    assert predictor.predict(space.graph(logits.arch())).latency_s == pytest.approx(cheapest)
    assert logits.entropy.item() < before


def test_a_network_of_one_s_own_is_given_as_its_supernet_and_a_device_by_its_name() -> None:
    """Two widths of one layer, as likely: the mean of both networks, found by tracing them alone."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 8, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 5),
    )
    own = elastic(net, torch.zeros(1, 3, 6, 6), widths={"0": (0.5, 1.0)})
    supernet = own.supernet()
    predictor = predictor_of("mobile_cpu")
    alone = [predictor.predict(trace(own.build({"0_width": w}), torch.zeros(1, 3, 6, 6))).latency_s for w in (8, 16)]
    found = ExpectedCost(supernet, "mobile_cpu")(ArchitectureLogits(supernet)())
    assert found.item() == pytest.approx(sum(alone) / 2, rel=1e-6)


# What torch's compiler says of torch.autograd.Function, which it makes an instance of.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_without_breaking_the_graph(space: Space) -> None:
    cost = ExpectedCost(space, predictor_of("mobile_gpu"))
    probabilities = {knob: each.float() for knob, each in random_probabilities().items()}
    compiled = torch.compile(cost, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(probabilities), cost(probabilities))


def test_it_adds_nothing_to_a_checkpoint_and_follows_the_module(space: Space) -> None:
    cost = ExpectedCost(space, predictor_of("mobile_gpu"))
    assert cost.state_dict() == {}
    assert not list(cost.parameters())
    assert {buffer.device.type for buffer in cost.to("meta").buffers()} == {"meta"}


def test_wrong_probabilities_are_named(space: Space) -> None:
    cost = ExpectedCost(space, predictor_of("mobile_gpu"))
    good = random_probabilities()
    with pytest.raises(ValueError, match=r"knobs \['resolution'\] are missing"):
        cost({knob: each for knob, each in good.items() if knob != "resolution"})
    with pytest.raises(ValueError, match=r"knob 'resolution' have shape \(3,\); it has 2 values"):
        cost(good | {"resolution": torch.full((3,), 1 / 3)})
    with pytest.raises(ValueError, match=r"knob 'resolution' must be .* sum to 1; .* the sum 3 \(are they logits"):
        cost(good | {"resolution": torch.tensor([1.0, 2.0], dtype=torch.float64)})
    with pytest.raises(ValueError, match="'resolution' must be at least 0"):
        cost(good | {"resolution": torch.tensor([1.5, -0.5], dtype=torch.float64)})
    with pytest.raises(ValueError, match="'resolution' must be"):
        cost(good | {"resolution": torch.tensor([float("nan"), 0.5], dtype=torch.float64)})
    with pytest.raises(ValueError, match="unknown mode 'hard'"):
        ArchitectureLogits(space)("hard")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be positive"):
        ArchitectureLogits(space)(temperature=0.0)


def test_what_a_device_or_a_space_does_not_have_is_named(space: Space) -> None:
    with pytest.raises(ValueError, match="unknown metric 'flops'; known are"):
        ExpectedCost(space, predictor_of("mobile_gpu"), "flops")
    with pytest.raises(ValueError, match="'v100' gives no energy"):
        ExpectedCost(space, load_device("v100"), "energy_j")

    with pytest.raises(ValueError, match="device 'pixel_99'"):
        ExpectedCost(space, "pixel_99")
    with pytest.raises(ValueError, match=r"Linear is no search space and has none .*DifferentiableCost\(module"):
        ExpectedCost(torch.nn.Linear(1, 1), "mobile_gpu")  # type: ignore[arg-type]

    class NoPositions:
        choices, graph, encode, decode = space.choices, space.graph, space.encode, space.decode

    with pytest.raises(ValueError, match="do not add up over positions"):
        ExpectedCost(NoPositions(), predictor_of("mobile_gpu"))
