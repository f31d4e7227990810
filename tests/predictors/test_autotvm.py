import json
from pathlib import Path

import pytest

from predictors.autotvm import read_tuned_kernels
from predictors.operators import Conv2d, Linear


def record(task, data, weight, arguments, dtype="float16", seconds=(2e-3,), error=0):
    tensors = [["TENSOR", data, dtype], ["TENSOR", weight, dtype]]
    return {"input": ["opencl", task, [*tensors, *arguments], {}], "result": [list(seconds), error, 1.0, 2.0]}


def write_log(tmp_path: Path, *records, name="mynet_nchw.texture.float16.autotvm.log") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(each) for each in records) + "\n", encoding="utf-8")
    return path


CONV = [[2, 2], [1, 1, 1, 1], [1, 1], "float16"]


def test_both_layouts_of_a_convolution_are_the_same_operator(tmp_path):
    log = write_log(
        tmp_path,
        record("conv2d_nchwc.image2d", [1, 8, 16, 32], [24, 8, 3, 3], CONV),
        record("conv2d_nhwc_winograd.image2d", [1, 16, 32, 8], [3, 3, 8, 24], CONV),
    )
    nchw, nhwc = read_tuned_kernels(log)
    assert nchw.kernel is nhwc.kernel
    assert nchw.kernel.anchor == Conv2d(
        in_channels=8, out_channels=24, height=16, width=32, kernel=(3, 3), stride=(2, 2), padding=(1, 1)
    )
    assert nchw.latency_s == 2e-3
    assert (nchw.network, nchw.accumulator, nchw.task) == ("mynet", "float16", "conv2d_nchwc.image2d")


def test_depthwise_weights_carry_a_multiplier(tmp_path):
    log = write_log(
        tmp_path,
        record("depthwise_conv2d_nchwc.image2d", [1, 8, 16, 16], [8, 2, 3, 3], CONV),
        record("depthwise_conv2d_nhwc.image2d", [1, 16, 16, 8], [3, 3, 8, 2], CONV),
    )
    nchw, nhwc = (each.kernel.anchor for each in read_tuned_kernels(log))
    assert nchw == nhwc
    assert (nchw.groups, nchw.out_channels, nchw.is_depthwise) == (8, 16, True)


def test_dense_kernels_become_linear_layers(tmp_path):
    log = write_log(tmp_path, record("dense_small_batch.gpu", [1, 64], [10, 64], [None, "float32"]))
    (tuned,) = read_tuned_kernels(log)
    assert tuned.kernel.anchor == Linear(shape=(1, 64), out_features=10)
    assert (tuned.kernel.dtype, tuned.accumulator) == ("float16", "float32")


def test_uneven_padding_becomes_even_padding_with_the_same_output(tmp_path):
    same = [[2, 2], [0, 0, 1, 1], [1, 1], "float16"]
    log = write_log(tmp_path, record("conv2d_nchwc.image2d", [1, 3, 224, 224], [32, 3, 3, 3], same))
    (tuned,) = read_tuned_kernels(log)
    assert tuned.kernel.anchor.output_shape == (1, 32, 112, 112)  # (224 + 1 - 3) // 2 + 1


def test_uneven_padding_without_an_even_equivalent_is_refused(tmp_path):
    uneven = [[1, 1], [0, 0, 1, 1], [1, 1], "float16"]
    log = write_log(tmp_path, record("conv2d_nchwc.image2d", [1, 3, 8, 8], [4, 3, 2, 2], uneven))
    with pytest.raises(ValueError, match=r"record 1: task 'conv2d_nchwc\.image2d': uneven padding of 1 around 8"):
        read_tuned_kernels(log)


def test_repetitions_are_averaged_and_failed_configurations_left_out(tmp_path):
    log = write_log(
        tmp_path,
        record("conv2d_nchwc.image2d", [1, 8, 16, 16], [8, 8, 3, 3], CONV, seconds=(1e-3, 3e-3)),
        record("conv2d_nchwc.image2d", [1, 8, 16, 16], [8, 8, 3, 3], CONV, seconds=(1e9,), error=4),
    )
    (tuned,) = read_tuned_kernels(log)
    assert tuned.latency_s == pytest.approx(2e-3)


def test_an_unknown_task_is_named_with_its_place(tmp_path):
    log = write_log(tmp_path, record("conv3d.cuda", [1, 8, 4, 16, 16], [8, 8, 3, 3, 3], CONV))
    with pytest.raises(ValueError, match=r"mynet_nchw.*record 1: task 'conv3d.cuda': not read; known are conv2d"):
        read_tuned_kernels(log)


@pytest.mark.parametrize(
    ("task", "data", "weight", "arguments", "reason"),
    [
        ("conv2d_nchwc.image2d", [1, 2, 8, 8, 4], [8, 8, 3, 3], CONV, "expected tensors of 4 axes"),
        ("conv2d_nchwc.image2d", [1, 8, 8, 8], [8, 4, 3, 3], CONV, "do not take inputs"),
        ("dense.gpu", [1, 64], [10, 32], [None, "float16"], "do not take inputs"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, task, data, weight, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        read_tuned_kernels(write_log(tmp_path, record(task, data, weight, arguments)))


def test_a_torn_line_is_named(tmp_path):
    log = write_log(tmp_path, record("dense.gpu", [1, 64], [10, 64], [None, "float16"]))
    log.write_text(log.read_text(encoding="utf-8") + '\n{"input": ["opencl"', encoding="utf-8")
    with pytest.raises(ValueError, match="line 3: no AutoTVM record"):
        read_tuned_kernels(log)


def test_a_table_is_read_like_the_log_and_filtered_by_device(tmp_path):
    path = tmp_path / "ops.csv"
    columns = "source,device,op,lat_ms,in_shape,w_shape,dtype,args"
    arguments = '"[[2, 2], [1, 1, 1, 1], [1, 1], ""float16""]"'
    rows = [
        f"logs/net_nhwc.f16.log,Adreno {number},conv2d_nhwc.image2d,2.0,1x16x16x8,3x3x8x24,float16,{arguments}"
        for number in (660, 730)
    ]
    path.write_text("\n".join([columns, *rows]), encoding="utf-8")
    log = write_log(tmp_path, record("conv2d_nchwc.image2d", [1, 8, 16, 16], [24, 8, 3, 3], CONV))
    (from_table,) = read_tuned_kernels(path, only_device="Adreno 660")
    assert from_table.kernel is read_tuned_kernels(log)[0].kernel
    assert (from_table.network, from_table.latency_s) == ("net", 2e-3)
