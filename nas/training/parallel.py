"""The processes of one training: a device for each, sums over all, precision. Lightning Fabric sets them up.

`torchrun` starts the processes; without it there is one. Modules are not wrapped in DistributedDataParallel: a sandwich
step has several backward passes over subnets that leave parameters unused, and one sum after all of them is enough.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from nas.training.recipe import Recipe

BUCKET_BYTES = 25 << 20
"""Gradients are summed in pieces of about this size: large enough to hide what starting a sum costs."""

FABRIC_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
_Object = TypeVar("_Object")


class Processes:
    """The processes that train together, seen from one of them."""

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.device: torch.device = fabric.device
        self.rank: int = fabric.global_rank
        self.num: int = fabric.world_size
        self.is_first = self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """Computes in the recipe's precision."""
        context: AbstractContextManager[None] = self._fabric.autocast()
        return context

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.num > 1:
            dist.all_reduce(tensor)
        return tensor

    def share(self, value: _Object) -> _Object:
        """The first process's value, in all of them. Tensors come to the processor's memory."""
        if self.num == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def sum_gradients(self, module: nn.Module) -> None:
        """Each gradient becomes the sum over all processes; parameters without one have none in any process."""
        if self.num > 1:
            gradients = [each.grad for each in module.parameters() if each.grad is not None]
            for bucket in _buckets(gradients):
                self._sum_together(bucket)

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Each of the floating-point tensors becomes its mean over all processes."""
        if self.num > 1:
            floating = [each for each in tensors if each.is_floating_point()]
            for bucket in _buckets(floating):
                self._sum_together(bucket)
            for each in floating:
                each /= self.num

    def _sum_together(self, tensors: list[torch.Tensor]) -> None:
        flat = torch.cat([each.reshape(-1) for each in tensors])
        dist.all_reduce(flat)
        for each, summed in zip(tensors, torch.split(flat, [each.numel() for each in tensors])):
            each.copy_(summed.view(each.shape))


def processes_of(recipe: Recipe) -> Processes:
    """The processes that `torchrun` started, or this one, on the devices that the recipe wants.

    Raises:
        ValueError: there is no such device, or it does not compute in the recipe's precision.
    """
    accelerator = recipe.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[accelerator]:
        found = [name for name, is_there in available.items() if is_there]
        raise ValueError(f"training: accelerator {accelerator!r} is not there; this machine has {found}")
    if recipe.precision == "float16" and accelerator != "cuda":
        raise ValueError(f"training: precision float16 needs a GPU, found {accelerator!r}; bfloat16 works everywhere")
    return _launched(accelerator, recipe.precision)


def is_first_process() -> bool:
    """Whether this is the process that writes and prints; the only one without `torchrun`."""
    return int(os.environ.get("RANK", "0")) == 0


# ------------------------------------------------------------------------------------------------------------ private


@cache
def _launched(accelerator: str, precision: str) -> Processes:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    num, num_local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    is_parallel = num > 1 and TorchElasticEnvironment.detect()
    if is_parallel and accelerator == "cuda" and num_local > torch.cuda.device_count():
        raise ValueError(
            f"training: {num_local} processes for {torch.cuda.device_count()} GPUs; "
            f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=num_local if is_parallel else 1,
        num_nodes=num // num_local if is_parallel else 1,
        strategy="ddp" if is_parallel else "auto",
        precision=FABRIC_PRECISIONS[precision],  # type: ignore[arg-type]
        plugins=[TorchElasticEnvironment() if is_parallel else LightningEnvironment()],
    )
    fabric.launch()
    return Processes(fabric)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for each in tensors:
        if bucket and (
            sum(other.nbytes for other in bucket) + each.nbytes > BUCKET_BYTES or each.dtype != bucket[0].dtype
        ):
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket
