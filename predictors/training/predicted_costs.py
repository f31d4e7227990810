"""What a network costs while it is trained, as figures for a log: the predictor as a metric of any training loop."""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map_only

from predictors.device import Device, load_device
from predictors.graph import Graph
from predictors.latency import LatencyPredictor, Prediction
from predictors.operators import UnknownOperatorError
from predictors.tracing import trace

Predictor = str | Device | LatencyPredictor
"""A device by name or path, a device, or a predictor with its dtype, runtime and tables."""

Devices = Predictor | Sequence[Predictor] | Mapping[str, Predictor]
"""One or several, in a mapping under the names that they are logged with."""

_ONE_AT_A_TIME = Lock()
"""Tracing and forking change settings of the whole process for a moment; studies run trials in threads."""

_LEFT_OUT = (
    " Leave an input that it decides by, such as a mask of ones, out of the example; or give the part of the network "
    "that always runs"
)

_OF_DEVICE = {
    "latency_ms": ("latency_s", 1e-3),
    "latency_std_ms": ("std_s", 1e-3),
    "traffic_mb": ("traffic_bytes", 1e6),
    "arithmetic_intensity_flop_per_byte": ("arithmetic_intensity", 1.0),
    "peak_memory_mb": ("peak_memory_bytes", 1e6),
    "energy_mj": ("energy_j", 1e-3),
}
_OF_NETWORK = {"macs_m": ("macs", 1e6), "params_m": ("num_params", 1e6)}


def predicted_costs(module: nn.Module, example_input: Any, devices: Devices) -> dict[str, float]:
    """Latency, traffic, intensity, peak memory of a network on each device, MACs and parameters: keys say the units.

    The network is traced as it is now, in eval mode, so that what was pruned since the last call counts. Weights,
    modes, gradients, hooks and the state of torch's random numbers are left as they are; what wraps the network
    (`torch.compile`, `DataParallel`, `DistributedDataParallel`, Fabric) is looked through, and autocast or the dtype of
    its weights change nothing: costs are those of the dtype that the predictor deploys.

    Args:
        module: a network in training or not, on any device.
        example_input: what the network is deployed for: a tensor, the sequence of positional arguments, or a mapping
            of keyword arguments. Only shapes count.
        devices: such as "mobile_gpu" or ["mobile_gpu", "h200"]. Names are read anew in each call (milliseconds, with
            tables up to half a second); a loop hands over what `device_predictors` made of them once.

    Raises:
        ValueError: no such device, an input that the network does not take, a network whose graph changes with the
            data of its input, an operator without a formula, or parameters that are sharded over processes.

    >>> costs = predicted_costs(nn.Linear(1000, 1000), torch.zeros(1, 1000), "mobile_gpu")
    >>> costs["network/macs_m"], costs["mobile_gpu/traffic_mb"]  # 2 bytes each: 1000 inputs, weights, 1000 outputs
    (1.0, 2.006)
    """
    graph = deployed_graph(module, example_input)
    return logged({name: each.predict(graph) for name, each in device_predictors(devices).items()})


def device_predictors(devices: Devices) -> dict[str, LatencyPredictor]:
    """Predictors under the names that they are logged with: those of the mapping, else of their devices.

    Raises:
        ValueError: no device, an unknown one, or two of one name.
    """
    if isinstance(devices, Mapping):
        named = dict(devices)
    else:
        given = [devices] if isinstance(devices, str | Device | LatencyPredictor) else list(devices)
        named = {}
        for each in map(_predictor, given):
            if each.device.name in named:
                raise ValueError(
                    f"device {each.device.name!r} was given twice; give a mapping from names to predictors, such as "
                    '{"float32": LatencyPredictor(device, dtype="float32"), "usual": device}'
                )
            named[each.device.name] = each
    if not named:
        raise ValueError("no device was given; give at least one, such as 'mobile_gpu'")
    return {name: _predictor(each) for name, each in named.items()}


def deployed_graph(module: nn.Module, example_input: Any) -> Graph:
    """The graph of the network as it is now, without what training wraps around it.

    Raises:
        ValueError: as `predicted_costs`.
    """
    net = _unwrapped(module)
    name = type(net).__name__
    _check_whole(net)
    example_input = _in_dtype_of(net, example_input)
    try:
        # A forward pass may draw random numbers, those of its loop must not depend on whether anyone looked at costs.
        with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            return trace(net, example_input)
    except UnknownOperatorError as error:
        said, by_data, _ = str(error).partition(" with_data=True")  # an option of `trace` alone
        raise UnknownOperatorError(
            f"the costs of {name} cannot be predicted: {said}{_LEFT_OUT if by_data else ''}"
        ) from error
    except Exception as error:
        raise ValueError(f"{name} does not take the example input {_shapes(example_input)}: {error}") from error


def logged(predictions: Mapping[str, Prediction]) -> dict[str, float]:
    """The figures of `predicted_costs` from one network's predictions, by device."""
    figures = {}
    for name, prediction in predictions.items():
        for key, (of, unit) in _OF_DEVICE.items():
            if of != "energy_j" or prediction.device.has_energy:
                figures[f"{name}/{key}"] = getattr(prediction, of) / unit
    any_device = next(iter(predictions.values()))
    return figures | {f"network/{key}": getattr(any_device, of) / unit for key, (of, unit) in _OF_NETWORK.items()}


def check_limits(limits: Mapping[str, float], predictors: Mapping[str, LatencyPredictor]) -> dict[str, float]:
    """The limits themselves, once each is a positive number for a key of `predicted_costs` that can be too large.

    Raises:
        ValueError: another key, or a limit that is not positive.
    """
    of_device = ("latency_ms", "traffic_mb", "peak_memory_mb", "energy_mj")
    keys = {f"{name}/{key}": each.device for name, each in predictors.items() for key in of_device}
    unknown = [key for key, device in keys.items() if key.endswith("/energy_mj") and not device.has_energy]
    known = [key for key in keys if key not in unknown] + [f"network/{key}" for key in _OF_NETWORK]
    for key, limit in limits.items():
        if key in unknown:
            raise ValueError(f"limit {key!r}: the device gives no energy per MAC or byte, so its energy is unknown")
        if key not in known:
            raise ValueError(f"limit {key!r}: there is no such cost; limits can be on {known}")
        if not limit > 0:
            raise ValueError(f"limit {key!r} must be positive, found {limit}")
    return dict(limits)


def over_limits(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """A sentence that names every cost over its limit; empty where there is none."""
    over = [
        f"{key} is {costs[key]:.4g}, over its limit {limit:g}" for key, limit in limits.items() if costs[key] > limit
    ]
    return "; ".join(over)


# ------------------------------------------------------------------------------------------------------------ private


def _predictor(given: Predictor) -> LatencyPredictor:
    if isinstance(given, LatencyPredictor):
        return given
    return LatencyPredictor(given if isinstance(given, Device) else load_device(given))


def _unwrapped(module: Any) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise ValueError(f"costs are predicted of a torch module, found {type(module).__name__}")
    while True:
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod  # of torch.compile
        elif type(module).__name__ == "_FabricModule":
            module = module.module  # it casts what goes in and out
        else:
            net: nn.Module = module
            return net


def _check_whole(net: nn.Module) -> None:
    """Raises:
    ValueError: each process holds a shard of the parameters.
    """
    held = {name for name, each in net.named_parameters() if hasattr(each, "_local_tensor") or hasattr(each, "ds_id")}
    held |= {name for name, each in net.named_modules() if type(each).__name__ == "FullyShardedDataParallel"}
    if held:
        raise ValueError(
            f"{type(net).__name__} is sharded over processes ({min(held) or 'as a whole'}), so its shapes are not its "
            "own; take the costs before it is wrapped: predicted_costs(module, example_input, devices)"
        )


def _in_dtype_of(net: nn.Module, example_input: Any) -> Any:
    """Floating tensors as networks in half precision want them; the costs' dtype is the predictor's in any case."""
    dtype = next((each.dtype for each in net.parameters() if each.is_floating_point()), None)
    if dtype is None:
        return example_input
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, example_input)


def _shapes(example_input: Any) -> str:
    tensors = [each for each in tree_leaves(example_input) if isinstance(each, Tensor)]
    return ", ".join(f"of shape {tuple(each.shape)}" for each in tensors) or f"{example_input!r:.80}"
