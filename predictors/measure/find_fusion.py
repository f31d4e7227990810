"""A runtime's fusion rules, found by measuring: two operators that take less in a chain than apart are one kernel.

The test is nn-Meter's (Zhang et al., MobiSys 2021; docs/builder/test_fusion_rules.md in github.com/microsoft/nn-Meter):
fused if T1 + T2 - T12 > 0.5 * min(T1, T2).

Every network pays once for its call and, where the runtime keeps tensors in blocks of channels, for changes of layout
at its ends, so that T1 and T2 would pay twice for what T12 pays once. Therefore

- a convolution stands behind a stem, an operator of its own kind whose time is subtracted. What the stem writes is also
  the second input of additions and products: a residual, in the layout that it has in networks;
- from an elementwise operator alone is subtracted the time of a tiny network, the call. Where a relu takes less than
  half as long before a tail, a 1x1 convolution that nothing fuses with, the rest is layout, and subtracted is
  T(relu) + T(tail) - T(relu, tail): the call and both ends. A second input is another end.

The test sees time, not structure: a follower that is fused and still costs its arithmetic, as a sigmoid can, is apart;
an addition that is fused still reads its second input and saves two thirds of itself at most.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.fusion import Runtime, fuse, runtime_from_mapping
from predictors.graph import Graph, GraphBuilder
from predictors.measure.backend import NoKernelError, Step
from predictors.operators import ConvTranspose2d, Input, Shape

Measure = Callable[[Sequence[Graph]], Sequence[float]]

SHAPE: Shape = (1, 16, 110, 110)
"""As large as 64 channels at 55x55, but few channels keep convolutions cheap beside the operators after them. Its bytes
are no multiple of 4096: reading and writing at equal offsets of pages took 83 us for a sigmoid that takes 66 us."""

ANCHORS: tuple[str, ...] = (
    "conv2d", "depthwise_conv2d", "conv_transpose2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "add", "mul", "batch_norm", "relu",
)  # fmt: skip
"""Variants of the operators that may start a kernel."""

FOLLOWERS: tuple[str, ...] = (
    "batch_norm", "add", "mul", "relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu",
)  # fmt: skip
"""Variants of the operators that may go on with a kernel."""

_THRESHOLD = 0.5
_SURE_ERRORS = 2.0
"""Standard errors that a saving must be away from the threshold: one would misjudge several of a hundred chains."""

_PRECISION = 0.25
"""Standard error of a saving beyond which it proves nothing: it would tell 0 from 1 by chance."""

_MOST = 1.15
"""Savings surely above it are none of fusion: a chain that takes less than its dearer part was measured wrongly."""

_DEVIATIONS_PER_MAD = 1.4826  # of a normal distribution
_MEDIAN_ERROR = 1.2533  # standard error of a median over that of the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """A follower behind an operator or a fused chain.

    Attributes:
        chain: names of the operators, the follower last, e.g. ('conv2d 3x3', 'batch_norm', 'relu').
        first_s: seconds of the chain without the follower, without its stem.
        second_s: seconds of the follower.
        both_s: seconds of the whole chain, without its stem.
        saving: (first_s + second_s - both_s) / min(first_s, second_s); nan where the smaller one cannot be measured.
        error: standard error of the saving.
        fused: the saving is surely above 0.5.
        sure: the saving is known well, further from 0.5 than its error explains, and not more than fusion can save.
        graph: the network of the whole chain; its output is the follower, whose first input is the chain.
    """

    chain: tuple[str, ...]
    first_s: float
    second_s: float
    both_s: float
    saving: float
    error: float
    fused: bool
    sure: bool
    graph: Graph

    @property
    def text(self) -> str:
        return " + ".join(self.chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFusion:
    """What was measured, and the rules that follow from it.

    Attributes:
        pairs: all chains that were tested.
        rules: as the list `fusion` of a file in `configs/runtime`.
        skipped: chains that the runtime cannot run, with its reason.
        notes: chains that stayed unsure, which count as not fused, and those that the rules do not reproduce.
        anchors, followers: variants that were tried.
    """

    dtype: str
    pairs: tuple[PairResult, ...]
    rules: list[dict[str, Any]]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    anchors: frozenset[str]
    followers: frozenset[str]

    @property
    def runtime(self) -> Runtime:
        """A runtime with these rules."""
        return _runtime(self.rules)


def find_fusion(
    measure: Measure,
    dtype: str,
    *,
    shape: Shape = SHAPE,
    anchors: Collection[str] = ANCHORS,
    followers: Collection[str] = FOLLOWERS,
    rounds: int = 5,
    max_rounds: int = 40,
) -> FoundFusion:
    """Find by measuring which operators a runtime fuses.

    Pairs of an anchor and a follower come first. What fuses is grown to chains, with one activation for all of them,
    in each order; orders that fuse both ways are slots that repeat.

    Args:
        measure: seconds of one run of each network; it should interleave them. It is asked for the same networks again
            and again, so that it pays to keep what it has built. It raises NoKernelError for what cannot be run.
        dtype: that the runtime computes in.
        shape: (batch, channels, height, width) of the tensors between the operators, of even height and width; large
            enough that an operator on it takes well more than a call.
        anchors: some of `ANCHORS`.
        followers: some of `FOLLOWERS`.
        rounds: how often everything is measured.
        max_rounds: how often at most a chain is measured that stays unsure.

    Raises:
        ValueError: an anchor or follower is unknown, or the shape or numbers of rounds are of no use.
    """
    _check("anchors", anchors, ANCHORS)
    _check("followers", followers, FOLLOWERS)
    if len(shape) != 4 or shape[2] % 2 or shape[3] % 2:
        raise ValueError(f"shape must be (batch, channels, even height, even width), found {shape}")
    if not 2 <= rounds <= max_rounds:
        raise ValueError(f"rounds must be at least 2 and at most max_rounds, found {rounds} and {max_rounds}")
    tester = _Tester(measure, shape, rounds, max_rounds)
    cases = {variant: [case for case in _CASES if case.variant == variant] for variant in ANCHORS if variant in anchors}
    names = [name for name in FOLLOWERS if name in followers]

    tester.test(
        (case, (name,))
        for of_variant in cases.values()
        for case in of_variant
        for name in names
        if name != case.name or name in ("add", "mul")  # a second batch_norm or relu may be simplified away
    )
    direct = {
        variant: [name for name in names if tester.all_fuse([(case, (name,)) for case in of_variant])]
        for variant, of_variant in cases.items()
    }
    grown = {variant: cases[variant] for variant in cases if direct[variant]}
    tester.test((case, order) for variant in grown for case in grown[variant] for order in _orders(direct[variant]))
    slots = {
        variant: _slots(
            variant,
            direct[variant],
            [order for order in _orders(direct[variant]) if tester.all_fuse([(case, order) for case in of_variant])],
        )
        for variant, of_variant in grown.items()
    }
    for length in range(3, 1 + max((len(_longest(each)) for each in slots.values()), default=0)):
        tester.test(
            (case, longest[:length])
            for variant, each in slots.items()
            if len(longest := _longest(each)) >= length
            for case in grown[variant]
            if tester.all_fuse([(case, longest[: length - 1])])
        )

    rules = _merged({variant: slots.get(variant, []) for variant in cases})
    pairs = tuple(tester.pairs.values())
    return FoundFusion(
        dtype=dtype,
        pairs=pairs,
        rules=rules,
        skipped=tuple(tester.skipped.values()),
        notes=(*_unsure(pairs), *_not_reproduced(pairs, _runtime(rules), dtype)),
        anchors=frozenset(anchors),
        followers=frozenset(followers),
    )


def compare_rules(found: FoundFusion, runtime: Runtime) -> list[str]:
    """Sentences where the measured rules and those of a runtime treat a tested chain differently.

    A chain is left out where the runtime's rules already part what comes before the follower.
    """
    measured = found.runtime
    sentences = []
    for pair in found.pairs:
        if not _is_whole(_chain_of(pair)[:-1], pair.graph, runtime, found.dtype):
            continue
        fused_here = _is_whole(_chain_of(pair), pair.graph, measured, found.dtype)
        fused_there = _is_whole(_chain_of(pair), pair.graph, runtime, found.dtype)
        if fused_here != fused_there:
            doubt = "" if pair.sure else ", unsure"
            sentences.append(
                f"{pair.text}: measured {_verdict(fused_here)} (saving {pair.saving:.2f} of the smaller{doubt}), "
                f"the rules of {runtime.name!r} say {_verdict(fused_there)}"
            )
    return sentences


def compare_with_steps(found: FoundFusion, graph: Graph, steps: Iterable[Step]) -> list[str]:
    """Sentences where the measured rules and the steps that a runtime made of a network differ.

    Only candidates count: a tested follower behind a chain of tested operators that nobody else reads. Nodes that no
    step runs are left out, since nothing says where they went.

    Args:
        graph: the network that was profiled.
        steps: of it, as `Profile.finish` gives them.
    """
    step_of = {node: number for number, step in enumerate(steps) for node in step.nodes}
    kernels = fuse(graph, found.runtime, found.dtype)
    kernel_of = {node: number for number, kernel in enumerate(kernels) for node in kernel.nodes}
    readers: dict[int, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for source in node.inputs:
            readers[source] = readers.get(source, 0) + 1

    times: dict[tuple[str, bool], int] = {}
    for index, node in enumerate(graph.nodes):
        sources = [
            source
            for source in node.inputs
            if readers[source] == 1
            and source in kernel_of
            and source in step_of
            and graph.nodes[source].operator.output_shape == node.operator.output_shape
        ]
        if node.operator.variant not in found.followers or index not in step_of or not sources:
            continue
        in_kernel = [source for source in sources if kernel_of[source] == kernel_of[index]]
        in_step = [source for source in sources if step_of[source] == step_of[index]]
        if bool(in_kernel) == bool(in_step):
            continue
        source = (in_kernel or in_step)[0]
        members = kernels[kernel_of[source]].nodes
        chain = [graph.nodes[member].operator.variant for member in (*members[: members.index(source) + 1], index)]
        if chain[0] in found.anchors and found.followers.issuperset(chain[1:]):
            key = (" + ".join(chain), bool(in_kernel))
            times[key] = times.get(key, 0) + 1
    return [
        f"{chain}: measured {_verdict(fused)}, but the runtime's own graph runs the last one "
        f"{'in a step of its own' if fused else 'in one step with the others'} ({_times(number)})"
        for (chain, fused), number in times.items()
    ]


# ------------------------------------------------------------------------------------------------------------ private


@dataclass(frozen=True, slots=True)
class _Case:
    """An anchor to be tested: what it stands behind, from the shape of its output, and itself."""

    name: str
    variant: str
    stem: Callable[[GraphBuilder, Shape], int]
    anchor: Callable[[GraphBuilder, int], int]


_Chain = tuple[_Case, tuple[str, ...]]
_Sum = Mapping[Graph, float]
"""Times of networks, each with its weight."""


class _Tester:
    """Measures chains and keeps what it has measured."""

    def __init__(self, measure: Measure, shape: Shape, rounds: int, max_rounds: int) -> None:
        self.pairs: dict[_Chain, PairResult] = {}
        self.skipped: dict[_Chain, str] = {}
        self._measure = measure
        self._shape = shape
        self._rounds = rounds
        self._max_rounds = max_rounds
        self._seconds: dict[Graph, dict[int, float]] = {}  # by number of the round
        self._num_rounds = 0
        self._beside: dict[Shape, _Sum] = {}
        self._scatter: dict[_Chain, float] = {}
        self._refused: dict[Graph, str] = {}

    def test(self, chains: Iterable[_Chain]) -> None:
        """Measure chains whose last operator is the follower; those that stay unsure more often."""
        waiting = [chain for chain in chains if chain not in self.pairs and chain not in self.skipped]
        for shape in dict.fromkeys(_output_shape(self._chain(*chain)) for chain in waiting):
            self._learn_layout(shape)
        rounds = self._rounds
        self._take(self._graphs(waiting), rounds)
        for chain in waiting:
            if refused := [self._refused[graph] for graph in self._graphs([chain]) if graph in self._refused]:
                self.skipped[chain] = f"{_text(chain)}: {refused[0]}"
            elif self._is_mostly_layout(chain):
                self.skipped[chain] = (
                    f"{_text(chain)}: changes of layout take most of the time, so that it tells nothing"
                )
        waiting = [chain for chain in waiting if chain not in self.skipped]
        while waiting:
            self.pairs.update(self._judge(waiting))
            waiting = [chain for chain in waiting if not self.pairs[chain].sure] if rounds < self._max_rounds else []
            more = min(rounds, self._max_rounds - rounds)
            self._take(self._graphs(waiting), more)
            rounds += more

    def all_fuse(self, chains: Sequence[_Chain]) -> bool:
        """All that are sure fuse, and one is sure."""
        verdicts = [self.pairs[chain].fused for chain in chains if chain in self.pairs and self.pairs[chain].sure]
        return bool(verdicts) and all(verdicts)

    def _learn_layout(self, shape: Shape) -> None:
        """Find out what elementwise networks on tensors of a shape cost beside their operators."""
        if shape in self._beside:
            return
        self._beside[shape] = _call()
        if len(shape) < 3 or shape[2:] == (1, 1):  # rows of features have one layout only
            return
        ruler = _half_less_in_place(shape)
        self._take(list(ruler), self._max_rounds)
        if self._refused.keys().isdisjoint(ruler) and np.median(self._value(ruler)) > 0.0:
            self._beside[shape] = _call_and_ends(shape)

    def _is_mostly_layout(self, chain: _Chain) -> bool:
        """No stem stands for the changes of layout, and they cannot be subtracted from little more."""
        case, _ = chain
        return case.stem(GraphBuilder(), self._shape) == 0 and len(self._beside[_output_shape(self._chain(*chain))]) > 1

    def _terms(self, chain: _Chain) -> tuple[_Sum, _Sum, _Sum]:
        """T1, T2 and T12 as sums of networks."""
        case, followers = chain
        first, both = self._chain(case, followers[:-1]), self._chain(case, followers)
        shape = _output_shape(both)
        builder = GraphBuilder()
        stem = case.stem(builder, self._shape)
        beside = self._beside[shape]
        before = {builder.graph(stem): 1.0} if stem > 0 else beside
        return (
            _without(first, before, beside),
            _without(_alone(followers[-1], shape), beside, beside),
            _without(both, before, beside),
        )

    def _chain(self, case: _Case, followers: tuple[str, ...]) -> Graph:
        builder = GraphBuilder()
        stem = case.stem(builder, self._shape)
        x = case.anchor(builder, stem)
        for name in followers:
            x = _follower(builder, name, x, stem)
        return builder.graph(x)

    def _graphs(self, chains: Iterable[_Chain]) -> list[Graph]:
        """All networks whose times the verdicts need."""
        return list(dict.fromkeys(graph for chain in chains for each in self._terms(chain) for graph in each))

    def _take(self, graphs: Sequence[Graph], rounds: int) -> None:
        """Measure networks some more times; new ones once before, which warms them up and finds what cannot be run."""
        self._try([graph for graph in graphs if graph not in self._seconds and graph not in self._refused])
        known = [graph for graph in graphs if graph in self._seconds]
        for _ in range(rounds if known else 0):
            for graph, seconds in zip(known, self._measure(known), strict=True):
                self._seconds[graph][self._num_rounds] = seconds
            self._num_rounds += 1

    def _try(self, graphs: list[Graph]) -> None:
        """Halve the networks until those are alone that cannot be run."""
        if not graphs:
            return
        try:
            self._measure(graphs)
        except NoKernelError as error:
            if len(graphs) == 1:
                self._refused[graphs[0]] = str(error)
                return
            middle = len(graphs) // 2
            self._try(graphs[:middle])
            self._try(graphs[middle:])
            return
        self._seconds.update({graph: {} for graph in graphs})

    def _judge(self, chains: Sequence[_Chain]) -> dict[_Chain, PairResult]:
        measured = {chain: self._measured(chain) for chain in chains}
        self._scatter.update({chain: _deviation(each.excess_R) / each.magnitude_s for chain, each in measured.items()})
        # A few rounds can agree by chance: no chain repeats better than the typical one.
        typical = float(np.median(list(self._scatter.values())))
        return {chain: self._result(chain, each, typical) for chain, each in measured.items()}

    def _measured(self, chain: _Chain) -> "_Measured":
        first, second, both = self._terms(chain)
        rounds = self._common_rounds(self._graphs([chain]))
        first_s, second_s, both_s = (float(np.median(self._value(each, rounds))) for each in (first, second, both))
        smaller = first if first_s < second_s else second
        # T1 + T2 - T12 - min(T1, T2) / 2 is a weighted sum of times, so that its error needs no expansion.
        excess = _minus(_minus(_minus(first, both), second, -1.0), smaller, _THRESHOLD)
        terms_s = [float(np.median(self._value({graph: weight}, rounds))) for graph, weight in excess.items()]
        return _Measured(first_s, second_s, both_s, self._value(excess, rounds), sqrt(sum(each**2 for each in terms_s)))

    def _common_rounds(self, graphs: Collection[Graph]) -> list[int]:
        """Rounds that measured all of the networks: what slows a round down slows all of them."""
        return sorted(set.intersection(*(set(self._seconds[graph]) for graph in graphs)))

    def _value(self, weights: _Sum, rounds: Sequence[int] | None = None) -> NDArray[np.float64]:
        """A sum of networks in each of some rounds, by default those that measured all of them."""
        chosen = self._common_rounds(weights) if rounds is None else rounds
        found: NDArray[np.float64] = np.zeros(len(chosen))
        for graph, weight in weights.items():
            found += weight * np.array([self._seconds[graph][number] for number in chosen])
        return found

    def _result(self, chain: _Chain, measured: "_Measured", typical: float) -> PairResult:
        deviation_s = max(_deviation(measured.excess_R), typical * measured.magnitude_s)
        smaller_s = min(measured.first_s, measured.second_s)
        saving, error = nan, nan
        if smaller_s > 0.0:
            saving = _THRESHOLD + float(np.median(measured.excess_R)) / smaller_s
            error = _error(deviation_s, len(measured.excess_R)) / smaller_s
        doubt = _SURE_ERRORS * error
        sure = error < _PRECISION and abs(saving - _THRESHOLD) > doubt and saving - doubt < _MOST
        return PairResult(
            chain=(chain[0].name, *chain[1]),
            first_s=measured.first_s,
            second_s=measured.second_s,
            both_s=measured.both_s,
            saving=saving,
            error=error,
            fused=sure and saving > _THRESHOLD,
            sure=sure,
            graph=self._chain(*chain),
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    """Times of a pair. excess_R: T1 + T2 - T12 - min(T1, T2) / 2 in each round, seconds; magnitude_s: of its terms."""

    first_s: float
    second_s: float
    both_s: float
    excess_R: NDArray[np.float64]
    magnitude_s: float


def _without(graph: Graph, before: _Sum, beside: _Sum) -> _Sum:
    """Time of a network without that of another with one input, and without the changes of layout of further inputs.

    One end of a network costs half of what lies beside its operators, but for the call.
    """
    further = sum(isinstance(node.operator, Input) for node in graph.nodes) - 1
    return _minus(_minus({graph: 1.0}, before), _minus(beside, _call()), 0.5 * further)


def _minus(left: _Sum, right: _Sum, weight: float = 1.0) -> _Sum:
    """left - weight * right, without the networks whose weight is 0."""
    found = {graph: left.get(graph, 0.0) - weight * right.get(graph, 0.0) for graph in {**left, **right}}
    return {graph: value for graph, value in found.items() if value != 0.0}


def _error(deviation: float, num_rounds: int) -> float:
    """Standard error of a median."""
    return _MEDIAN_ERROR * deviation / sqrt(num_rounds)


def _output_shape(graph: Graph) -> Shape:
    return graph.nodes[-1].operator.output_shape


def _check(what: str, asked: Collection[str], allowed: Sequence[str]) -> None:
    if unknown := [name for name in asked if name not in allowed]:
        raise ValueError(f"unknown {what} {unknown}; there are {list(allowed)}")


def _deviation(seconds_R: NDArray[np.float64]) -> float:
    return _DEVIATIONS_PER_MAD * float(np.median(np.abs(seconds_R - np.median(seconds_R))))


def _text(chain: _Chain) -> str:
    return " + ".join((chain[0].name, *chain[1]))


def _follower(builder: GraphBuilder, name: str, x: int, side: int) -> int:
    """The follower of `x`; its second input is `side`, or an input of the network where the shapes differ."""
    if name == "batch_norm":
        return builder.batch_norm(x)
    if name not in ("add", "mul"):
        return builder.activation(x, name)
    if builder.shape(side) != builder.shape(x):
        side = builder.input(builder.shape(x))
    return builder.elementwise(name, x, side)


def _alone(name: str, shape: Shape) -> Graph:
    builder = GraphBuilder()
    x, side = builder.input(shape), builder.input(shape) if name in ("add", "mul") else 0
    return builder.graph(_follower(builder, name, x, side))


def _call() -> _Sum:
    """What a tiny network costs."""
    return {_alone("relu", (1, 1, 1, 1)): 1.0}


def _call_and_ends(shape: Shape) -> _Sum:
    """What a network on tensors of a shape costs beside its operators."""
    return _minus({_alone("relu", shape): 1.0}, _in_place(shape))


def _half_less_in_place(shape: Shape) -> _Sum:
    """Half of what a relu takes alone, without the call, less what it takes before a tail."""
    return _minus(_minus({_alone("relu", shape): 0.5}, _call(), 0.5), _in_place(shape))


def _in_place(shape: Shape) -> _Sum:
    """What a relu takes before a tail, where no layout changes for it."""
    builder = GraphBuilder()
    tail = builder.graph(_tail(builder, builder.input(shape)))
    builder = GraphBuilder()
    return {builder.graph(_tail(builder, builder.activation(builder.input(shape), "relu"))): 1.0, tail: -1.0}


def _tail(builder: GraphBuilder, x: int) -> int:
    """A linear layer or 1x1 convolution."""
    shape = builder.shape(x)
    return builder.conv2d(x, shape[1], kernel=1) if len(shape) == 4 else builder.linear(x, shape[-1])


# ----------------------------------------------------------------------------------------------------- rules of chains


def _group(name: str) -> str:
    """All activations stand at the same place of a kernel."""
    return name if name in ("batch_norm", "add", "mul") else "activation"


def _first_of_groups(names: Sequence[str]) -> dict[str, str]:
    return {_group(name): name for name in reversed(names)}


def _orders(names: Sequence[str]) -> list[tuple[str, str]]:
    """Followers to be tested behind one another, one activation for all.

    Twice the same only where no runtime simplifies it away, as it may a batch norm after another or two clippings.
    """
    firsts = list(_first_of_groups(names).values())
    second = [name for name in names if _group(name) == "activation" and name not in ("relu", "relu6")][:1]
    again = {"add": ["add"], "mul": ["mul"], "activation": [name for name in second if name not in firsts]}
    return [
        (before, after)
        for before in firsts
        for after in [*(name for name in firsts if name != before), *again.get(_group(before), [])]
    ]


@dataclass(frozen=True, slots=True)
class _FoundSlot:
    names: tuple[str, ...]
    repeats: bool


def _slots(anchor: str, names: Sequence[str], fused_orders: Collection[tuple[str, str]]) -> list[_FoundSlot]:
    """Slots in order: groups that follow each other both ways repeat, those of which neither does share a slot.

    An anchor that is an activation may come again where any activation may.
    """
    groups = list(_first_of_groups(names))
    after = {(_group(first), _group(second)) for first, second in fused_orders}
    reached = set(after)
    for through in groups:
        reached |= {(a, c) for a in groups for c in groups if {(a, through), (through, c)} <= reached}
    rings = dict.fromkeys(
        tuple(other for other in groups if other == group or {(group, other), (other, group)} <= reached)
        for group in groups
    )
    depth: dict[tuple[str, ...], int] = {}
    for ring in sorted(
        rings, key=lambda ring: sum((group, ring[0]) in reached for group in groups if group not in ring)
    ):
        before = [depth[other] for other in depth if other != ring and (other[0], ring[0]) in reached]
        depth[ring] = 1 + max(before, default=-1)
    found = []
    for level in sorted(set(depth.values())):
        alternatives = [ring for ring in depth if depth[ring] == level]
        once = [group for ring in alternatives for group in ring if (group, group) not in reached]
        if once:
            found.append(_FoundSlot(tuple(name for name in names if _group(name) in once), False))
        for ring in alternatives:
            if (ring[0], ring[0]) in reached:
                again = {anchor} if anchor in FOLLOWERS and "activation" in ring and _group(anchor) in ring else set()
                of_ring = {name for name in names if _group(name) in ring}
                found.append(_FoundSlot(tuple(name for name in FOLLOWERS if name in of_ring | again), True))
    return found


def _longest(slots: Sequence[_FoundSlot]) -> tuple[str, ...]:
    """Followers of a chain through all slots; where one repeats, each of its groups and the first once more."""
    chain: list[str] = []
    for slot in slots:
        groups = list(_first_of_groups(slot.names).values()) if slot.repeats else [slot.names[0]]
        chain += groups
        if len(groups) > 1:
            chain.append(groups[0])
    return tuple(chain)


def _merged(slots: Mapping[str, Sequence[_FoundSlot]]) -> list[dict[str, Any]]:
    """Rules, one for all anchors with the same slots.

    An anchor without any has no rule, save a depthwise convolution: it would take that of its kind, conv2d.
    """
    anchors: dict[tuple[_FoundSlot, ...], list[str]] = {}
    for variant, each in slots.items():
        if each or (variant == "depthwise_conv2d" and slots.get("conv2d")):
            anchors.setdefault(tuple(each), []).append(variant)
    return [
        {
            "anchors": names,
            "then": [{"repeat": list(slot.names)} if slot.repeats else list(slot.names) for slot in each],
        }
        for each, names in anchors.items()
    ]


def _runtime(rules: list[dict[str, Any]]) -> Runtime:
    mapping = {
        "name": "measured",
        "description": "rules found by measuring",
        "source": "Zhang et al., MobiSys 2021: T1 + T2 - T12 > 0.5 * min(T1, T2)",
        "removes_dead_branches": True,
        "fusion": rules,
    }
    return runtime_from_mapping(mapping, "measured")


# ---------------------------------------------------------------------------------------------------------- sentences


def _verdict(fused: bool) -> str:
    return "fused" if fused else "apart"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _chain_of(pair: PairResult) -> tuple[int, ...]:
    """Nodes of the chain, from the anchor to the follower."""
    nodes = list(pair.graph.outputs)
    while len(nodes) < len(pair.chain):
        nodes.insert(0, pair.graph.nodes[nodes[0]].inputs[0])
    return tuple(nodes)


def _is_whole(nodes: tuple[int, ...], graph: Graph, runtime: Runtime, dtype: str) -> bool:
    """One kernel of the runtime's rules runs all of these nodes."""
    return any(set(nodes) <= set(kernel.nodes) for kernel in fuse(graph, runtime, dtype))


def _unsure(pairs: Iterable[PairResult]) -> list[str]:
    return [
        f"{pair.text}: unsure, counted as not fused (saving {pair.saving:.2f} of the smaller, "
        f"standard error {pair.error:.2f})"
        for pair in pairs
        if not pair.sure
    ]


def _not_reproduced(pairs: Iterable[PairResult], measured: Runtime, dtype: str) -> list[str]:
    return [
        f"{pair.text}: measured {_verdict(pair.fused)} (saving {pair.saving:.2f} of the smaller), "
        f"the rules found say {_verdict(not pair.fused)}"
        for pair in pairs
        if pair.sure and pair.fused != _is_whole(_chain_of(pair), pair.graph, measured, dtype)
    ]


# -------------------------------------------------------------------------------------------------------------- cases


def _conv_stem(builder: GraphBuilder, shape: Shape) -> int:
    return builder.conv2d(builder.input(shape), shape[1], kernel=1)


def _half_size_stem(builder: GraphBuilder, shape: Shape) -> int:
    batch, channels, height, width = shape
    return _conv_stem(builder, (batch, channels, height // 2, width // 2))


def _row_stem(builder: GraphBuilder, shape: Shape) -> int:
    batch, channels, height, width = shape
    return builder.linear(builder.input((batch * height * width, channels)), channels)


def _token_stem(builder: GraphBuilder, shape: Shape) -> int:
    batch, channels, height, width = shape
    return builder.linear(builder.input((batch, height * width, channels)), channels, bias=False)


def _no_stem(builder: GraphBuilder, shape: Shape) -> int:
    return builder.input(shape)


def _tiny_windows(builder: GraphBuilder, shape: Shape) -> int:
    """As many numbers in windows of 1x2: the output of a global pool is large enough for a follower to take time."""
    return builder.input((shape[0], prod(shape[1:]) // 2, 1, 2))


def _same_conv(kernel: int, depthwise: bool = False) -> Callable[[GraphBuilder, int], int]:
    def add(builder: GraphBuilder, x: int) -> int:
        channels = builder.shape(x)[1]
        return builder.conv2d(x, channels, kernel=kernel, groups=channels if depthwise else 1)

    return add


def _same_linear(bias: bool) -> Callable[[GraphBuilder, int], int]:
    return lambda builder, x: builder.linear(x, builder.shape(x)[-1], bias=bias)


def _doubling_conv(builder: GraphBuilder, x: int) -> int:
    batch, channels, height, width = builder.shape(x)
    operator = ConvTranspose2d(
        batch=batch, in_channels=channels, out_channels=channels, height=height, width=width,
        kernel=(2, 2), stride=(2, 2),
    )  # fmt: skip
    return builder.add(operator, x)


def _of_two_inputs(function: str) -> Callable[[GraphBuilder, int], int]:
    return lambda builder, x: builder.elementwise(function, x, builder.input(builder.shape(x)))


# Pools have no padding, which means different things to runtimes, and layers over tokens no bias, which some runtimes
# add in an operator of its own.
_CASES: tuple[_Case, ...] = (
    _Case("conv2d 1x1", "conv2d", _conv_stem, _same_conv(1)),
    _Case("conv2d 3x3", "conv2d", _conv_stem, _same_conv(3)),
    _Case("depthwise_conv2d 3x3", "depthwise_conv2d", _conv_stem, _same_conv(3, depthwise=True)),
    _Case("conv_transpose2d 2x2", "conv_transpose2d", _half_size_stem, _doubling_conv),
    _Case("linear of rows", "linear", _row_stem, _same_linear(bias=True)),
    _Case("linear of tokens", "linear", _token_stem, _same_linear(bias=False)),
    _Case("max_pool2d 2x2", "max_pool2d", _conv_stem, lambda b, x: b.pool2d(x, "max", 2, stride=1)),
    _Case("avg_pool2d 2x2", "avg_pool2d", _conv_stem, lambda b, x: b.pool2d(x, "avg", 2, stride=1)),
    _Case("adaptive_avg_pool2d", "adaptive_avg_pool2d", _tiny_windows, GraphBuilder.global_pool),
    _Case("add", "add", _no_stem, _of_two_inputs("add")),
    _Case("mul", "mul", _no_stem, _of_two_inputs("mul")),
    _Case("batch_norm", "batch_norm", _no_stem, GraphBuilder.batch_norm),
    _Case("relu", "relu", _no_stem, lambda b, x: b.activation(x, "relu")),
)
