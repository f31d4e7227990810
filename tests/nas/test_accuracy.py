from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nas.accuracy
from nas.accuracy import PreparedInputs, SupernetAccuracy, accuracy, calibration_images, folded, recalibrate
from nas.data import ImageData, Labelled, Normalisation
from nas.data.digits import ClutteredDigits, Digits
from nas.data.images import Batch
from nas.data.inputs import evaluation_input, normalised
from nas.training import Recipe, train_supernet
from search_spaces import load_space
from search_spaces.supernet import Supernet

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return ClutteredDigits(num_train=250, num_valid=50, num_test=30).load()


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    space = load_space(
        "mobilenet_v3_tiny", stem_width=8, stage_widths=[8, 8, 8], head_width=8, feature_width=8, resolutions=[16, 32]
    )
    return space.supernet()


def test_an_accuracy_depends_on_the_arch_alone(supernet: Supernet, data: ImageData) -> None:
    rng = np.random.default_rng(0)
    archs = [supernet.space.sample(rng) for _ in range(3)]
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    judge = SupernetAccuracy(supernet, data)
    forward = [judge(arch) for arch in archs]
    supernet.set_arch(archs[0])
    assert [judge(arch) for arch in reversed(archs)] == forward[::-1]
    assert all(0 <= each <= 1 for each in forward)
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_recalibrated_statistics_are_those_of_the_calibration_images() -> None:
    x_BCHW = 3 + 2 * torch.randn(2000, 4, 5, 5)
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(norm).eval()
    recalibrate(module, x_BCHW)
    first, second = x_BCHW[:1000], x_BCHW[1000:]
    torch.testing.assert_close(norm.running_mean, x_BCHW.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, (first.var(dim=(0, 2, 3)) + second.var(dim=(0, 2, 3))) / 2)
    assert not norm.training


def test_without_recalibration_a_subnet_is_judged_by_statistics_that_are_not_its_own(
    supernet: Supernet, data: ImageData
) -> None:
    arch = supernet.space.smallest()
    x_BCHW = evaluation_input(data, data.train.images, supernet.space.image_size(arch))
    own, shared = SupernetAccuracy(supernet, data).subnet(arch), supernet.extract(arch).eval()
    with torch.inference_mode():
        spreads = [
            module.head(module.stages(module.first_block(module.stem(x_BCHW)))).std() for module in (own, shared)
        ]
    assert spreads[0] > 1.2 * spreads[1] or spreads[1] > 1.2 * spreads[0]
    assert any(not torch.equal(a, b) for a, b in zip(own.state_dict().values(), shared.state_dict().values()))


def test_folding_normalizations_changes_no_answer(supernet: Supernet, data: ImageData) -> None:
    judge = SupernetAccuracy(supernet, data)
    arch = supernet.space.largest()
    x_BCHW = evaluation_input(data, data.valid.images, 32)
    with torch.inference_mode():
        plain = judge.subnet(arch)(x_BCHW)
        quick_module = folded(judge.subnet(arch))
        quick = quick_module(x_BCHW)
    torch.testing.assert_close(quick, plain, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in quick_module.modules())


def test_accuracy_counts_right_answers() -> None:
    """A module that answers with the top left pixel: 2 of 3 labels are that pixel's."""
    images = np.zeros((3, 1, 2, 2), np.uint8)
    images[:, 0, 0, 0] = (0, 255, 255)

    class TopLeft(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.stack([-x_BCHW[:, 0, 0, 0], x_BCHW[:, 0, 0, 0]], dim=1)

    part = Labelled(images=images, labels=np.array([0, 1, 0]))
    data = ImageData(name="pixels", num_classes=2, train=part, valid=part, test=part)
    assert accuracy(TopLeft(), data, part, size=2) == 2 / 3


def test_a_subnet_sees_images_of_its_resolution(supernet: Supernet, data: ImageData) -> None:
    sizes = []
    judge, network = SupernetAccuracy(supernet, data), type(supernet.network)
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: sizes.append(inputs[0].shape[-1]) if type(module) is network else None
    )
    try:
        judge(supernet.space.smallest())
    finally:
        handle.remove()
    assert set(sizes) == {16}


def test_other_images_can_be_judged(supernet: Supernet, data: ImageData) -> None:
    value = SupernetAccuracy(supernet, data).of(supernet.space.largest(), data.test)
    assert (30 * value) == pytest.approx(round(30 * value))


def test_inputs_are_centred() -> None:
    x = normalised(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), Normalisation())
    assert x.flatten().tolist() == [-2.0, 2.0]


def test_data_of_other_classes_are_refused(supernet: Supernet, data: ImageData) -> None:
    part = data.valid
    eleven = ImageData(name="eleven", num_classes=11, train=part, valid=part, test=part)
    with pytest.raises(ValueError, match="num_classes 11"):
        SupernetAccuracy(supernet, eleven)


class Counted:
    """Images that count how often they are read."""

    def __init__(self, images: Labelled) -> None:
        self.images, self.num_reads = images, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> Batch:
        self.num_reads += 1
        return self.images.read(indices)


def test_recalibration_is_what_makes_a_trained_supernets_subnets_accurate(tmp_path: Path) -> None:
    """Digits are easy: after 60 steps subnets get most of them right, by statistics of their own alone."""
    data = Digits(size=16).load()
    space = load_space(
        "mobilenet_v3_tiny", stem_width=8, stage_widths=[8, 16], stage_strides=[2, 2], stage_se=[False, True],
        stage_activations=["relu", "hardswish"], head_width=32, feature_width=32, resolutions=[16],
    )  # fmt: skip
    recipe = Recipe(num_steps=60, batch_size=32, learning_rate=0.01, num_random=1, accelerator="cpu", log_steps=0)
    supernet = train_supernet(space, data, recipe, tmp_path, progress=False)
    judge = SupernetAccuracy(supernet, data)
    rng = np.random.default_rng(0)
    archs = [space.smallest(), *(space.sample(rng) for _ in range(3))]
    with_own = [judge(arch) for arch in archs]
    with_shared = [accuracy(supernet.extract(arch).eval(), data, data.valid, 16) for arch in archs]
    assert np.mean(with_own) > 0.6
    assert with_own[0] > with_shared[0] + 0.3  # 0.72 and 0.29 when this was written
    assert np.mean(with_own) > np.mean(with_shared) + 0.1  # 0.72 and 0.54


def test_statistics_are_computed_once_for_every_way_of_asking(
    supernet: Supernet, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = nas.accuracy.recalibrate
    monkeypatch.setattr(nas.accuracy, "recalibrate", lambda *arguments: (calls.append(1), plain(*arguments)))
    judge, arch = SupernetAccuracy(supernet, data), supernet.space.smallest()
    value = judge(arch)
    first = judge.subnet(arch).state_dict()
    dead = dict(arch, stage1_block3_kernel=7)  # no block 3 in a stage of depth 1
    second = judge.subnet(dead).state_dict()
    assert judge(dead) == value
    judge.of(arch, data.test)
    assert len(calls) == 1
    assert all(torch.equal(first[name], second[name]) for name in first)
    judge(supernet.space.largest())
    assert len(calls) == 2


def test_a_full_memory_changes_no_answer(supernet: Supernet, data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = [supernet.space.smallest(), supernet.space.largest()]
    roomy = [SupernetAccuracy(supernet, data)(arch) for arch in archs]
    monkeypatch.setattr(nas.accuracy, "KEPT_BYTES", 8)
    judge = SupernetAccuracy(supernet, data)
    assert [judge(arch) for arch in (*archs, *archs)] == roomy * 2
    assert len(judge._statistics._entries) == 1


@pytest.mark.parametrize(("max_bytes", "num_reads"), [(1 << 20, 1), (1000, 3)])
def test_images_are_prepared_once_if_they_fit_into_memory(data: ImageData, max_bytes: int, num_reads: int) -> None:
    counted = Counted(data.valid)  # type: ignore[arg-type]
    inputs = PreparedInputs(data, torch.device("cpu"), max_bytes=max_bytes)
    rounds = [[x_BCHW for x_BCHW, _ in inputs.batches(counted, 16)] for _ in range(3)]
    assert counted.num_reads == num_reads
    assert all(torch.equal(torch.cat(each), torch.cat(rounds[0])) for each in rounds)
    assert sum(len(each) for each in rounds[0]) == 50


def test_calibration_images_are_of_all_classes_where_files_come_class_by_class(data: ImageData) -> None:
    order = np.argsort(data.train.labels, kind="stable")
    everything = data.train.read(order)
    part = Labelled(images=everything.images, labels=everything.labels)
    by_class = ImageData(name="sorted", num_classes=10, train=part, valid=data.valid, test=data.test)
    chosen = calibration_images(by_class, 100)
    assert len(chosen) == 100
    matches = (chosen[:, None] == everything.images[None]).all(axis=(2, 3, 4))
    assert set(everything.labels[matches.argmax(axis=1)]) == set(range(10))


def test_statistics_of_no_images_are_refused(supernet: Supernet, data: ImageData) -> None:
    with pytest.raises(ValueError, match="num_calibration must be at least 1, found 0"):
        SupernetAccuracy(supernet, data, num_calibration=0)
    with pytest.raises(ValueError, match="at least 2 images, found 1"):
        recalibrate(nn.Sequential(nn.BatchNorm2d(1)), torch.zeros(1, 1, 4, 4))


def test_recalibrating_changes_nothing_but_statistics() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2, momentum=0.3)).eval()
    module[0].train()
    x_BCHW = torch.randn(20, 2, 4, 4)
    recalibrate(module, x_BCHW)
    assert [each.training for each in module.modules()] == [False, True, False]
    assert module[1].momentum == 0.3
    torch.testing.assert_close(module[1].running_mean, x_BCHW.mean(dim=(0, 2, 3)))  # nothing was dropped
