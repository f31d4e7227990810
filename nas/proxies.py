"""Zero-cost proxies: numbers of an untrained network that shall rank it. They are scores, no accuracies.

How well they rank is reported by `python -m nas.rank`, not assumed; `macs` and `params` are the baselines to beat.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nas.accuracy import check_data_fits
from nas.data import ImageData
from nas.data.inputs import evaluation_input
from nas.result import Judgement
from nas.scoring import Scoring
from nas.training import Recipe
from predictors.operators import nearest_names
from search_spaces.space import Arch, Space

NUM_REFERENCES = 16
"""Random archs whose raw values say what is usual in a space."""
IMAGES = ("data", "noise")
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a proxy may look at: normalised images (batch, channels, size, size) and their classes (batch,)."""

    x_BCHW: torch.Tensor
    labels_B: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Attributes:
    measure: a network with fresh weights -> a number that grows with how good it shall be; -inf at the worst.
    of_arch: instead, of what needs no network.
    needs_images: real ones, beside their shape.
    """

    source: str
    measure: Callable[[nn.Module, Inputs], float] | None = None
    of_arch: Callable[[Space, Mapping[str, int]], float] | None = None
    needs_images: bool = False


def synflow(module: nn.Module, inputs: Inputs) -> float:
    """log of the sum over weights of |w * dR/dw|, where R sums the outputs for an image of ones and weights |w|.

    Normalizations keep their initial statistics, 0 and 1, and so pass on what they get.
    """
    module.eval().double()
    for parameter in module.parameters():
        parameter.data.abs_()
    x_1CHW = torch.ones_like(inputs.x_BCHW[:1], dtype=torch.float64)
    torch.autograd.backward(module(x_1CHW).sum())
    flow = sum(float((each.detach() * each.grad).abs().sum()) for each in _weights(module) if each.grad is not None)
    return math.log(flow) if flow > 0 else -math.inf


def naswot(module: nn.Module, inputs: Inputs) -> float:
    """log |det K|, where K[i, j] counts the activations whose inputs have the same sign for images i and j.

    Normalizations use the batch's statistics. A network without activations, or with images that it cannot tell apart,
    gets -inf.
    """
    num = len(inputs.x_BCHW)
    kernel = torch.zeros(num, num, dtype=torch.float64)

    def count(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        on = (arguments[0].detach().reshape(num, -1) > 0).float()
        kernel.add_((on @ on.T + (1 - on) @ (1 - on).T).double().cpu())

    handles = [each.register_forward_pre_hook(count) for each in module.modules() if isinstance(each, ACTIVATIONS)]
    with torch.no_grad():
        module.train()(inputs.x_BCHW)
    for handle in handles:
        handle.remove()
    sign, log_determinant = np.linalg.slogdet(kernel.numpy())
    return float(log_determinant) if sign > 0 else -math.inf


def grad_norm(module: nn.Module, inputs: Inputs) -> float:
    """log of the Euclidean norm of the gradient of the cross-entropy; normalizations use the batch's statistics."""
    module.train()
    torch.autograd.backward(cross_entropy(module(inputs.x_BCHW), inputs.labels_B))
    squared = sum(float(each.grad.double().square().sum()) for each in module.parameters() if each.grad is not None)
    return 0.5 * math.log(squared) if squared > 0 else -math.inf


PROXIES: dict[str, Proxy] = {
    "naswot": Proxy(
        source="J. Mellor et al., Neural Architecture Search without Training, ICML 2021, https://arxiv.org/abs/2006.04647",
        measure=naswot,
        needs_images=True,
    ),
    "synflow": Proxy(
        source="H. Tanaka et al., NeurIPS 2020, https://arxiv.org/abs/2006.05467, as a proxy: M. Abdelfattah et al., "
        "Zero-Cost Proxies for Lightweight NAS, ICLR 2021, https://arxiv.org/abs/2101.08134",
        measure=synflow,
    ),
    "grad_norm": Proxy(
        source="M. Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021, https://arxiv.org/abs/2101.08134",
        measure=grad_norm,
        needs_images=True,
    ),
    "macs": Proxy(source="a baseline", of_arch=lambda space, arch: math.log(max(1, space.graph(arch).macs))),
    "params": Proxy(source="a baseline", of_arch=lambda space, arch: math.log(max(1, space.graph(arch).num_params))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FromProxy:
    """A zero-cost proxy's score.

    Args:
        proxy: a name in `PROXIES`.
        images: "data", training images; or "noise", drawn from a standard normal distribution, with random classes.
        num_images: that the proxy looks at.
        num_inits: fresh weights, over which the proxy's logarithmic value is averaged.
        seed: of the images and of the weights.
    """

    needs_training = False

    proxy: str = "naswot"
    images: str = "data"
    num_images: int = 32
    num_inits: int = 3
    seed: int = 0

    @property
    def needs_data(self) -> bool:
        return _proxy(self.proxy).needs_images and self.images == "data"

    def check(self, space: Space, data: ImageData | None) -> None:
        if self.images not in IMAGES:
            raise ValueError(f"accuracy.images is {self.images!r}, none of {list(IMAGES)}")
        for name in ("num_images", "num_inits"):
            if getattr(self, name) < 1:
                raise ValueError(f"accuracy.{name} must be at least 1, found {getattr(self, name)}")
        if self.num_images < 2 and _proxy(self.proxy).needs_images:
            raise ValueError("accuracy.num_images must be at least 2: one image has no batch statistics")
        if self.seed < 0:
            raise ValueError(f"accuracy.seed must not be negative, found {self.seed}")
        if data is not None:
            check_data_fits(space, data)

    def digest(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> str:
        return hashlib.sha256(f"1 {data.digest if data else ''}".encode()).hexdigest()

    def load(self, space: Space, data: ImageData | None, recipe: Recipe | None) -> Scoring:
        self.check(space, data)
        raw = RawProxy(space, data, self)
        rng = np.random.default_rng(0)
        references = [raw(space.sample(rng)) for _ in range(NUM_REFERENCES)]
        origin = (
            f"those of the zero-cost proxy {self.proxy} of untrained networks, which are no accuracies and only rank"
        )
        return Scoring(accuracy=Score(raw, references), judgement=Judgement(name="score", origin=origin))


class RawProxy:
    """The proxy's own value of an arch, averaged over inits: any finite number, or -inf."""

    def __init__(self, space: Space, data: ImageData | None, asked: FromProxy) -> None:
        self.space, self.data, self.asked, self.proxy = space, data, asked, _proxy(asked.proxy)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if asked.needs_data:
            assert data is not None
            chosen = np.random.default_rng(asked.seed).permutation(len(data.train))[: asked.num_images]
            self._batch = data.train.read(np.sort(chosen))
            if len(self._batch.labels) < 2:
                raise ValueError(f"data {data.name!r}: of {len(chosen)} training images, fewer than 2 can be read")

    def __call__(self, arch: Mapping[str, int]) -> float:
        arch = self.space.canonical(arch)
        if self.proxy.of_arch is not None:
            return float(self.proxy.of_arch(self.space, arch))
        assert self.proxy.measure is not None
        values = []
        for init in range(self.asked.num_inits):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1000 * self.asked.seed + init)
                module = self.space.build(arch).to(self.device)
            values.append(self.proxy.measure(module, self._inputs(arch)))
        mean = float(np.mean(values))
        if math.isnan(mean) or mean == math.inf:
            raise ValueError(f"proxy {self.asked.proxy!r} gives {values} for arch {arch}; choose another proxy")
        return mean

    def _inputs(self, arch: Arch) -> Inputs:
        size = self.space.image_size(arch)
        if not self.asked.needs_data:
            num = self.asked.num_images if self.proxy.needs_images else 1
            generator = torch.Generator().manual_seed(self.asked.seed)
            x_BCHW = torch.randn(num, self.space.in_channels, size, size, generator=generator)
            labels_B = torch.randint(self.space.num_classes, (num,), generator=generator)
            return Inputs(x_BCHW=x_BCHW.to(self.device), labels_B=labels_B.to(self.device))
        assert self.data is not None
        return Inputs(
            x_BCHW=evaluation_input(self.data, self._batch.images, size).to(self.device),
            labels_B=torch.from_numpy(self._batch.labels).to(self.device),
        )


class Score:
    """A raw value as a score in [0, 1] that keeps its rank: 0.5 is the median of the references.

    score = 1/2 + atan((raw - median) / spread) / pi, which is 0 for -inf and never the same for two different values of
    any usual size.
    """

    def __init__(self, raw: Callable[[Mapping[str, int]], float], references: Sequence[float]) -> None:
        self.raw = raw
        finite = [each for each in references if math.isfinite(each)] or [0.0]
        low, self.median, high = np.quantile(finite, (0.25, 0.5, 0.75))
        self.spread = float(high - low) or 1.0

    def __call__(self, arch: Mapping[str, int]) -> float:
        return 0.5 + math.atan((self.raw(arch) - float(self.median)) / self.spread) / math.pi


# ------------------------------------------------------------------------------------------------------------ private


def _proxy(name: str) -> Proxy:
    if name not in PROXIES:
        raise ValueError(f"unknown proxy {name!r}{nearest_names(name, PROXIES)}; there are {list(PROXIES)}")
    return PROXIES[name]


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """Those of convolutions and linear layers."""
    return [each for each in module.parameters() if each.ndim > 1]
