"""Torch modules by what a person writes, traced: a callable that makes one, an exported program, a network of timm.

Where the user's own code fails, its error comes first, then what was asked of it.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from predictors.graph import Graph
from predictors.network_inputs import NetworkInput, check_named, named_at
from predictors.operators import UnknownOperatorError, nearest_names
from predictors.tracing import trace

IMAGE = NetworkInput(shape=(1, 3, 224, 224))
"""What a module takes that nobody says anything about."""


def callable_network(
    text: str, inputs: Sequence[NetworkInput] = (), batch: int | None = None, *, allow_unknown: bool = False
) -> Graph:
    """What `package.module:callable` makes: a module, a module and its example inputs, or a graph.

    Args:
        inputs: that the module takes; none for those that the callable made, or else one image.
        batch: takes the place of the first axis of every input.
    """
    made = _made(text)
    if isinstance(made, Graph):
        _refuse(text, inputs, batch, "makes a graph, which has its shapes")
        return made
    module, own = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module | ExportedProgram):
        raise ValueError(
            f"network {text!r} makes {type(module).__name__}; it has to make a torch module, or a module and its "
            "example inputs"
        )
    example = _tensors(inputs) if inputs or own is None else own
    return _traced(module, with_batch(example, batch), f"network {text!r}", allow_unknown)


def exported_network(
    path: Path, inputs: Sequence[NetworkInput] = (), batch: int | None = None, *, allow_unknown: bool = False
) -> Graph:
    """What `torch.export.save` wrote, on its own example inputs where there are no others."""
    if not is_zipfile(path):
        raise ValueError(f"{path} is no exported program: torch.export.save writes a zip archive")
    try:
        program = torch.export.load(path)
    except Exception as error:  # what a file that is none raises differs by what it is
        raise ValueError(f"{path} is no exported program: {_first_line(error)}") from error
    example: Any = _tensors(inputs) if inputs else None
    if not inputs:
        if program.example_inputs is None:
            raise ValueError(f"{path}: was saved without example inputs, so there is nothing to trace it on")
        if batch is not None:
            args, kwargs = with_batch(program.example_inputs, batch)
            example = kwargs or args
    else:
        example = with_batch(example, batch)
    return _traced(program, example, f"network {str(path)!r}", allow_unknown)


def timm_network(
    text: str, inputs: Sequence[NetworkInput] = (), batch: int | None = None, *, allow_unknown: bool = False
) -> Graph:
    """A network of timm, without its weights.

    Args:
        text: its name, and behind an @ the height and width of the image; by default 224, or the only ones that the
            network takes.
    """
    name, resolution = named_at(text)
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch raises RuntimeError
        raise ValueError(f"network 'timm:{text}' needs timm, which cannot be imported: {error}") from None
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"network 'timm:{text}': timm has no {name!r}{nearest_names(name, timm.list_models())}")
    try:
        with torch.device("meta"):
            module = timm.create_model(name)
    except (RuntimeError, NotImplementedError):  # it computes with numbers while it is built
        try:
            module = timm.create_model(name)
        except RuntimeError as error:
            raise ValueError(f"network 'timm:{text}': {_first_line(error)}") from None
    if not inputs:
        cfg = getattr(module, "pretrained_cfg", None) or {}
        channels, *size = cfg.get("input_size", IMAGE.shape[1:])
        if resolution is not None or not cfg.get("fixed_input_size", False):
            size = [resolution or IMAGE.shape[-1]] * 2
        inputs = [NetworkInput(shape=(1, channels, *size))]
    return _traced(module, with_batch(_tensors(inputs), batch), f"network 'timm:{text}'", allow_unknown)


def with_batch(example: Any, batch: int | None) -> Any:
    """Example inputs with another first axis, without data."""
    if batch is None:
        return example

    def resized(tensor: Tensor) -> Tensor:
        return torch.empty((batch, *tensor.shape[1:]), dtype=tensor.dtype, device="meta") if tensor.dim() else tensor

    return tree_map_only(Tensor, resized, example)


# ------------------------------------------------------------------------------------------------------------ private


def _made(text: str) -> Any:
    name, _, attribute = text.partition(":")
    try:
        found = resolve_name(text)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "; write the module's name without .py" if name.endswith(".py") else ""
            raise ValueError(f"network {text!r}: no callable that makes a module: {error}{hint}") from None
        raise ValueError(f"{_user_error(error)}: so network {text!r} cannot be imported") from error
    except AttributeError as error:
        module = sys.modules.get(name)
        if module is None:
            raise ValueError(f"{_user_error(error)}: so network {text!r} cannot be imported") from error
        hint = nearest_names(attribute, vars(module))
        raise ValueError(f"network {text!r}: no callable that makes a module: {error}{hint}") from None
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ValueError(f"{_user_error(error)}: so network {text!r} cannot be imported") from error
    if isinstance(found, nn.Module | ExportedProgram | Graph):
        return found
    if not callable(found):
        raise ValueError(f"network {text!r}: no callable that makes a module, but {type(found).__name__}")
    try:
        return found()
    except Exception as error:
        raise ValueError(f"{_user_error(error)}: calling {text!r} without arguments failed") from error


def _tensors(inputs: Sequence[NetworkInput]) -> Any:
    """Without data: a mapping where they have names, else a tuple; one image where there are none."""
    inputs = inputs or (IMAGE,)
    made = [torch.empty(each.shape, dtype=getattr(torch, each.dtype or "float32"), device="meta") for each in inputs]
    return {each.name: tensor for each, tensor in zip(inputs, made)} if check_named(inputs) else tuple(made)


def _traced(module: Any, example: Any, what: str, allow_unknown: bool) -> Graph:
    try:
        return trace(module, example, allow_unknown=allow_unknown)
    except UnknownOperatorError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and _is_ours(error):
            raise ValueError(f"{what}: {error}") from error
        raise ValueError(f"{_user_error(error)}: {what} failed its own forward pass on {_shapes(example)}") from error


def _refuse(text: str, inputs: Sequence[NetworkInput], batch: int | None, why: str) -> None:
    if inputs or batch is not None:
        raise ValueError(f"network {text!r} {why}; give it no {'input' if inputs else 'batch'}")


def _shapes(example: Any) -> str:
    if example is None:
        return "its own example inputs"

    def text(each: Any) -> str:
        if not isinstance(each, Tensor):
            return type(each).__name__
        return f"{str(each.dtype).removeprefix('torch.')}{list(each.shape)}"

    if isinstance(example, Mapping):
        return ", ".join(f"{name}={text(each)}" for name, each in example.items())
    return ", ".join(map(text, example if isinstance(example, tuple | list) else (example,)))


def _is_ours(error: Exception) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _user_error(error: Exception) -> str:
    """'RuntimeError: mat1 and mat2 ... (net.py:12 in forward)': the innermost place that is the user's own."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_absolute() and not any(path.is_relative_to(folder) for folder in (_PACKAGE, _STANDARD, _TORCH)):
            return f"{type(error).__name__}: {_first_line(error)} ({path.name}:{frame.lineno} in {frame.name})"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else "no message"


_PACKAGE = Path(__file__).parent
_STANDARD = Path(traceback.__file__).parent
_TORCH = Path(torch.__file__).parent
