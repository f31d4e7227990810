import numpy as np
import pytest
import torch
from torch import nn

from nas.accuracy import SupernetAccuracy, accuracy, folded, recalibrate
from nas.data import ImageData, Labelled, Normalisation
from nas.data.digits import ClutteredDigits
from nas.data.inputs import evaluation_input, normalised
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
    x_BCHW = 3 + 2 * torch.randn(400, 4, 5, 5)
    norm = nn.BatchNorm2d(4)
    module = nn.Sequential(norm).eval()
    recalibrate(module, x_BCHW)
    first, second = x_BCHW[:200], x_BCHW[200:]
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
    handle = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: sizes.append(inputs[0].shape[-1]) if type(module).__name__ == "MobileNetV3" else None
    )
    try:
        SupernetAccuracy(supernet, data)(supernet.space.smallest())
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
