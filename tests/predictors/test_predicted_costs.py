"""A network's costs as figures for a log, whatever training has wrapped around it, and the network as it was."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DataParallel, DistributedDataParallel

from predictors import LatencyPredictor, load_device, trace
from predictors.training import device_predictors, log_costs, predicted_costs

torch.set_num_threads(1)

X = torch.zeros(1, 1, 16, 16)


class Net(nn.Module):
    """As users write them: with noise, dropout, a frozen layer, and buffers that training changes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(width, 10)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x + 0.1 * torch.randn(1, dtype=x.dtype))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_the_figures_of_a_linear_layer_are_those_of_the_arithmetic() -> None:
    costs = predicted_costs(nn.Linear(1024, 512), torch.zeros(1, 1024), "v100")
    moved = 2 * (1024 + 1024 * 512 + 512 + 512)  # bytes of float16: inputs, weights, bias, outputs
    assert costs["v100/traffic_mb"] == pytest.approx(moved / 1e6)
    assert costs["v100/peak_memory_mb"] == pytest.approx(moved / 1e6)
    assert costs["v100/arithmetic_intensity_flop_per_byte"] == pytest.approx(2 * 1024 * 512 / moved)
    assert costs["network/macs_m"] == pytest.approx(1024 * 512 / 1e6)
    assert costs["network/params_m"] == pytest.approx((1024 * 512 + 512) / 1e6)


def test_times_are_those_of_the_predictor_and_energy_is_there_where_the_device_gives_it() -> None:
    net, names = Net(), ["mobile_gpu", "edge_tpu"]
    costs = predicted_costs(net, X, names)
    for name in names:
        prediction = LatencyPredictor(load_device(name)).predict(trace(net, X))
        assert costs[f"{name}/latency_ms"] == pytest.approx(prediction.latency_s * 1e3)
        assert costs[f"{name}/latency_std_ms"] == pytest.approx(prediction.std_s * 1e3)
    assert costs["edge_tpu/energy_mj"] == pytest.approx(prediction.energy_j * 1e3)
    assert "mobile_gpu/energy_mj" not in costs


def test_the_network_and_the_loop_s_random_numbers_stay_as_they_were() -> None:
    net = Net().train()
    net.features[1].eval()  # a frozen normalisation
    called = []
    net.register_forward_hook(lambda *_: called.append(1))
    net(torch.randn(2, 1, 16, 16)).sum().backward()

    def seen() -> list[Any]:
        hooks = [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules()]
        modes = [each.training for each in net.modules()]
        learned = [each.requires_grad for each in net.parameters()]
        return [hooks, modes, learned, list(map(id, net.parameters())), list(net.__dict__)]

    before, state, random = seen(), {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    gradients = [None if each.grad is None else each.grad.clone() for each in net.parameters()]
    predicted_costs(net, X, "mobile_gpu")
    assert seen() == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    for each, gradient in zip(net.parameters(), gradients):
        assert (each.grad is None) if gradient is None else torch.equal(each.grad, gradient)
    assert torch.is_grad_enabled()
    assert torch.nn.modules.module._global_forward_hooks == {}


def test_what_wraps_a_network_costs_nothing(one_process: None) -> None:
    predictors = device_predictors("mobile_gpu")
    plain = predicted_costs(Net(), X, predictors)
    compile_ = partial(torch.compile, backend="eager")
    compiled_in_place = Net()
    compiled_in_place.compile(backend="eager")
    fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
    wrapped = {
        "compiled": compile_(Net()),
        "compiled in place": compiled_in_place,
        "DataParallel": DataParallel(Net()),
        "DistributedDataParallel": DistributedDataParallel(Net()),
        "DistributedDataParallel, compiled": compile_(DistributedDataParallel(compile_(Net()))),
        "Fabric": fabric.setup(Net()),
        "bfloat16": Net().bfloat16(),
        "on the meta device": Net().to("meta"),
        "averaged": torch.optim.swa_utils.AveragedModel(Net()),
    }
    for name, net in wrapped.items():
        assert predicted_costs(net, X, predictors) == plain, name
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert predicted_costs(Net(), X, predictors) == plain
    with torch.no_grad():
        assert predicted_costs(Net(), X, predictors) == plain


def test_a_network_with_a_part_called_module_is_not_taken_for_a_wrapper() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.module(x))

    assert predicted_costs(Headed(), torch.zeros(1, 8), "v100")["network/macs_m"] == pytest.approx(2 * 64 / 1e6)


def test_what_was_pruned_since_the_last_epoch_counts() -> None:
    net, predictors = Net(width=8), device_predictors(["mobile_gpu"])
    before = predicted_costs(net, X, predictors)
    net.features, net.head = Net(width=4).features, Net(width=4).head
    assert predicted_costs(net, X, predictors) == predicted_costs(Net(width=4), X, "mobile_gpu")
    assert predicted_costs(net, X, predictors)["network/params_m"] < before["network/params_m"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_loop_is_compiled_once_though_costs_are_logged_each_epoch(in_place: bool) -> None:
    torch.compiler.reset()
    counter, net = CompileCounter(), Net()
    net.forward = lambda x: net.head(net.features(x).mean((2, 3)))  # type: ignore[method-assign]
    if in_place:
        net.compile(backend=counter)
    compiled = net if in_place else torch.compile(net, backend=counter)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    predictors, frames = device_predictors("mobile_gpu"), []
    for _ in range(4):
        for _ in range(2):
            optimizer.zero_grad()
            compiled(torch.randn(4, 1, 16, 16)).sum().backward()
            optimizer.step()
        predicted_costs(compiled, X, predictors)
        frames.append(counter.frame_count)
    assert frames == [1, 1, 1, 1]


def test_studies_may_ask_for_costs_in_threads_while_others_train() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    x, predictors, found, failed = torch.zeros(1, 4, 16), device_predictors("mobile_gpu"), [], []
    fast = torch.backends.mha.get_fastpath_enabled()

    def work() -> None:
        net = Sequence()
        try:
            for _ in range(5):
                net(torch.randn(2, 4, 16)).sum().backward()
                found.append(predicted_costs(net, x, predictors))
        except Exception as error:  # of a thread, which else dies unseen
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert len(found) == 15
    assert all(each == found[0] for each in found)
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_what_another_thread_is_running_is_no_part_of_the_network() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Training(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            begun.set()
            assert goes_on.wait(10)
            return x

    training = Training()
    training.register_forward_hook(lambda *_: None)  # so that torch looks for hooks once more when it ends
    thread = threading.Thread(target=training, args=(torch.zeros(1),))

    class Traced(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            goes_on.set()
            thread.join()
            return x + 1

    thread.start()
    assert begun.wait(10)
    assert predicted_costs(Traced(), torch.zeros(1, 8), "v100")["v100/traffic_mb"] > 0


def test_devices_are_named_by_themselves_or_by_a_mapping() -> None:
    device = load_device("mobile_gpu")
    assert list(device_predictors([device, "v100"])) == ["mobile_gpu", "v100"]
    by_name = device_predictors({"float32": LatencyPredictor(device, dtype="float32"), "usual": device})
    costs = predicted_costs(Net(), X, by_name)
    assert costs["float32/traffic_mb"] > costs["usual/traffic_mb"]
    with pytest.raises(ValueError, match=r"device 'mobile_gpu' was given twice; give a mapping"):
        device_predictors([device, "mobile_gpu"])
    with pytest.raises(ValueError, match="no device was given"):
        device_predictors([])
    with pytest.raises(ValueError, match=r"mobile_gpuu"):
        predicted_costs(Net(), X, "mobile_gpuu")


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_a_network_whose_graph_changes_with_its_input_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^the costs of Undecided cannot be predicted: .*to decide by, of data.* Leave an input"
    ):
        predicted_costs(Undecided(), torch.zeros(1, 8), "mobile_gpu")


@pytest.mark.parametrize(
    ("example", "found"),
    [
        (torch.zeros(1, 7), r"of shape \(1, 7\)"),
        ((torch.zeros(1, 8), torch.zeros(1, 3)), r"of shape \(1, 8\), of shape \(1, 3\)"),
        ({"y": torch.zeros(1, 8)}, r"of shape \(1, 8\)"),
        ([1, 8], r"\[1, 8\]"),
    ],
)
def test_an_example_input_that_the_network_does_not_take_is_named(example: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"Linear does not take the example input {found}: "):
        predicted_costs(nn.Linear(8, 4), example, "mobile_gpu")


def test_a_network_of_shards_is_named(one_process: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    net = nn.Sequential(nn.Linear(8, 4))
    mesh = init_device_mesh("cpu", (1,))
    net[0].weight = nn.Parameter(distribute_tensor(net[0].weight.detach(), mesh))
    with pytest.raises(ValueError, match=r"Sequential is sharded over processes \(0.weight\).* before it is wrapped"):
        predicted_costs(net, torch.zeros(1, 8), "mobile_gpu")


def test_what_is_no_module_is_named() -> None:
    with pytest.raises(ValueError, match="of a torch module, found function"):
        predicted_costs(lambda x: x, X, "mobile_gpu")  # type: ignore[arg-type]


def test_a_writer_gets_each_figure_at_its_step() -> None:
    written = []

    class Writer:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            written.append((tag, scalar_value, global_step))

    costs = log_costs(Writer(), Net(), X, "mobile_gpu", 7)
    assert written == [(key, value, 7) for key, value in predicted_costs(Net(), X, "mobile_gpu").items()]
    assert costs == {key: value for key, value, _ in written}
