import errno
import json
import os
from dataclasses import replace

import pytest

import predictors.json_lines
from predictors import LookupTable, Measurement, TableHeader, append_measurement
from predictors.fusion import make_kernel
from predictors.lookup_table import append_entries
from predictors.operators import Activation, Conv2d, Linear, Normalization

HEADER = TableHeader(
    device="toy", runtime="torch_eager", runtime_version="2.13", dtype="float32", threads=1, date="2026-01-01",
    reference_kernel="matmul(left=(128, 128), right=(128, 128))",
)  # fmt: skip
LINEAR = make_kernel(Linear(shape=(1, 64), out_features=10, bias=True), (), "float32")
RELU = make_kernel(Activation(shape=(1, 64), function="relu"), (), "float32")
FUSED = make_kernel(
    Conv2d(in_channels=3, out_channels=8, height=8, width=8, kernel=(3, 3), padding=(1, 1)),
    (
        Normalization(shape=(1, 8, 8, 8), method="batch_norm", affine_params=16),
        Activation(shape=(1, 8, 8, 8), function="hardswish"),
    ),
    "float32",
)
FAST = Measurement(latency_p50_s=1.25e-6, spread=0.03, num_runs=40)
SLOW = Measurement(latency_p50_s=2.5e-3, spread=0.0, num_runs=1)


@pytest.fixture
def path(tmp_path):
    """A table of two kernels."""
    path = tmp_path / "hw" / "table.jsonl"
    LookupTable.open(path, HEADER)
    append_measurement(path, LINEAR, FAST)
    append_measurement(path, FUSED, SLOW)
    return path


def test_what_was_appended_is_read_back(path):
    table = LookupTable.read(path)
    assert table.header == HEADER
    assert table.entries == {LINEAR: FAST, FUSED: SLOW}


def test_a_later_line_of_the_same_kernel_counts(path):
    append_measurement(path, LINEAR, SLOW)
    assert LookupTable.read(path).entries[LINEAR] == SLOW


def test_a_kernel_that_could_not_be_measured_is_kept_with_its_reason_and_counts_as_unmeasured(path):
    append_entries(path, {RELU: "no kernel for it", FUSED: "never settled"})
    table = LookupTable.read(path)
    assert table.failures == {RELU: "no kernel for it", FUSED: "never settled"}
    assert table.entries == {LINEAR: FAST}, "the later line counts: the kernel no longer has a time"
    append_measurement(path, RELU, FAST)
    assert LookupTable.read(path).failures == {FUSED: "never settled"}


def test_options_of_the_runtime_are_part_of_the_header(path, tmp_path):
    with_options = replace(HEADER, options={"streams": 1, "delegate": "xnnpack", "lightmode": True})
    LookupTable.open(tmp_path / "other.jsonl", with_options)
    assert LookupTable.read(tmp_path / "other.jsonl").header == with_options
    with pytest.raises(ValueError, match=r"measured with options=\{\}, asked to go on with \{'streams': 1"):
        LookupTable.open(path, with_options)


def test_a_table_of_before_there_were_options_and_visits_is_read(path):
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    del header["options"]
    for line in lines:
        del line["num_visits"]
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))
    table = LookupTable.read(path)
    assert table.header.options == {}
    assert table.entries[LINEAR] == FAST
    assert FAST.num_visits == 1


def test_opening_again_keeps_what_is_there_whatever_the_date(path):
    before = path.read_bytes()
    table = LookupTable.open(path, replace(HEADER, date="2027-07-07"))
    assert table.entries == {LINEAR: FAST, FUSED: SLOW}
    assert path.read_bytes() == before


@pytest.mark.parametrize(("field", "value"), [("device", "other"), ("runtime_version", "2.14"), ("threads", 2)])
def test_a_table_that_was_measured_otherwise_is_not_continued(path, field, value):
    with pytest.raises(ValueError, match=rf"table\.jsonl: measured with {field}=.*asked to go on with {value!r}"):
        LookupTable.open(path, replace(HEADER, **{field: value}))


def test_a_torn_last_line_is_dropped_with_a_warning_and_healed_by_the_next_append(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.warns(UserWarning, match=r"table\.jsonl: the last line is torn and was dropped"):
        assert LookupTable.read(path).entries == {LINEAR: FAST}
    append_measurement(path, FUSED, SLOW)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 1, 30])
def test_a_torn_header_is_written_anew(path, length):
    header = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(header[:length])
    assert LookupTable.open(path, HEADER) == LookupTable(header=HEADER)
    assert path.read_bytes() == header


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kernel": "linear(', "not valid JSON"),
        ("[1, 2]", "expected an object, found list"),
        ("", "not valid JSON"),
        ({"latency": 1}, "unknown key 'latency'"),
        ({"spread": ...}, "key 'spread' is missing"),
        ({"latency_p50_s": "fast"}, "latency_p50_s: expected int or float, found 'fast'"),
        ({"latency_p50_s": 0.0}, "latency_p50_s must be positive"),
        ({"latency_p50_s": float("inf")}, "latency_p50_s must be positive"),
        ({"latency_p50_s": float("nan")}, "latency_p50_s must be positive"),
        ({"spread": -0.1}, "spread at least 0"),
        ({"num_visits": 0}, "num_visits at least 1"),
        ('{"kernel": "softmax(shape=(1, 4))", "failed": 3}', "failed: expected str, found 3"),
        ('{"kernel": "softmax(shape=(1, 4))", "failed": "x", "spread": 1}', "unknown key 'spread'"),
        ({"num_runs": 0}, "num_runs and num_visits at least 1"),
        ({"num_runs": 1.5}, "num_runs: expected int, found 1.5"),
        ({"kernel": "teleport(shape=(1, 2))"}, "unknown operator 'teleport'"),
        ({"kernel": "__import__('os').system('true')"}, "is no operator"),
    ],
)
def test_a_malformed_line_in_the_middle_is_an_error_with_file_and_line(path, line, message):
    lines = path.read_text().splitlines(keepends=True)
    if isinstance(line, dict):
        record = json.loads(lines[1]) | line
        line = json.dumps({key: value for key, value in record.items() if value is not ...})
    path.write_text("".join([*lines[:2], line + "\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"table\.jsonl:3: ") as caught:
        LookupTable.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "format version 2; this release reads version 1"),
        ({"format": "other"}, "format is 'other', expected 'ridgeline-lookup-table'"),
        ({"threads": "one"}, "threads: expected int, found 'one'"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_another_format_or_version_is_refused(path, change, message):
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps(json.loads(header) | change) + "\n" + "".join(lines))
    with pytest.raises(ValueError, match=r"table\.jsonl:1: ") as caught:
        LookupTable.read(path)
    assert message in str(caught.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no header line"):
        LookupTable.read(path)
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ValueError, match=r"table\.jsonl: not a text file"):
        LookupTable.read(path)


def test_a_full_disk_leaves_the_table_as_it_was(path, monkeypatch):
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(predictors.json_lines.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        append_measurement(path, RELU, FAST)
    assert path.read_bytes() == before
