from dataclasses import replace

import pytest
import torch
from torch import nn

from nas.training import Phase, Recipe, recipe_from_mapping
from nas.training.optimiser import decayed_parameters, learning_rate, make_optimiser
from nas.training.passes import SupernetTrainee
from nas.training.phases import begins_sorting, check_phases, phase_choices, trained_widths
from predictors.mapping import read_yaml
from predictors.paths import shipped
from search_spaces import Space, load_space
from search_spaces.channel_sorting import sort_channels

RECIPE = Recipe(num_steps=20, batch_size=16, learning_rate=0.004, warmup=0.5)
PROGRESSIVE = recipe_from_mapping(read_yaml(shipped("training") / "progressive.yaml"))


@pytest.fixture(scope="module")
def small_space() -> Space:
    fields = {"stage_widths": [8, 8], "stage_strides": [2, 2], "stage_se": [False, True]}
    return load_space("mobilenet_v3_tiny", depths=[1, 2], stage_activations=["relu", "hardswish"], **fields)


def test_every_shipped_recipe_reads() -> None:
    for path in shipped("training").glob("*.yaml"):
        assert recipe_from_mapping(read_yaml(path)).total_steps > 0


def test_shipped_recipes_list_every_field_so_that_each_can_be_overridden() -> None:
    fields = set(recipe_from_mapping(read_yaml(shipped("training") / "default.yaml")).determining)
    fields |= {"accelerator", "log_steps"}
    for path in shipped("training").glob("*.yaml"):
        left_out = {"num_steps", "learning_rate"} if read_yaml(path)["phases"] else set()
        assert set(read_yaml(path)) == fields - left_out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_step": 1}, "unknown key 'num_step'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, found 0.0"),
        ({"num_random": -1}, "num_random must not be negative, found -1"),
        ({"warmup": 1.0}, "warmup must be in 0 <= warmup < 1"),
        ({"ema": 1.0}, "ema must be in 0 <= ema < 1"),
        ({"distillation": 1.5}, "distillation must be in 0 <= distillation <= 1, found 1.5"),
        ({"batch_size": True}, "batch_size: expected int, found True"),
        ({"optimiser": "adam"}, r"unknown optimiser 'adam'; there are \['adamw', 'sgd'\]"),
        ({"precision": "bf16"}, r"unknown precision 'bf16'; there are \['float32', 'bfloat16', 'float16'\]"),
        ({"accumulate": 65}, "accumulate 65 leaves nothing of batch_size 64"),
        ({"teacher_weights": "a.safetensors"}, "teacher_weights are given, but no teacher"),
        ({"rule": "sampled", "num_random": 0}, "num_random must be positive"),
        (
            {"phases": [{"num_steps": 1, "learning_rate": 0.1}]},
            "with phases, num_steps and learning_rate stand in each",
        ),
        (
            {"num_steps": 0, "learning_rate": 0.0, "phases": [{"num_steps": 1, "learning_rate": 0.1, "elastic": []}]},
            "the last phase has nothing elastic",
        ),
        (
            {
                "num_steps": 0,
                "learning_rate": 0.0,
                "phases": [{"num_steps": 1, "learning_rate": 0.1, "distilled": True}],
            },
            "the first phase cannot be distilled",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_from_mapping(read_yaml(shipped("training") / "default.yaml") | fields)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(RECIPE, step) for step in range(RECIPE.num_steps)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.05 * RECIPE.learning_rate < max(rates) <= RECIPE.learning_rate


def test_the_learning_rate_of_every_phase_begins_anew() -> None:
    first, second = (Phase(num_steps=20, learning_rate=rate) for rate in (0.004, 0.002))
    phased = replace(RECIPE, num_steps=0, learning_rate=0.0, phases=(first, second))
    rates = [learning_rate(phased, step) for step in range(phased.total_steps)]
    assert rates[:20] == [learning_rate(RECIPE, step) for step in range(20)]
    assert rates[20:] == pytest.approx([rate / 2 for rate in rates[:20]])


def test_norms_and_biases_have_no_weight_decay() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.bn = nn.BatchNorm2d(4)
            self.wide_norm = nn.LayerNorm([4, 2, 2])  # its weight has three axes
            self.linear = nn.Linear(16, 2)
            self.scale = nn.Parameter(torch.ones(4))

    module = Network()
    assert decayed_parameters(module) == {"conv.weight", "linear.weight"}
    decayed, others = make_optimiser(module, RECIPE).param_groups
    assert decayed["weight_decay"] == RECIPE.weight_decay
    assert others["weight_decay"] == 0
    assert [each.shape for each in decayed["params"]] == [module.conv.weight.shape, module.linear.weight.shape]
    assert len(decayed["params"]) + len(others["params"]) == len(list(module.parameters()))


def test_the_parameters_of_a_supernet_that_decay_are_those_of_convolutions_and_linear_layers(
    small_space: Space,
) -> None:
    decayed = decayed_parameters(small_space.supernet().network)
    assert {name.rpartition(".")[2] for name in decayed} == {"weight"}
    assert not [name for name in decayed if ".bn." in name]
    assert "classifier.weight" in decayed


def test_what_a_module_lists_as_undecayed_does_not_decay() -> None:
    network = load_space("vit_digits").supernet()
    decayed = decayed_parameters(network)
    assert network.get_parameter("network.embedding.positions").ndim > 1
    assert "network.embedding.positions" not in decayed
    assert "network.embedding.patches.weight" in decayed


def test_elastic_families_let_their_knobs_vary_and_the_others_are_largest(small_space: Space) -> None:
    phase = Phase(num_steps=1, learning_rate=0.1, elastic=("kernel", "expansion:2"))
    choices = phase_choices(small_space, phase)
    assert choices["stage1_block1_kernel"] == (3, 5, 7)
    assert choices["stage2_block2_expansion"] == (3, 4)
    assert choices["stage1_depth"] == (2,)
    assert choices["resolution"] == (32,)


def test_phases_that_leave_subnets_untrained_are_refused(small_space: Space) -> None:
    for elastic, left in (
        (("kernel", "depth"), "'resolution'"),
        (("resolution", "kernel", "depth", "expansion:2"), "exp"),
    ):
        last = Phase(num_steps=1, learning_rate=0.1, elastic=elastic)
        recipe = replace(RECIPE, num_steps=0, learning_rate=0.0, phases=(last,))
        with pytest.raises(ValueError, match=rf"last phase does not train every value of .*{left}"):
            check_phases(small_space, recipe)
    with pytest.raises(ValueError, match="write kernel:2 for the two largest"):
        phase_choices(small_space, Phase(num_steps=1, learning_rate=0.1, elastic=("kernel:two",)))


@pytest.mark.parametrize("name", ["mobilenet_v3_tiny", "mobilenet_v3"])
def test_the_progressive_recipe_fits_spaces_with_kernels_and_sorts_before_expansions(name: str) -> None:
    space = load_space(name)
    check_phases(space, PROGRESSIVE)
    sorts = [begins_sorting(space, PROGRESSIVE, index) for index in range(len(PROGRESSIVE.phases))]
    assert sorts == [False, False, False, True, True]


def test_sorting_again_keeps_what_subnets_of_the_widths_before_compute(small_space: Space) -> None:
    """Of expansions 2, 3, 4 the fourth phase trains 3 and 4; the fifth begins with 3 as it was."""
    [kept] = trained_widths(small_space, PROGRESSIVE, 4)
    assert {value for knob, value in kept.items() if knob.endswith("expansion")} == {3}
    assert trained_widths(small_space, PROGRESSIVE, 3) == []
    torch.manual_seed(0)
    supernet, x_BCHW = small_space.supernet().eval(), torch.randn(2, 1, 32, 32)
    archs = [small_space.largest(), kept, small_space.smallest() | {"resolution": 32}]
    before = [supernet.extract(arch)(x_BCHW) for arch in archs]
    sort_channels(supernet, keep=[kept])
    after = [supernet.extract(arch)(x_BCHW) for arch in archs]
    for same in (0, 1):
        torch.testing.assert_close(after[same], before[same])
    assert not torch.allclose(after[2], before[2])


def test_the_sandwich_trains_the_largest_on_labels_and_others_on_its_answers(small_space: Space) -> None:
    trainee = SupernetTrainee(space=small_space, recipe=RECIPE, module=small_space.supernet())
    passes = trainee.passes(3)
    assert [each.name for each in passes] == ["largest", "smallest", "random", "random"]
    assert [each.follows for each in passes] == [False, True, True, True]
    assert [each.arch for each in passes[:2]] == [small_space.largest(), small_space.smallest()]
    assert [each.size for each in passes[:2]] == [32, 20]
    assert trainee.passes(3) == passes
    assert trainee.passes(4)[2:] != passes[2:]


def test_sampled_subnets_of_a_step_have_one_image_size_that_changes_from_step_to_step(small_space: Space) -> None:
    recipe = replace(RECIPE, rule="sampled", num_random=3)
    trainee = SupernetTrainee(space=small_space, recipe=recipe, module=small_space.supernet())
    steps = [trainee.passes(step) for step in range(20)]
    for passes in steps:
        assert len({each.size for each in passes}) == 1
        assert not any(each.follows for each in passes)
    assert {passes[0].size for passes in steps} == {20, 24, 28, 32}


def test_a_phase_with_elastic_resolution_alone_trains_the_largest_network_once_a_step(small_space: Space) -> None:
    trainee = SupernetTrainee(space=small_space, recipe=PROGRESSIVE, module=small_space.supernet())
    for step in range(5):
        [only] = trainee.passes(step)
        assert only.arch == small_space.largest() | {"resolution": only.size}
