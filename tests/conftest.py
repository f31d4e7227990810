"""What all tests share."""

import importlib.util
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)


def pytest_configure() -> None:
    """PyPI's torchvision is compiled for CUDA, so beside a CPU build of torch its operators are missing and it cannot
    be imported, nor timm, which only wants its transforms. Their schemas are enough for that.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        schemas = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(schemas)


_kept: list[torch.library.Library] = []
"""A library's schemas vanish with it."""


@pytest.fixture(scope="session")
def fvcore_macs() -> Callable[[nn.Module, Tensor], int]:
    """MACs of a module's forward in eval mode, as fvcore's trace counts them: the second route to every count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch 2.13 deprecates torch.jit, which fvcore stands on
        from fvcore.nn import FlopCountAnalysis

    def count(net: nn.Module, x: Tensor) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            analysis = FlopCountAnalysis(net.eval(), x)
            return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())

    return count
