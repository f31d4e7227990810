"""Predicted costs in the trainers that people have: Lightning, Hugging Face, anything with a TensorBoard writer.

Each framework is imported when its function is called. For timm's loop and any other that has no callbacks,
`predicted_costs` is the hook: a dict of figures to put beside the loop's own.
"""

import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from torch import nn

from predictors.training.predicted_costs import (
    Devices,
    check_limits,
    device_predictors,
    over_limits,
    predicted_costs,
)

_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


class Writer(Protocol):
    """What is asked of `torch.utils.tensorboard.SummaryWriter`, or whatever has its method."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...


def log_costs(writer: Writer, module: nn.Module, example_input: Any, devices: Devices, step: int) -> dict[str, float]:
    """Write what a network costs now into TensorBoard, and return it: one chart for each key of `predicted_costs`.

    Args:
        writer: a `SummaryWriter`.
        module, example_input, devices: as of `predicted_costs`.
        step: on the charts' axis.

    Raises:
        ValueError: as `predicted_costs`.
    """
    costs = predicted_costs(module, example_input, devices)
    for key, value in costs.items():
        writer.add_scalar(key, value, step)
    return costs


def lightning_callback(
    devices: Devices,
    example_input: Any = None,
    *,
    network: str | None = None,
    limits: Mapping[str, float] | None = None,
) -> Any:
    """A Lightning callback that logs predicted costs at the end of each training epoch: keys of `predicted_costs`.

        trainer = Trainer(callbacks=[lightning_callback("mobile_gpu", torch.zeros(1, 3, 224, 224))])

    It works with whichever of `lightning.pytorch` and `pytorch_lightning` was imported. The figures go to every logger
    and to `trainer.callback_metrics`, where checkpoints and early stopping find them.

    Args:
        devices: as of `predicted_costs`; their files and tables are read once.
        example_input: as of `predicted_costs`; None takes the module's `example_input_array`.
        network: path of the attribute of the LightningModule that is deployed, such as "model"; None: it itself, by its
            `forward`.
        limits: upper bounds by the keys that are logged, e.g. {"mobile_gpu/latency_ms": 5}. A network over one is an
            error before the first step; one that grows over it later stops training after that epoch, with a warning.

    Raises:
        ImportError: Lightning is not installed.
        ValueError: an unknown device, a limit on something else; when training starts, also as `predicted_costs`.
    """
    names = [name for name in _LIGHTNING if name in sys.modules] or [_installed(_LIGHTNING, "lightning")]
    callback: Any = _lightning_class(tuple(names))
    return callback(devices, example_input, network, limits)


def huggingface_callback(
    trainer: Any, devices: Devices, example_input: Any, *, limits: Mapping[str, float] | None = None
) -> Any:
    """A `TrainerCallback` that logs predicted costs after each epoch: keys of `predicted_costs`.

        trainer.add_callback(huggingface_callback(trainer, "mobile_gpu", {"pixel_values": torch.zeros(1, 3, 224, 224)}))

    The figures go through `trainer.log`, as the losses do: into its history and to all that it reports to. That is why
    it takes the trainer, which callbacks are not told of.

    Args:
        trainer: a `transformers.Trainer` or one derived from it.
        devices: as of `predicted_costs`; their files and tables are read once.
        example_input: as of `predicted_costs`, e.g. a mapping of the model's keyword arguments; without labels, else
            the loss is a part of the network.
        limits: as of `lightning_callback`.

    Raises:
        ImportError: transformers is not installed.
        ValueError: an unknown device, a limit on something else; when training starts, also as `predicted_costs`.
    """
    _installed(("transformers",), "transformers")
    callback: Any = _huggingface_class()
    return callback(trainer, devices, example_input, limits)


# ------------------------------------------------------------------------------------------------------------ private


class _LightningHooks:
    """What Lightning calls; the class that it is given also inherits its own `Callback`."""

    def __init__(
        self, devices: Devices, example_input: Any, network: str | None, limits: Mapping[str, float] | None
    ) -> None:
        self.predictors = device_predictors(devices)
        self.example_input, self.network = example_input, network
        self.limits = check_limits(limits or {}, self.predictors)

    def __reduce__(self) -> tuple[Any, ...]:  # its class is made at run time; processes that are spawned make it again
        return _lightning_again, (self.predictors, self.example_input, self.network, self.limits)

    def costs(self, pl_module: nn.Module) -> dict[str, float]:
        name = type(pl_module).__name__
        example_input = self.example_input
        if example_input is None:
            example_input = getattr(pl_module, "example_input_array", None)
        if example_input is None:
            raise ValueError(
                f"lightning_callback: no example input; give one, or set example_input_array of {name}, such as "
                "torch.zeros(1, 3, 224, 224)"
            )
        try:
            net = pl_module.get_submodule(self.network) if self.network else pl_module
        except AttributeError as error:
            raise ValueError(f"lightning_callback: network={self.network!r}: {error}") from error
        if net is pl_module and not _has_forward(net):
            raise ValueError(
                f"lightning_callback: {name} has no forward; name the attribute that holds the network with network=, "
                f"one of {[name for name, _ in net.named_children()]}"
            )
        return predicted_costs(net, example_input, self.predictors)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if over := over_limits(self.costs(pl_module), self.limits):
            raise ValueError(over)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        costs = self.costs(pl_module)
        # The same in every process, so that the mean over them changes nothing but Lightning's advice to take it.
        pl_module.log_dict(costs, sync_dist=trainer.world_size > 1)
        if over := over_limits(costs, self.limits):
            warnings.warn(f"training stops: {over}", stacklevel=2)
            trainer.should_stop = True


class _HuggingFaceHooks:
    """What transformers' trainer calls; the class that it is given also inherits `TrainerCallback`."""

    def __init__(self, trainer: Any, devices: Devices, example_input: Any, limits: Mapping[str, float] | None) -> None:
        self.trainer, self.example_input = trainer, example_input
        self.predictors = device_predictors(devices)
        self.limits = check_limits(limits or {}, self.predictors)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if over := over_limits(predicted_costs(model, self.example_input, self.predictors), self.limits):
            raise ValueError(over)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        costs = predicted_costs(model, self.example_input, self.predictors)
        should_log = control.should_log
        self.trainer.log(dict(costs))
        control.should_log = should_log  # of the epoch's loss, which `log` takes for done
        if over := over_limits(costs, self.limits):
            warnings.warn(f"training stops: {over}", stacklevel=2)
            control.should_training_stop = True


def _lightning_again(*settings: Any) -> Any:
    devices, example_input, network, limits = settings
    return lightning_callback(devices, example_input, network=network, limits=limits)


@cache
def _lightning_class(packages: tuple[str, ...]) -> type:
    bases = dict.fromkeys(import_module(name).Callback for name in packages)
    return type("PredictedCosts", (_LightningHooks, *bases), {})


@cache
def _huggingface_class() -> type:
    return type("PredictedCosts", (_HuggingFaceHooks, import_module("transformers").TrainerCallback), {})


def _installed(names: tuple[str, ...], to_install: str) -> str:
    """The first of the packages that can be imported.

    Raises:
        ImportError: none can.
    """
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != name.partition(".")[0]:
                raise  # it is there, something that it needs is not
        else:
            return name
    raise ImportError(f"this callback needs {' or '.join(names)}, which is not installed: pip install {to_install}")


def _has_forward(net: nn.Module) -> bool:
    """Whether a class of the user's own, not the framework's base, says what `forward` is."""
    owner = next(each for each in type(net).__mro__ if "forward" in vars(each))
    return owner.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning", "torch")
