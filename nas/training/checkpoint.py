"""Checkpoints and trained weights on disk: written whole or not at all, read without running anything in them."""

import errno
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from nas.accuracy import channels_last
from nas.files import replacing
from search_spaces.space import Space
from search_spaces.supernet import Supernet


def save_supernet(path: Path, supernet: Supernet, key: str) -> None:
    """Write the weights as safetensors, whole or not at all."""
    save_weights(path, supernet, key, supernet.space.name)


def load_supernet(path: Path, space: Space, key: str) -> Supernet:
    """The supernet of a space with weights that `save_supernet` wrote.

    Raises:
        ValueError: the file is damaged, or holds the weights of another space, other data or another recipe.
    """
    weights = load_weights(path, key)
    supernet = channels_last(space.supernet())
    load_into(supernet, weights, f"supernet {path}")
    return supernet.eval()


def save_weights(path: Path, module: nn.Module, key: str, name: str) -> None:
    """Write a module's weights as safetensors, whole or not at all."""
    weights = {
        each: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for each, tensor in module.state_dict().items()
    }
    _write(path, safetensors.torch.save(weights, {"key": key, "space": name}))


def load_weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    """The weights that `save_weights` wrote.

    Raises:
        ValueError: the file is damaged, or of another training.
    """
    try:
        weights, metadata = read_safetensors(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights file {path} is damaged ({error}); delete it to train again") from None
    _check_key(path, metadata.get("key"), metadata.get("space"), key)
    return weights


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        safetensors.SafetensorError: it is damaged, or something else.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def load_into(module: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Give a module weights.

    Raises:
        ValueError: weights are missing, unknown, or of another shape; the first few are named.
    """
    own = module.state_dict()
    problems = [f"lacks {name!r}" for name in own if name not in weights]
    problems += [f"has {name!r} too many" for name in weights if name not in own]
    problems += [
        f"has {name!r} of shape {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more such" if problems[5:] else ""
        raise ValueError(f"{where} does not fit: it {', '.join(problems[:5])}{more}")
    module.load_state_dict(weights)


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training, whole or not at all.

    Raises:
        OSError: it cannot be written; the checkpoint that was there stays.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write(path, buffer.getvalue())


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """The state of a training, on the processor.

    Raises:
        ValueError: it is damaged, holds code, or is of another training.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise ValueError(
                f"checkpoint {path} wants to run code ({found[1]}) and is refused; it was not written by this program"
            ) from None
        reason = str(error).partition("\n")[0] or "it ends too early"
        raise ValueError(f"checkpoint {path} is damaged ({reason}); delete it to train again") from None
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path} is damaged (it holds a {type(state).__name__}); delete it to train again")
    _check_key(path, state.get("key"), state.get("space"), key)
    return state


# ------------------------------------------------------------------------------------------------------------ private


def _check_key(path: Path, found: object, name: object, expected: str) -> None:
    if found != expected:
        raise ValueError(
            f"{path} holds another training (space {name!r}, hash {str(found)[:12]}) than the one asked for "
            f"(hash {expected[:12]}); move it away to train again"
        )


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(error.errno, f"cannot write {len(content)} bytes: {reason}", str(path)) from error
