"""Batch normalization over the images of all processes, on any device.

Source: as torch.nn.SyncBatchNorm, which needs a GPU; moments are merged as in T. Chan, G. Golub, R. LeVeque, "Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode


class SynchronisedNorms(TorchFunctionMode):
    """In this block every `torch.nn.functional.batch_norm` in training, whichever module calls it, normalises with the
    statistics of all processes. All of them have to call the same ones in the same order; a process may have no images.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is batch_norm:
            return _batch_norm(*args, **kwargs)
        return function(*args, **kwargs)


def _batch_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    if not training:
        return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    mean_C, var_C, num = _moments_of_all(x.detach())
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((var_C * num / (num - 1).clamp(min=1)).to(running_var.dtype), momentum)
    x_hat: torch.Tensor = _Normalise.apply(x, mean_C, (var_C + eps).rsqrt(), num)  # type: ignore[no-untyped-call]
    shape = _along_channels(x)
    if weight is not None:
        x_hat = x_hat * weight.view(shape)
    return (x_hat if bias is None else x_hat + bias.view(shape)).to(x.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, with the gradient that flows through the moments of all processes:
    dx = (dy - mean(dy) - x_hat * mean(dy * x_hat)) / deviation, means over the images of all.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mean_C: torch.Tensor, scale_C: torch.Tensor, num: torch.Tensor) -> Any:
        shape = _along_channels(x)
        x_hat = (x.float() - mean_C.view(shape)) * scale_C.view(shape)
        ctx.save_for_backward(x_hat, scale_C, num)
        ctx.dtype = x.dtype
        return x_hat

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x_hat, scale_C, num = ctx.saved_tensors
        [dy] = gradients
        shape, axes = _along_channels(x_hat), _other_axes(x_hat)
        sums_2C = torch.stack([dy.sum(axes), (dy * x_hat).sum(axes)])
        dist.all_reduce(sums_2C)
        mean_C, slope_C = sums_2C / num
        dx = (dy - mean_C.view(shape) - x_hat * slope_C.view(shape)) * scale_C.view(shape)
        return dx.to(ctx.dtype), None, None, None


def _moments_of_all(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel over all processes, and the number of values a channel."""
    axes, x = _other_axes(x), x.float()
    num = x.numel() // x.shape[1] if x.shape[1] else 0
    mean_C = x.mean(axes) if num else x.new_zeros(x.shape[1])
    squares_C = (x - mean_C.view(_along_channels(x))).square().sum(axes)
    own = torch.cat([mean_C, squares_C, mean_C.new_tensor([float(num)])])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    means_RC, squares_RC, nums_R1 = torch.split(torch.stack(gathered), [x.shape[1], x.shape[1], 1], dim=1)
    total = nums_R1.sum()
    mean_C = (means_RC * nums_R1).sum(0) / total
    var_C = (squares_RC + nums_R1 * (means_RC - mean_C).square()).sum(0) / total
    return mean_C, var_C, total


def _other_axes(x: torch.Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _along_channels(x: torch.Tensor) -> list[int]:
    return [-1 if axis == 1 else 1 for axis in range(x.ndim)]
