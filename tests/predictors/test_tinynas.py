import gzip

import pytest

from predictors.operators import Conv2d, Elementwise
from predictors.tinynas import read_conv_table

TEXT = "{Regular,1,16,7,7,24,3,2,1} 0.123\n{Depthwise,32,8,9,9,8,5,1,0} 0.5\n\n{Regular,1,3,9,9,8,7,1,0} -1\n"
CSV = """op,batch,cin,h,w,cout,k,stride,elmtfused,lat_ms
Regular,1,16,7,7,24,3,2,1,0.123
Depthwise,32,8,9,9,8,5,1,0,0.5
Regular,1,3,9,9,8,7,1,0,-1.0
"""


def written(tmp_path, text, name="conv_data.out"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_a_line_becomes_a_kernel_and_one_that_failed_is_left_out(tmp_path):
    regular, depthwise = read_conv_table(written(tmp_path, TEXT), "int8")
    conv = Conv2d(
        in_channels=16, out_channels=24, height=7, width=7, kernel=(3, 3), stride=(2, 2), padding=(1, 1)
    )  # fmt: skip
    assert regular.kernel.anchor == conv
    # 7 wide, 1 padded on each side, windows of 3 every 2: 4 wide
    assert regular.kernel.fused == (Elementwise(function="add", shapes=((1, 24, 4, 4), (1, 24, 4, 4))),)
    assert (regular.kernel.dtype, regular.accumulator) == ("int8", "int8")
    assert regular.latency_s == pytest.approx(0.123e-3)
    assert depthwise.kernel.anchor == Conv2d(
        batch=32, in_channels=8, out_channels=8, height=9, width=9, kernel=(5, 5), padding=(2, 2), groups=8
    )  # fmt: skip
    assert depthwise.kernel.fused == ()


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_the_table_as_csv_reads_like_the_text(tmp_path, name):
    from_text = read_conv_table(written(tmp_path, TEXT), "float32")
    assert read_conv_table(written(tmp_path, CSV, name), "float32") == from_text


def test_only_the_asked_batch_is_kept(tmp_path):
    (kept,) = read_conv_table(written(tmp_path, TEXT), "float32", batch=32)
    assert kept.kernel.anchor.batch == 32


def test_a_shape_is_held_out_with_all_its_batches_and_additions(tmp_path):
    lines = "".join(f"{{Regular,{batch},16,7,7,24,3,2,{adds}}} 1\n" for batch in (1, 32, 64) for adds in (0, 1))
    assert len({each.network for each in read_conv_table(written(tmp_path, lines), "float32")}) == 1
    shapes = "".join(f"{{Regular,1,16,7,7,{channels},3,2,0}} 1\n" for channels in range(1, 201))
    folds = [each.network for each in read_conv_table(written(tmp_path, shapes), "float32")]
    # a fifth of 200 each, with a standard deviation of sqrt(200 * 0.2 * 0.8) = 6
    assert sorted(set(folds)) == ["fold0", "fold1", "fold2", "fold3", "fold4"]
    assert all(20 < folds.count(fold) < 60 for fold in set(folds))


@pytest.mark.parametrize(
    "line",
    [
        "{Regular,1,16,7,7,24,3,2} 1",
        "{Grouped,1,16,7,7,24,3,2,0} 1",
        "{Regular,1,16,7,7,24,3,two,0} 1",
        "{Regular,1,16,7,7,24,0,2,0} 1",
        "x",
    ],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_a_line_that_is_no_convolution_is_named(tmp_path, line, batch):
    path = written(tmp_path, f"{{Regular,1,16,7,7,24,3,2,0}} 1\n{line}\n")
    with pytest.raises(ValueError, match=r"conv_data\.out, line 2: no convolution op,batch,cin"):
        read_conv_table(path, "float32", batch)
