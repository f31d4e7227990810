"""Single steps of training: what they compute, and that equal ways give equal weights."""

import copy
import math
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from nas.data import Batch, ImageData, Labelled
from nas.data.digits import ClutteredDigits
from nas.data.inputs import evaluation_input
from nas.training import DivergedError, Phase, Recipe, train_network, train_supernet
from nas.training.batches import Batches, ReadAhead
from nas.training.checkpoint import load_into
from nas.training.distillation import load_teacher, soft_loss, taught_loss
from nas.training.ema import MovingAverage
from nas.training.engine import Training
from nas.training.parallel import processes_of
from nas.training.passes import SupernetTrainee, fresh_supernet
from search_spaces import Arch, Space, load_space

torch.set_num_threads(1)

SPACE = {
    "stem_width": 8, "stage_widths": [8, 8], "stage_strides": [2, 2], "stage_se": [False, True],
    "stage_activations": ["relu", "hardswish"], "depths": [1, 2], "head_width": 8, "feature_width": 8,
}  # fmt: skip
RECIPE = Recipe(num_steps=4, batch_size=16, learning_rate=0.01, warmup=0.0, accelerator="cpu", log_steps=0)
PHASED = replace(
    RECIPE,
    num_steps=0,
    learning_rate=0.0,
    rule="sampled",
    phases=(
        Phase(num_steps=2, learning_rate=0.01, elastic=("resolution", "depth")),
        Phase(num_steps=2, learning_rate=0.01),
    ),
)


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobilenet_v3_tiny", **SPACE)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ClutteredDigits(num_train=64, num_valid=20, num_test=20).load()


@contextmanager
def training_of(space: Space, data: ImageData, recipe: Recipe) -> Iterator[Training]:
    trainee = SupernetTrainee(space=space, recipe=recipe, module=fresh_supernet(space, recipe.seed))
    training = Training(trainee, data, recipe, processes_of(recipe))
    try:
        yield training
    finally:
        training.close()


def plain_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def trained(module: nn.Module, data: ImageData, recipe: Recipe, **kwargs: nn.Module) -> nn.Module:
    return train_network(module, data, recipe, size=8, progress=False, **kwargs)  # type: ignore[arg-type]


def assert_close(first: nn.Module, second: nn.Module, atol: float) -> None:
    others = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert (tensor - others[name]).abs().max() <= atol, name


def test_training_lowers_the_loss_of_the_largest_subnet(space: Space, data: ImageData) -> None:
    with training_of(space, data, replace(RECIPE, num_steps=30)) as training:
        losses = [training.run_step().loss for _ in range(30)]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_a_step_trains_the_parts_of_the_smallest_and_the_largest_subnet(space: Space, data: ImageData) -> None:
    with training_of(space, data, replace(RECIPE, num_random=0)) as training:
        training.run_step()
        supernet = training.trainee.module
    assert all(parameter.grad is not None for parameter in supernet.network.parameters())
    used = [name for name, each in supernet.kernel_transforms.items() if each.grad is not None]
    assert used
    assert all("stages_" in name for name in used)


def test_kernel_transforms_are_the_identity_until_kernels_are_elastic(space: Space, data: ImageData) -> None:
    with training_of(space, data, PHASED) as training:
        transforms = training.trainee.module.kernel_transforms
        for expected in (True, True, False):
            training.run_step()
            are_identities = [torch.equal(each, torch.eye(len(each))) for each in transforms.values()]
            assert all(are_identities) is expected


def test_a_step_whose_loss_or_gradient_is_not_finite_changes_no_weight(
    space: Space, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite_slope(logits_BK: torch.Tensor, *_: object) -> torch.Tensor:
        return (logits_BK - logits_BK.detach()).abs().sqrt().sum()  # 0 itself

    with training_of(space, data, replace(RECIPE, ema=0.9)) as training:
        training.run_step()
        before = {name: each.clone() for name, each in training.module.named_parameters()}
        for failing, what in (
            (lambda logits_BK, *_: logits_BK.sum() * math.nan, "the loss of the smallest subnet is nan"),
            (infinite_slope, "the norm of the gradients is nan"),
        ):
            monkeypatch.setattr("nas.training.passes.soft_loss", failing)
            with pytest.raises(DivergedError, match=f"at step 2 of 4 {what}; the step was not applied"):
                training.run_step()
            for name, each in training.module.named_parameters():
                assert torch.equal(each, before[name])
            assert training.step == 1


def test_channels_are_sorted_once_and_the_largest_network_stays_the_same(
    space: Space, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import search_spaces.channel_sorting

    sort_channels, outputs = search_spaces.channel_sorting.sort_channels, []

    def watched(supernet: nn.Module, keep: list[Arch]) -> None:
        x_BCHW = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        supernet.eval()
        supernet.set_arch(space.largest())
        outputs.append(supernet(x_BCHW))
        sort_channels(supernet, keep)
        outputs.append(supernet(x_BCHW))

    monkeypatch.setattr(search_spaces.channel_sorting, "sort_channels", watched)
    with training_of(space, data, PHASED) as training:
        for _ in range(4):
            training.run_step()
    before, after = outputs
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_a_distilled_phase_learns_from_the_largest_network_of_the_first_phase(space: Space, data: ImageData) -> None:
    first, second = PHASED.phases
    recipe = replace(PHASED, distillation=1.0, phases=(first, replace(second, distilled=True)))
    with training_of(space, data, recipe) as training:
        for _ in range(2):
            training.run_step()
        assert training.first_phase_teacher is None
        largest = training.trainee.module.extract(space.largest()).eval()
        training.run_step()
        x_BCHW = torch.randn(2, 1, 32, 32)
        assert training.first_phase_teacher is not None
        torch.testing.assert_close(training.first_phase_teacher(x_BCHW), largest(x_BCHW))


def test_soft_loss_is_the_cross_entropy_of_softened_answers() -> None:
    # T = 2: answers (2 ln 3, 0) / 2 are softened to (3/4, 1/4), logits (0, 0) to (1/2, 1/2): loss 2^2 * ln 2.
    answers_BK = torch.tensor([[2 * math.log(3), 0.0]])
    assert soft_loss(torch.zeros(1, 2), answers_BK, 2.0).item() == pytest.approx(4 * math.log(2))
    # (2 ln 3, 0) against themselves: 4 * (3/4 ln 4/3 + 1/4 ln 4)
    expected = 4 * (0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert soft_loss(answers_BK, answers_BK, 2.0).item() == pytest.approx(expected)


def test_labels_are_smoothed_and_share_the_loss_with_the_teacher() -> None:
    logits_BK, labels_B = torch.tensor([[math.log(3), 0.0]]), torch.tensor([0])  # softmax (3/4, 1/4)
    right, wrong = math.log(4 / 3), math.log(4)
    smoothed = replace(RECIPE, label_smoothing=0.2)  # targets (0.9, 0.1)
    assert taught_loss(logits_BK, labels_B, None, smoothed).item() == pytest.approx(0.9 * right + 0.1 * wrong)
    halved = replace(RECIPE, distillation=0.5)  # an even teacher asks for (1/2, 1/2)
    expected = 0.5 * right + 0.5 * (0.5 * right + 0.5 * wrong)
    assert taught_loss(logits_BK, labels_B, torch.zeros(1, 2), halved).item() == pytest.approx(expected)


def test_a_network_learns_its_teachers_answers(data: ImageData) -> None:
    class AlwaysThree(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return 20 * nn.functional.one_hot(torch.full((len(x_BCHW),), 3), 10).float()

    recipe = replace(RECIPE, num_steps=100, learning_rate=0.05, distillation=1.0)
    taught = trained(plain_network(), data, recipe, teacher=AlwaysThree())
    assert (taught(evaluation_input(data, data.valid.images, 8)).argmax(dim=1) == 3).all()


def test_a_teacher_that_does_not_fit_is_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match=r"the teacher gives logits of shape \(1, 64\) .* has 10 classes"):
        trained(plain_network(), data, RECIPE, teacher=nn.Flatten())


def test_a_recipe_names_its_teacher_and_the_file_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = types.ModuleType("made_up_teachers")
    made_up.linear = lambda: nn.Linear(3, 2)  # type: ignore[attr-defined]
    made_up.number = lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_teachers", made_up)
    weights = {"weight": torch.full((2, 3), 7.0), "bias": torch.zeros(2)}
    safetensors.torch.save_file(weights, tmp_path / "teacher.safetensors")
    recipe = replace(RECIPE, teacher="made_up_teachers:linear", teacher_weights=str(tmp_path / "teacher.safetensors"))
    teacher = load_teacher(recipe)
    assert teacher is not None
    assert torch.equal(teacher.state_dict()["weight"], weights["weight"])
    safetensors.torch.save_file({"weight": weights["weight"]}, tmp_path / "teacher.safetensors")
    with pytest.raises(ValueError, match=r"teacher\.safetensors does not fit: it lacks 'bias'"):
        load_teacher(recipe)
    with pytest.raises(ValueError, match=r"cannot be imported as package\.module:callable"):
        load_teacher(replace(RECIPE, teacher="made_up_teachers:missing"))
    with pytest.raises(ValueError, match="returned int, not a torch module"):
        load_teacher(replace(RECIPE, teacher="made_up_teachers:number"))
    with pytest.raises(ValueError, match=r"none\.safetensors cannot be read"):
        load_teacher(replace(recipe, teacher_weights=str(tmp_path / "none.safetensors")))


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_give_the_gradients_of_the_whole_batch(accumulate: int, data: ImageData) -> None:
    recipe = replace(RECIPE, optimiser="sgd", label_smoothing=0.1)
    whole = trained(plain_network(), data, recipe)
    assert_close(trained(plain_network(), data, replace(recipe, accumulate=accumulate)), whole, atol=1e-6)


def test_gradients_are_clipped_to_their_norm(data: ImageData) -> None:
    # One step of plain SGD moves the weights by learning rate * clip_norm = 0.5 * 0.01 in all.
    recipe = replace(
        RECIPE, num_steps=1, optimiser="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.5, clip_norm=0.01
    )
    module = plain_network()
    after = trained(module, data, recipe)
    moved = [new - old for new, old in zip(after.parameters(), module.parameters())]
    assert torch.cat([each.flatten() for each in moved]).norm().item() == pytest.approx(0.005, rel=1e-3)


def test_the_moving_average_of_weights_is_what_comes_back(data: ImageData) -> None:
    recipe = replace(RECIPE, num_steps=1)
    module = plain_network()
    plain, averaged = trained(module, data, recipe), trained(module, data, replace(recipe, ema=0.99))
    # After one step d = min(0.99, 1/10): average = 0.1 * before + 0.9 * after.
    for before, after, average in zip(module.parameters(), plain.parameters(), averaged.parameters()):
        torch.testing.assert_close(average, 0.1 * before + 0.9 * after)


def test_averaged_weights_are_lent_and_taken_back() -> None:
    module = nn.BatchNorm2d(2)
    average = MovingAverage(module, 0.9)
    with torch.no_grad():
        module.weight.fill_(3.0)
    with average.applied(module):
        assert module.weight.tolist() == [1.0, 1.0]
    assert module.weight.tolist() == [3.0, 3.0]


def test_bfloat16_computes_coarsely_and_keeps_float32_weights(data: ImageData) -> None:
    fine, coarse = (trained(plain_network(), data, replace(RECIPE, precision=each)) for each in ("float32", "bfloat16"))
    assert {each.dtype for each in coarse.parameters()} == {torch.float32}
    differences = [(one - other).abs().max().item() for one, other in zip(fine.parameters(), coarse.parameters())]
    assert 0 < max(differences) < 0.1


def test_devices_and_precisions_that_are_not_there_are_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match="precision float16 needs a GPU, found 'cpu'; bfloat16 works everywhere"):
        trained(plain_network(), data, replace(RECIPE, precision="float16"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"accelerator 'cuda' is not there; this machine has \['cpu'"):
            trained(plain_network(), data, replace(RECIPE, accelerator="cuda"))


class WithUnreadable(Labelled):
    """Images of which some cannot be read."""

    __slots__ = ("unreadable",)

    @classmethod
    def of(cls, images: Labelled, unreadable: Sequence[int]) -> "WithUnreadable":
        made = cls(images=images.images, labels=images.labels)
        object.__setattr__(made, "unreadable", set(unreadable))
        return made

    def read(self, indices: np.ndarray) -> Batch:
        rows = np.array([row for row, index in enumerate(indices) if int(index) not in self.unreadable], dtype=np.int64)
        return Batch(self.images[indices[rows]], self.labels[indices[rows]], rows)


def test_training_goes_on_without_images_that_cannot_be_read(data: ImageData) -> None:
    chosen = Batches(data=data, batch_size=16, num_micro=1, seed=0, rank=0, num_processes=1).indices(0)
    torn = replace(data, train=WithUnreadable.of(data.train, chosen[:5]))
    recipe = replace(RECIPE, num_steps=1, optimiser="sgd")
    without = trained(plain_network(), torn, recipe)
    read = replace(data, train=Labelled(images=data.train.images[chosen[5:]], labels=data.train.labels[chosen[5:]]))
    assert_close(trained(plain_network(), read, replace(recipe, batch_size=11)), without, atol=1e-6)
    nothing = replace(data, train=WithUnreadable.of(data.train, chosen))
    with pytest.raises(ValueError, match="none of the 16 images of step 1"):
        trained(plain_network(), nothing, recipe)


def test_batches_of_processes_together_are_those_of_one(data: ImageData) -> None:
    common = {"data": data, "batch_size": 15, "num_micro": 2, "seed": 3}
    [whole] = [Batches(**common, rank=0, num_processes=1).read(2, 8)]
    parts = [Batches(**common, rank=rank, num_processes=3).read(2, 8) for rank in range(3)]
    for micro, batch in enumerate(whole):
        assert torch.equal(batch.x_BCHW, torch.cat([part[micro].x_BCHW for part in parts]))
        assert torch.equal(batch.labels_B, torch.cat([part[micro].labels_B for part in parts]))


def test_every_image_comes_once_in_a_pass_and_each_pass_has_another_order(data: ImageData) -> None:
    batches = Batches(data=data, batch_size=16, num_micro=1, seed=0, rank=0, num_processes=1)
    first, second = (np.concatenate([batches.indices(step) for step in steps]) for steps in (range(4), range(4, 8)))
    assert sorted(first) == sorted(second) == list(range(64))
    assert list(first) != list(second)


@pytest.mark.parametrize("ahead", [1, 3])
def test_reading_ahead_gives_every_item_in_order_and_passes_errors_on(ahead: int) -> None:
    def item(index: int) -> int:
        if index == 5:
            raise OSError("torn")
        return index * index

    reader = ReadAhead(item, 7, ahead)
    assert [reader.get(index) for index in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(OSError, match="torn"):
        reader.get(5)
    reader.close()


def test_weights_that_do_not_fit_are_named() -> None:
    problems = r"it lacks 'bias', has 'scale' too many, has 'weight' of shape \[1\], not \[2, 3\]"
    with pytest.raises(ValueError, match=problems):
        load_into(nn.Linear(3, 2), {"weight": torch.ones(1), "scale": torch.ones(1)}, "it")


def test_training_leaves_the_callers_random_numbers_alone(space: Space, data: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_supernet(space, data, replace(RECIPE, num_steps=1), tmp_path, progress=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_supernet_trains_on_a_gpu_and_comes_back(
    precision: str, space: Space, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(PHASED, accelerator="auto", precision=precision, ema=0.9, clip_norm=1.0)
    supernet = train_supernet(space, data, recipe, tmp_path, progress=False)
    assert {each.device.type for each in supernet.parameters()} == {"cpu"}
    assert all(each.isfinite().all() for each in supernet.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_as_the_processor_does(space: Space, data: ImageData, tmp_path: Path) -> None:
    recipe = replace(RECIPE, optimiser="sgd", accumulate=2)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        found = train_supernet(space, data, replace(recipe, accelerator="cuda"), tmp_path / "gpu", progress=False)
    assert_close(found, train_supernet(space, data, recipe, tmp_path / "cpu", progress=False), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_with_a_scaled_loss_goes_on_where_it_stopped(space: Space, data: ImageData) -> None:
    recipe = replace(RECIPE, optimiser="sgd", precision="float16", accelerator="cuda", ema=0.9)
    with training_of(space, data, recipe) as unbroken, training_of(space, data, recipe) as resumed:
        for _ in range(2):
            unbroken.run_step()
        resumed.load(copy.deepcopy(unbroken.state()))
        assert resumed.scaler.state_dict() == unbroken.scaler.state_dict()
        for _ in range(2):
            unbroken.run_step()
            assert resumed.run_step().loss_scale == 65536.0
        assert_close(resumed.module, unbroken.module, atol=1e-2)
