"""What a network costs, as amounts of work by kernel class: the terms that `predictors.rates` fits.

A class has a term for its flops and one for its bytes, both in seconds at the device's peaks, and one for the number of
its kernels. Their rates are what a `ClassEfficiency` says: 1 / share of the peak, and seconds that a kernel takes
whatever its size. Kernels without weights have one share for flops and bytes alike; in int8 networks they run in
float32, between a dequantisation and a quantisation, and their rates are those of the other networks.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from predictors.cost import bytes_per_element, kernel_cost
from predictors.device import ANY_CLASS, ClassEfficiency, Device
from predictors.fusion import Kernel, Runtime, fuse
from predictors.graph import Graph
from predictors.operators import Conv2d
from predictors.rates import RatePrior

Resource = Literal["compute", "bytes", "kernels"]

FLOAT = "float"
"""Stands for the dtype of terms that networks of all dtypes share."""

RAGGED = "_ragged"
"""Ends the class of dense convolutions with channels that are no multiple of 4, which vector units do not divide."""

FIXED_UNIT_S = 1e-6
"""Kernels and networks count as if each took this long; their rates are multiples of it."""


@dataclass(frozen=True, order=True, slots=True)
class Term:
    """Work of one sort."""

    dtype: str
    kernel_class: str
    resource: Resource


NETWORK = Term("", "network", "kernels")
"""What a network takes beside its kernels."""

_WEIGHTED = frozenset({"conv2d", "depthwise_conv2d", "conv_transpose2d", "linear", "matmul", "attention"})
_OWN_CLASS = frozenset({"conv2d_3x3_s1", "conv2d_1x1", "depthwise_conv2d_3x3"})


def efficiency_names(kernel: Kernel) -> tuple[str, ...]:
    """Names under which a device may file the kernel's efficiency, the most specific first."""
    return (
        tuple(f"{name}{RAGGED}" for name in kernel.classes) + kernel.classes if _is_ragged(kernel) else kernel.classes
    )


def fitted_class(kernel: Kernel) -> str:
    """The class whose rates are fitted for the kernel, one of `efficiency_names`.

    >>> from predictors.fusion import kernel_from_text
    >>> text = "conv2d(in_channels=8, out_channels=6, height=4, width=4, kernel=(3, 3), stride=(2, 2), padding=(1, 1))"
    >>> fitted_class(kernel_from_text(text, "float32"))
    'conv2d_ragged'
    """
    classes = kernel.classes
    if kernel.anchor.kind == "normalization":
        return classes[0]
    name = next((each for each in classes if each in _OWN_CLASS), classes[-1])
    return f"{name}{RAGGED}" if _is_ragged(kernel) else name


def term_amounts(graph: Graph, device: Device, runtime: Runtime, dtype: str) -> dict[Term, float]:
    """Amounts of work of a network, in seconds at the device's peaks and in `FIXED_UNIT_S`; all positive.

    Args:
        dtype: of the nodes that say none; nodes that do compute in theirs, with or without weights.
    """
    found: defaultdict[Term, float] = defaultdict(float)
    for node in fuse(graph, runtime, dtype):
        kernel = node.kernel
        own = kernel.dtype
        cost = kernel_cost(kernel, device.channel_alignment)
        name = fitted_class(kernel)
        bytes_s = cost.traffic_bytes / device.bandwidth_for(cost.traffic_bytes)
        compute_s = cost.flops / device.peak_flops(own)
        if is_weighted(kernel):
            found[Term(own, name, "compute")] += compute_s
            found[Term(own, name, "bytes")] += bytes_s
            found[Term(own, name, "kernels")] += FIXED_UNIT_S
        else:
            is_own = bool(graph.nodes[node.nodes[0]].dtype)
            factor = 1.0 if is_own else float_factor(own)
            shared = own if is_own and own == "int8" else FLOAT
            found[Term(shared, name, "bytes")] += factor * (bytes_s + compute_s)
            found[Term(shared, name, "kernels")] += FIXED_UNIT_S
    found[NETWORK] = FIXED_UNIT_S
    return {term: amount for term, amount in found.items() if amount > 0.0}


def is_weighted(kernel: Kernel) -> bool:
    """Whether the kernel multiplies and accumulates, and so computes in the network's dtype."""
    return kernel.anchor.variant in _WEIGHTED


def float_factor(dtype: str) -> float:
    """Bytes of a kernel without weights over those that its dtype says: int8 networks run it in float32."""
    return 4.0 / bytes_per_element(dtype) if dtype == "int8" else 1.0


def term_matrix(amounts: Sequence[Mapping[Term, float]], terms: Sequence[Term]) -> NDArray[np.float64]:
    """Amounts of networks as rows, (N, T), in the order of the terms."""
    return np.array([[row.get(term, 0.0) for term in terms] for row in amounts])


def prior_from_device(
    device: Device, terms: Sequence[Term], unknown: ClassEfficiency, dtype: str, noise: float = 0.15
) -> RatePrior:
    """What the device's file says about the rates: its class efficiencies, for others `unknown`.

    Deviations in ln(rate) are shared by all terms (the device as a whole is slower than its data sheet says), by those
    of one resource, by those of one class, by those of one dtype, and are each term's own.

    Args:
        dtype: whose efficiencies serve for the terms that all dtypes share.
    """
    means = []
    known = [_known(device, term, dtype) for term in terms]
    for term, efficiency in zip(terms, known):
        each = efficiency or unknown
        share = {"compute": each.compute, "bytes": (each.read * each.write) ** 0.5, "kernels": 1.0}[term.resource]
        fixed_s = each.fixed_s if efficiency else device.launch_s or each.fixed_s
        if term == NETWORK:
            fixed_s = device.network_overhead.value if device.network_overhead else 10.0 * FIXED_UNIT_S
        means.append(
            log(max(fixed_s, 0.1 * FIXED_UNIT_S) / FIXED_UNIT_S) if term.resource == "kernels" else -log(share)
        )
    own_T = np.array([_OWN if efficiency is None else min(_OWN, efficiency.spread) for efficiency in known])
    return RatePrior(
        mean_T=np.array(means),
        covariance_TT=_ALL**2
        + _RESOURCE**2 * _same([term.resource for term in terms])
        + _CLASS**2 * _same([term.kernel_class for term in terms])
        + _DTYPE**2 * _same([term.dtype for term in terms])
        + np.diag(own_T**2),
        noise=noise,
    )


def extended(prior: RatePrior, known: Sequence[Term], terms: Sequence[Term]) -> RatePrior:
    """A prior for more terms than it knows: a new one is like the mean of the known of its resource, give or take."""
    known = list(known)
    away_TK = np.zeros((len(terms), len(known)))
    own_T = np.zeros(len(terms))
    for row, term in enumerate(terms):
        if term in known:
            away_TK[row, known.index(term)] = 1.0
            continue
        like = [index for index, each in enumerate(known) if each.resource == term.resource and each != NETWORK]
        away_TK[row, like] = 1.0 / len(like)
        own_T[row] = _NEW
    return RatePrior(
        mean_T=away_TK @ prior.mean_T,
        covariance_TT=away_TK @ prior.covariance_TT @ away_TK.T + np.diag(own_T**2),
        noise=prior.noise,
        centres_DT=None if prior.centres_DT is None else prior.centres_DT @ away_TK.T,
    )


def all_terms(amounts: Iterable[Mapping[Term, float]]) -> list[Term]:
    """Terms that occur, in a fixed order."""
    return sorted({term for row in amounts for term in row})


# ------------------------------------------------------------------------------------------------------------ private

_ALL, _RESOURCE, _CLASS, _DTYPE, _OWN, _NEW = 1.2, 0.5, 0.5, 0.5, 0.5, 0.7


def _is_ragged(kernel: Kernel) -> bool:
    anchor = kernel.anchor
    if not isinstance(anchor, Conv2d) or anchor.groups > 1:
        return False
    return bool(anchor.out_channels % 4 or (anchor.in_channels > 4 and anchor.in_channels % 4))


def _known(device: Device, term: Term, dtype: str) -> ClassEfficiency | None:
    classes = device.efficiency.get(dtype if term.dtype in (FLOAT, "") else term.dtype, {})
    name = term.kernel_class.removesuffix(RAGGED)
    general = "depthwise_conv2d" if name.startswith("depthwise") else "conv2d" if "conv2d" in name else name
    return next((classes[each] for each in (term.kernel_class, name, general, ANY_CLASS) if each in classes), None)


def _same(labels: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[float(a == b) for b in labels] for a in labels])
