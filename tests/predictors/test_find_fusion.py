"""Rules are found again in the times of simulated runtimes whose rules are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from predictors import Graph, GraphBuilder, fuse, load_runtime
from predictors.fusion import Runtime, runtime_from_mapping
from predictors.measure.backend import NoKernelError, Step
from predictors.measure.find_fusion import (
    FOLLOWERS,
    FoundFusion,
    Measure,
    compare_rules,
    compare_with_steps,
    find_fusion,
)

HEAD = {"name": "simulated", "description": "", "source": "", "removes_dead_branches": True}
CALL_S, LAUNCH_S, FLOPS, BYTES_PER_S = 20e-6, 2e-6, 50e9, 10e9


def runtime(*rules: Mapping[str, Any], name: str = "simulated") -> Runtime:
    return runtime_from_mapping({**HEAD, "name": name, "fusion": list(rules)})


def simulated(runtime: Runtime, noise: float = 0.0, refused: Sequence[str] = (), seed: int = 0) -> Measure:
    """Seconds of networks that launch the kernels of a runtime's rules: each reads its inputs, computes and writes."""
    rng = np.random.default_rng(seed)

    def seconds(graph: Graph) -> float:
        for node in graph.nodes:
            if node.operator.variant in refused:
                raise NoKernelError(f"{node.operator.text} has no kernel")
        total_s = CALL_S
        for placed in fuse(graph, runtime, "float32"):
            operators = (placed.kernel.anchor, *placed.kernel.fused)
            read = sum(graph.nodes[index].operator.write_elements for index in placed.inputs)
            moved_bytes = 4 * (read + operators[-1].write_elements)
            total_s += LAUNCH_S + sum(each.macs for each in operators) / FLOPS + moved_bytes / BYTES_PER_S
        return total_s * float(np.exp(noise * rng.standard_normal()))

    return lambda graphs: [seconds(graph) for graph in graphs]


def find_exactly(rules: Runtime, *, anchors: Sequence[str] = ("conv2d",), **options: Any) -> FoundFusion:
    """What is found where times repeat exactly, so that two rounds are enough."""
    return find_fusion(simulated(rules), "float32", anchors=anchors, rounds=2, max_rounds=2, **options)


NO_BATCH_NORM = [name for name in FOLLOWERS if name != "batch_norm"]
CHAIN = {"anchors": ["conv2d", "depthwise_conv2d"], "then": [["batch_norm"], ["add"], ["relu", "relu6"]]}
RULES = {
    "chain": [CHAIN],
    "clips": [
        {
            "anchors": ["conv2d", "depthwise_conv2d", "conv_transpose2d", "linear"],
            "then": [["batch_norm"], ["relu", "relu6"]],
        },
        {"anchors": ["add", "mul"], "then": [["relu", "relu6"]]},
    ],
    "repeats": [
        {"anchors": ["conv2d"], "then": [["batch_norm"], {"repeat": NO_BATCH_NORM}]},
        {"anchors": ["depthwise_conv2d"], "then": []},
        {"anchors": ["add", "mul", "relu"], "then": [{"repeat": [*FOLLOWERS]}]},
    ],
    "pools": [
        {"anchors": ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"], "then": [["relu"], ["add", "mul"]]},
        {"anchors": ["batch_norm"], "then": [{"repeat": ["relu", "silu"]}]},
    ],
}


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_known_rules_are_found_exactly_though_times_scatter(rules: list[dict[str, Any]], noise: float) -> None:
    found = find_fusion(simulated(runtime(*rules), noise), "float32")
    assert found.rules == rules
    assert runtime_from_mapping({**HEAD, "fusion": found.rules}).rules == runtime(*rules).rules
    assert [note for note in found.notes if "unsure" not in note] == [], "the rules reproduce what was measured"
    assert found.notes == () or noise > 0.0
    assert found.skipped == ()


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_nothing_is_found_where_every_operator_is_a_kernel(noise: float) -> None:
    found = find_fusion(simulated(load_runtime("torch_eager"), noise), "float32")
    assert found.rules == []
    assert not any(pair.fused for pair in found.pairs)
    assert compare_rules(found, load_runtime("torch_eager")) == []


def test_times_and_savings_are_those_of_the_operators_alone() -> None:
    """On (1, 16, 110, 110) a tensor has 193600 elements: reading or writing it takes 4 * 193600 / 10e9 = 77.44 us.

    The 1x1 convolution computes 16 * 193600 multiply-accumulates, 61.952 us, reads and writes, and is launched: 2 us.
    The relu is launched, reads and writes: 156.88 us; less a tiny network's launch and 8 bytes, 154.8792 us. Fused, it
    costs nothing, apart its launch comes to what it takes alone: -2.0008 of 154.8792 us are saved.
    """
    found = find_exactly(runtime(CHAIN), followers=("relu", "silu"))
    fused, apart = (pair for pair in found.pairs if pair.chain[0] == "conv2d 1x1" and len(pair.chain) == 2)
    assert fused.text == "conv2d 1x1 + relu"
    assert fused.first_s == pytest.approx(218.832e-6)
    assert fused.second_s == pytest.approx(154.8792e-6)
    assert fused.both_s == pytest.approx(218.832e-6)
    assert fused.saving == pytest.approx(1.0)
    assert apart.text == "conv2d 1x1 + silu"
    assert apart.both_s == pytest.approx(218.832e-6 + 156.88e-6)
    assert apart.saving == pytest.approx(-2.0008 / 154.8792)


def test_changes_of_layout_at_the_ends_of_a_network_do_not_look_like_fusion() -> None:
    """Each input and output is copied into and out of blocks of channels: alone, a relu takes twice as long.

    As read, T1 + T2 - T12 of an addition and a relu apart would be all that the relu takes by itself.
    """
    plain = simulated(runtime())

    def with_changes(graphs: Sequence[Graph]) -> list[float]:
        ends = [[*graph.outputs, *(i for i, node in enumerate(graph.nodes) if not node.inputs)] for graph in graphs]
        moved = [sum(8 * graph.nodes[i].operator.write_elements for i in each) for graph, each in zip(graphs, ends)]
        return [seconds + moved_bytes / BYTES_PER_S for seconds, moved_bytes in zip(plain(graphs), moved)]

    anchors = ["conv2d", "depthwise_conv2d", "relu", "batch_norm", "max_pool2d"]
    found = find_fusion(with_changes, "float32", anchors=anchors, rounds=2, max_rounds=2)
    assert found.rules == []
    assert found.notes == ()
    assert len(found.pairs) == 4 * len(FOLLOWERS), "two convolutions, a depthwise one, a pool"
    assert "relu + add: changes of layout take most of the time, so that it tells nothing" in found.skipped


def test_a_call_that_costs_much_does_not_look_like_fusion() -> None:
    """Apart, both networks pay for their call: with 1 ms, T1 + T2 - T12 as read would be six times the smaller."""
    plain = simulated(runtime())

    def slow_to_call(graphs: Sequence[Graph]) -> list[float]:
        return [1e-3 + seconds for seconds in plain(graphs)]

    found = find_fusion(slow_to_call, "float32", anchors=["conv2d"], rounds=2, max_rounds=2)
    assert found.rules == []
    assert max(pair.saving for pair in found.pairs) < 0.01


def test_a_pair_at_the_threshold_is_measured_again_and_reported_as_unsure() -> None:
    """A gelu that saves exactly half of itself: the noise of 1 % cannot be averaged away."""
    half, whole = simulated(runtime(CHAIN)), simulated(runtime({**CHAIN, "then": [["gelu", "relu"]]}))
    rng = np.random.default_rng(0)
    rounds: dict[Graph, int] = {}

    def measure(graphs: Sequence[Graph]) -> list[float]:
        for graph in graphs:
            rounds[graph] = rounds.get(graph, 0) + 1
        times = 0.5 * (np.array(half(graphs)) + np.array(whole(graphs)))
        return list(times * np.exp(0.01 * rng.standard_normal(len(graphs))))

    found = find_fusion(measure, "float32", anchors=["conv2d"], followers=["gelu", "relu"], rounds=4, max_rounds=24)
    unsure = next(pair for pair in found.pairs if pair.text == "conv2d 1x1 + gelu")
    relu = next(pair for pair in found.pairs if pair.text == "conv2d 1x1 + relu")
    assert not unsure.sure
    assert not unsure.fused
    assert unsure.saving == pytest.approx(0.5, abs=0.1)
    assert rounds[unsure.graph] == 1 + 24, "once to build it, then as often as allowed"
    assert rounds[relu.graph] == 1 + 4
    assert found.rules == [{"anchors": ["conv2d"], "then": [["relu"]]}]
    assert "conv2d 1x1 + gelu: unsure, counted as not fused (saving " in " ".join(found.notes)


def test_savings_that_scatter_widely_never_count_as_fused() -> None:
    """With a scatter of 60 % some savings of nothing lie far above 0.5; none is known to a quarter."""
    found = find_fusion(simulated(runtime(), noise=0.6), "float32", rounds=3, max_rounds=3)
    assert np.nanmax([pair.saving for pair in found.pairs]) > 1.5
    assert found.rules == []


def test_operators_that_cannot_be_run_are_skipped_and_named() -> None:
    measure = simulated(runtime(CHAIN), refused=["conv_transpose2d", "relu6"])
    found = find_fusion(measure, "float32", anchors=["conv2d", "conv_transpose2d"], rounds=2, max_rounds=2)
    assert found.rules == [{"anchors": ["conv2d"], "then": [["batch_norm"], ["add"], ["relu"]]}]
    skipped = "\n".join(found.skipped)
    assert "conv2d 3x3 + relu6: activation(shape=(1, 16, 110, 110), function='relu6') has no kernel" in skipped
    assert "conv_transpose2d 2x2 + silu: conv_transpose2d(" in skipped
    assert len(found.skipped) == 2 + len(FOLLOWERS)
    assert not any("relu6" in pair.chain or "conv_transpose2d" in pair.chain[0] for pair in found.pairs)


def test_of_a_runtime_that_runs_nothing_nothing_is_found() -> None:
    found = find_fusion(simulated(runtime(), refused=["relu"]), "float32")
    assert (found.pairs, found.rules) == ((), [])
    assert all("function='relu') has no kernel" in sentence for sentence in found.skipped)


def test_a_chain_that_takes_less_than_its_dearer_part_is_measured_wrongly() -> None:
    """Twice the relu vanishes, which no fusion explains."""
    whole, none = simulated(runtime(CHAIN)), simulated(runtime())

    def measure(graphs: Sequence[Graph]) -> list[float]:
        return [2 * fused_s - apart_s for fused_s, apart_s in zip(whole(graphs), none(graphs))]

    found = find_fusion(measure, "float32", anchors=["conv2d"], followers=["relu"], rounds=2, max_rounds=2)
    assert found.rules == []
    assert found.notes == (
        "conv2d 1x1 + relu: unsure, counted as not fused (saving 2.01 of the smaller, standard error 0.00)",
        "conv2d 3x3 + relu: unsure, counted as not fused (saving 2.01 of the smaller, standard error 0.00)",
    )


def test_one_size_of_an_anchor_decides_where_the_other_is_unsure() -> None:
    """Only times of 3x3 convolutions scatter, by half."""
    plain = simulated(runtime(CHAIN))
    rng = np.random.default_rng(0)

    def measure(graphs: Sequence[Graph]) -> list[float]:
        wide = ["kernel=(3, 3)" in " ".join(node.operator.text for node in graph.nodes) for graph in graphs]
        return list(np.array(plain(graphs)) * np.exp(0.5 * np.array(wide) * rng.standard_normal(len(graphs))))

    followers = ["batch_norm", "relu"]
    anchors = ["conv2d", "max_pool2d"]
    found = find_fusion(measure, "float32", anchors=anchors, followers=followers, max_rounds=5)
    assert found.rules == [{"anchors": ["conv2d"], "then": [["batch_norm"], ["relu"]]}]
    assert {note.split(":")[0] for note in found.notes} >= {"conv2d 3x3 + batch_norm", "conv2d 3x3 + relu"}
    assert all(note.startswith("conv2d 3x3") for note in found.notes)


def test_what_fuses_behind_one_size_of_an_anchor_only_is_no_rule_but_a_note() -> None:
    with_relu, without = simulated(runtime(CHAIN)), simulated(runtime({**CHAIN, "then": [["batch_norm"]]}))

    def measure(graphs: Sequence[Graph]) -> list[float]:
        windows = ["kernel=(3, 3)" in " ".join(node.operator.text for node in graph.nodes) for graph in graphs]
        return [(with_relu if wide else without)([graph])[0] for graph, wide in zip(graphs, windows)]

    followers = ["batch_norm", "relu"]
    found = find_fusion(measure, "float32", anchors=["conv2d"], followers=followers, rounds=2, max_rounds=2)
    assert found.rules == [{"anchors": ["conv2d"], "then": [["batch_norm"]]}]
    assert found.notes == ("conv2d 3x3 + relu: measured fused (saving 1.00 of the smaller), the rules found say apart",)


def test_differences_from_a_file_are_found_by_what_the_rules_do_not_by_how_they_are_written() -> None:
    found = find_exactly(runtime({"anchors": ["conv2d"], "then": [["batch_norm"], ["hardswish"]]}))
    same = runtime(
        {"anchors": ["conv2d"], "then": [["batch_norm"], ["softmax"], ["hardswish"], ["erf"]]},
        {"anchors": ["conv2d", "matmul"], "then": []},
    )
    assert compare_rules(found, same) == []
    other = runtime({"anchors": ["conv2d"], "then": [["batch_norm"], ["relu"]]}, name="openvino")
    sentences = compare_rules(found, other)
    assert len(sentences) == 6, sentences
    assert sentences[:2] == [
        "conv2d 1x1 + relu: measured apart (saving -0.01 of the smaller), the rules of 'openvino' say fused",
        "conv2d 1x1 + hardswish: measured fused (saving 1.00 of the smaller), the rules of 'openvino' say apart",
    ]
    assert sentences[4].startswith("conv2d 1x1 + batch_norm + hardswish: measured fused")


def test_chains_that_the_file_parts_earlier_are_not_reported_again() -> None:
    found = find_exactly(runtime(CHAIN), followers=["batch_norm", "relu"])
    sentences = compare_rules(found, runtime({"anchors": ["conv2d"], "then": [["relu"]]}))
    assert [sentence.split(":")[0] for sentence in sentences] == ["conv2d 1x1 + batch_norm", "conv2d 3x3 + batch_norm"]


def block() -> Graph:
    """0 input, 1 conv, 2 batch_norm, 3 hardswish, 4 conv, 5 batch_norm, 6 hardswish, 7 conv, 8 add, 9 relu."""
    builder = GraphBuilder()
    x = builder.input((1, 8, 16, 16))
    for _ in range(2):
        x = builder.activation(builder.batch_norm(builder.conv2d(x, 8, kernel=3)), "hardswish")
    return builder.graph(builder.activation(builder.elementwise("add", builder.conv2d(x, 8, kernel=1), x), "relu"))


def steps(*nodes: tuple[int, ...]) -> tuple[Step, ...]:
    return tuple(Step(name=str(each), nodes=each) for each in nodes)


def test_steps_that_agree_with_the_rules_are_passed_over() -> None:
    found = find_exactly(runtime(CHAIN))
    assert compare_with_steps(found, block(), steps((1, 2), (3,), (4, 5), (6,), (7, 8, 9))) == []
    assert compare_with_steps(found, block(), steps((1,), (4,), (), (7, 8, 9))) == [], "nothing is known of 2, 3, 5, 6"


def test_steps_that_differ_from_the_rules_are_counted() -> None:
    found = find_exactly(runtime(CHAIN))
    assert compare_with_steps(found, block(), steps((1, 2, 3), (4, 5, 6), (7,), (8,), (9,))) == [
        "conv2d + batch_norm + hardswish: measured apart, "
        "but the runtime's own graph runs the last one in one step with the others (2 times)",
        "conv2d + add: measured fused, but the runtime's own graph runs the last one in a step of its own (once)",
        "conv2d + add + relu: measured fused, "
        "but the runtime's own graph runs the last one in a step of its own (once)",
    ]


def test_steps_of_operators_that_were_not_tried_are_passed_over() -> None:
    found = find_exactly(runtime(CHAIN), followers=["batch_norm", "relu"])
    assert compare_with_steps(found, block(), steps((1, 2, 3), (4, 5, 6), (7, 8), (9,))) == []


def test_wrong_requests_are_refused() -> None:
    measure = simulated(runtime())
    with pytest.raises(ValueError, match=r"unknown anchors \['softmax'\]; there are \['conv2d'"):
        find_fusion(measure, "float32", anchors=["softmax"])
    with pytest.raises(ValueError, match=r"unknown followers \['conv2d'\]"):
        find_fusion(measure, "float32", followers=["conv2d"])
    with pytest.raises(ValueError, match="even height"):
        find_fusion(measure, "float32", shape=(1, 16, 7, 8))
    with pytest.raises(ValueError, match="rounds must be at least 2 and at most max_rounds, found 3 and 2"):
        find_fusion(measure, "float32", rounds=3, max_rounds=2)
