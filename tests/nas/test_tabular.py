"""Accuracies from a table: how archs and numbers are written, what is refused, and a whole search."""

import gzip
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import nas.job
import nas.search
from nas.cli import run_command
from nas.result import SearchResult
from nas.tabular import FromTable, TableAccuracy, read_table
from predictors.nasbench201 import nb201_official_order, nb201_text, without_dead_branches
from search_spaces import Space, load_space
from search_spaces.nasbench201 import arch_from_operations, arch_from_string, arch_string

SHARED = Path(__file__).parents[3] / "shared" / "data" / "nasbench201_acc" / "nb201_accuracy.csv.gz"
SKIP = "|skip_connect~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
CONV = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*lines: str, header: str = "arch_str,valid", end: str = "\n") -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes("".join(f"{line}{end}" for line in (header, *lines)).encode())
        return path

    return write


def nasbench201(**fields: object) -> Space:
    return load_space("nasbench201", **fields)


def table(path: Path, space: Space | None = None, **fields: str) -> TableAccuracy:
    settings = {"column": "valid", "unit": "percent", "archs": "strings", "arch_column": "arch_str"} | fields
    return read_table(path, space or nasbench201(), **settings)  # type: ignore[arg-type]


def whole_table(path: Path, archs: Iterable[tuple[str, ...]]) -> None:
    """Percent that say which arch it is: 10 and the number of its convolutions."""
    lines = [f'"{nb201_text(each)}",{10 + sum("conv" in one for one in each)}' for each in archs]
    path.write_text("\n".join(["arch_str,valid", *lines, ""]))


def test_strings_and_percent(write: Write) -> None:
    found = table(write(f"{SKIP},62.5", f"{CONV},9e1"))
    assert found(arch_from_string(nasbench201(), SKIP)) == 0.625
    assert found(arch_from_string(nasbench201(), CONV)) == 0.9


def test_fractions(write: Write) -> None:
    assert table(write(f"{SKIP},0.625"), unit="fraction")(arch_from_string(nasbench201(), SKIP)) == 0.625


def test_official_indices(write: Write) -> None:
    found = table(write("10,0", "11,9", header="valid,number"), archs="index", arch_column="number")
    assert found(arch_from_operations(nb201_official_order()[9])) == pytest.approx(0.11)


def test_a_column_for_each_knob_of_any_space(write: Write) -> None:
    space = load_space("repvgg_tiny", resolutions=[32], depths=[[2], [2], [2]], widths=[[100], [50, 100], [50, 100]])
    lines = [f"x,{second},{third},{second / 2}" for second, third in product((50, 100), repeat=2)]
    path = write(*lines, header="note,stage2_width,stage3_width,valid")
    source = FromTable(path=str(path), column="valid", archs="knobs")
    source.check(space, None)
    assert source.load(space, None, None).accuracy({"stage2_width": 100, "stage3_width": 50}) == 0.5


def test_compressed_files_other_line_ends_and_a_byte_order_mark_are_read(write: Write, tmp_path: Path) -> None:
    plain = write(f"{SKIP},50", "", end="\r\n")
    compressed = tmp_path / "table.csv.gz"
    compressed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert table(compressed).accuracies == table(plain).accuracies


def test_an_arch_has_its_own_line_before_those_of_equal_networks(write: Write) -> None:
    """An edge that leads to node 2 and no further is dead; two such archs and the one without it are one network."""
    dead = [CONV.replace("none~0|none~1", f"{each}~0|none~1") for each in ("avg_pool_3x3", "nor_conv_1x1")]
    lines = [f"{arch},{accuracy}" for arch, accuracy in zip(dead, (50, 70))]
    arch = arch_from_string(nasbench201(), CONV)
    assert table(write(*lines, f"{CONV},90"))(arch) == 0.9
    assert table(write(*lines))(arch) == pytest.approx(0.6), "their mean"
    kept = nasbench201(keeps_dead_branches=True)
    assert table(write(*lines), kept)(arch_from_string(kept, dead[0])) == 0.5


@pytest.mark.parametrize(
    ("lines", "fields", "message"),
    [
        ([], {}, r"table\.csv: no lines under the header"),
        ([f"{SKIP},1"], {"column": "test"}, r"column 'test' \(accuracy\.column\) is missing; .*'arch_str', 'valid'"),
        ([f"{SKIP},1"], {"arch_column": "x"}, r"column 'x' \(accuracy\.arch_column\) is missing"),
        ([f"{SKIP},1"], {"archs": "knobs"}, r"column 'edge_1_0' \(a knob of the space\) is missing"),
        ([f"{SKIP},60", f"{CONV}"], {}, r"table\.csv:3: 1 values under 2 columns"),
        ([f"{SKIP},60", "|x~0|,1"], {}, r"table\.csv:3: arch_str: '\|x~0\|' is no NAS-Bench-201 arch"),
        ([f"{SKIP},60", f"{CONV},70", f"{SKIP},60"], {}, r"table\.csv:4: the arch of line 2 again"),
        ([f"{SKIP},nan"], {}, r"table\.csv:2: valid: an accuracy as percent lies in 0\.\.100, found nan"),
        ([f"{SKIP},"], {}, r"table\.csv:2: valid: '' is no number"),
        ([f"{SKIP},101"], {}, r"table\.csv:2: valid: .* lies in 0\.\.100, found 101"),
        ([f"{SKIP},-1"], {}, r"table\.csv:2: valid: .* found -1"),
        ([f"{SKIP},inf"], {"unit": "fraction"}, r"table\.csv:2: valid: .* lies in 0\.\.1, found inf$"),
        ([f"{SKIP},60"], {"unit": "fraction"}, r"lies in 0\.\.1, found 60; are they in percent\? accuracy\.unit="),
        ([f"{SKIP},0.6"], {}, r"no value of 'valid' is above 1; are they fractions\? accuracy\.unit=fraction"),
        (["15625,60"], {"archs": "index"}, r"table\.csv:2: arch_str: '15625' is no index .* 0 to 15624"),
        (["-1,60"], {"archs": "index"}, "'-1' is no index"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    write: Write, lines: list[str], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table(write(*lines), **fields)


def test_a_column_that_comes_twice_is_refused(write: Write) -> None:
    with pytest.raises(ValueError, match=r"column 'valid' \(accuracy\.column\) comes several times"):
        table(write(f"{SKIP},1,2", header="arch_str,valid,valid"))


def test_wrong_knobs_are_refused_with_their_line(write: Write) -> None:
    space = load_space("repvgg_tiny", resolutions=[32], depths=[[2], [2], [2]], widths=[[100], [100], [50, 100]])
    for value, message in (
        ("60", r":3: .*'stage3_width' takes \[50, 100\]; the arch has 60"),
        ("x", ":3: .*'x' is no"),
    ):
        with pytest.raises(ValueError, match=message):
            table(write("50,1", f"{value},2", header="stage3_width,valid"), space, archs="knobs")


def test_what_is_no_table_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accuracy\.path: .*nowhere\.csv cannot be read: No such file"):
        table(tmp_path / "nowhere.csv")
    path = write(f"{SKIP},50")
    for content in (gzip.compress(path.read_bytes())[:-20], b"\xff\xfe\x00", b'arch_str,valid\n"a"b,1\n'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"table\.csv: not a CSV file in UTF-8"):
            table(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"table\.csv: empty"):
        table(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"accuracy=tabular needs the file of the table: accuracy\.path="),
        ({"path": "table.csv"}, r"not given; set accuracy\.column to one of \['arch_str', 'valid'\]"),
        ({"path": "table.csv", "column": "valid", "unit": "%"}, r"accuracy\.unit: '%' is none of \['percent', 'frac"),
        ({"path": "table.csv", "column": "valid", "archs": "hash"}, r"accuracy\.archs: 'hash' is none of \['strings'"),
    ],
)
def test_wrong_fields_are_refused_by_name(
    write: Write, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(write(f"{SKIP},50").parent)
    with pytest.raises(ValueError, match=message):
        FromTable(**fields).check(nasbench201(), None)


def test_strings_of_another_space_are_refused(write: Write) -> None:
    with pytest.raises(
        ValueError, match=r"are NAS-Bench-201's, space 'repvgg_tiny' is another; .*accuracy\.archs=knobs"
    ):
        table(write(f"{SKIP},50"), load_space("repvgg_tiny"))


def test_an_arch_that_the_table_lacks_is_named_before_the_search(write: Write) -> None:
    path = write(f"{SKIP},50")
    missing = {arch_string(arch) for arch in (nasbench201().smallest(), nasbench201().largest())}
    with pytest.raises(ValueError, match="no line for arch '") as error:
        FromTable(path=str(path), column="valid").check(nasbench201(), None)
    assert any(each in str(error.value) for each in missing)
    assert "the table has those of 1 networks" in str(error.value)


def test_the_digest_follows_the_content(write: Write) -> None:
    source = FromTable(path=str(write(f"{SKIP},50")), column="valid")
    before = source.digest(nasbench201(), None, None)
    assert before == source.digest(nasbench201(), None, None)
    write(f"{SKIP},51")
    assert source.digest(nasbench201(), None, None) != before


def test_a_search_needs_a_table_and_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space and data differ in classes and channels, and the data is never read."""
    path = tmp_path / "table.csv"
    whole_table(path, {without_dead_branches(each) for each in nb201_official_order()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    reported: list[SearchResult] = []
    monkeypatch.setattr(nas.job, "report", lambda result, *_, **__: reported.append(result))
    command = [
        "search", "hw=mobile_gpu", "space=nasbench201", "accuracy=tabular", "accuracy.path=table.csv",
        "accuracy.column=valid", "deploy.resolution=null", "num_trials=30",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    run_command(nas.search.main, prepared=nas.search.prepared)
    (result,) = reported
    assert result.judgement.origin == "those of column 'valid' of table.csv"
    assert len(result.candidates) == 30
    for candidate in result.candidates:
        convolutions = sum("conv" in each for each in arch_string(candidate.arch).split("|"))
        assert 1 - candidate.metrics["error"] == pytest.approx((10 + convolutions) / 100)


def test_the_published_table_is_read_and_its_best_accuracies_are_those_of_the_paper() -> None:
    """94.37 % on CIFAR-10's and 73.51 % on CIFAR-100's test set (arXiv:2001.00326, table 5, 'optimal')."""
    if not SHARED.exists():
        pytest.skip(f"the table of accuracies is not there: {SHARED.name}")
    source = FromTable(path=str(SHARED), column="cifar10-test_ep200")
    source.check(nasbench201(), None)
    for column, best in (("cifar10-test_ep200", 94.37), ("cifar100-test_ep200", 73.51)):
        accuracy = replace(source, column=column).load(nasbench201(keeps_dead_branches=True), None, None).accuracy
        assert isinstance(accuracy, TableAccuracy)
        assert len(accuracy.accuracies) == 15_625
        assert np.max(list(accuracy.accuracies.values())) == pytest.approx(best / 100, abs=5e-5)
