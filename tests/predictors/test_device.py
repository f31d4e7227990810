import csv
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from predictors import (
    DeviceNotMeasuredError,
    LatencyPredictor,
    available_devices,
    device_from_mapping,
    device_to_mapping,
    load_device,
    load_runtime,
)
from predictors.paths import shipped

SPECS = Path(__file__).parents[3] / "shared" / "data" / "device_specs" / "device_specs.csv"
SHIPPED = sorted(file.stem for file in shipped("hw").glob("*.yaml") if file.stem != "host")

GOOD = {
    "name": "toy", "description": "for tests", "runtime": "torch_eager", "dtype": "float16",
    "peak": {"float16": {"value": 2, "unit": "TFLOP/s", "source": "made for tests"}},
    "memory": [
        {
            "name": "cache",
            "capacity": {"value": 1, "unit": "MiB", "source": "made for tests"},
            "bandwidth": {"value": 200, "unit": "GB/s", "source": "made for tests"},
        },
        {"name": "dram", "bandwidth": {"value": 40, "unit": "GB/s", "source": "made for tests"}},
    ],
    "launch": {"value": 5, "unit": "us", "source": "made for tests"},
    "efficiency": {"float16": {"conv2d": {"compute": 0.5, "read": 0.4, "write": 1, "spread": 0.2, "source": "tests"}}},
}  # fmt: skip


FITTED = {
    "float16": {
        "source": "tests",
        "pixels": [1.0, 4.0],
        "classes": {
            "any": {
                "launch": 1.0e-6, "flop": [1.0e-12, 2.0e-12], "longer": {"launch": 0.0, "byte": [1.0e-9, 1.0e-9]},
                "own": [0.1, 0.1], "shared": [[0.1, -0.1]], "num_kernels": 3,
            },
        },
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_devices_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))


def changed(path, value, good=None):
    """GOOD, or another mapping, with the value at a path of keys replaced, or the key removed where it is `...`."""
    mapping = deepcopy(good or GOOD)
    *parents, last = path
    target = mapping
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return mapping


def test_units_become_si_and_sources_stay():
    device = device_from_mapping(GOOD)
    assert device.peak_flops() == 2e12
    assert device.bandwidth == 40e9
    assert device.memory[0].capacity.value == 1024 * 1024
    assert device.launch_s == pytest.approx(5e-6)
    assert device.channel_alignment == 1
    assert device.dtypes == ("float16",)
    assert set(device.sources()) == {
        "peak float16", "bandwidth cache", "capacity cache", "bandwidth dram", "launch", "efficiency conv2d float16",
    }  # fmt: skip


def test_fitted_rates_are_read_and_written_without_loss():
    device = device_from_mapping({**GOOD, "fitted": FITTED})
    rates = device.fitted["float16"]
    assert rates.extents == (1.0, 4.0)
    assert rates.classes["any"].shared_FX == ((0.1, -0.1),)
    assert rates.classes["any"].longer.per_unit_s == {"byte": (1e-9, 1e-9)}
    assert device_from_mapping(device_to_mapping(device)) == device
    assert device.sources()["fitted rates float16"] == "tests"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("pixels",), [4.0, 1.0], "pixels must rise, found"),
        (("pixels",), [], "pixels must rise, found"),
        (("classes", "any"), ..., "class 'any' is missing, which serves all kernels of other classes"),
        (("classes", "any", "flop"), [1.0e-12], "flop: needs 2 numbers, one for each of the pixels, found 1"),
        (("classes", "any", "flop"), [-1.0, 1.0], "flop: numbers must be finite and not negative"),
        (("classes", "any", "launch"), float("inf"), "launch: numbers must be finite and not negative"),
        (("classes", "any", "shared"), [[float("nan"), 1.0]], "shared: numbers must be finite, found"),
        (("classes", "any", "flops"), [1.0, 1.0], "unknown key 'flops'"),
        (("classes", "any", "own"), ..., "key 'own' is missing"),
        (("source",), ..., "key 'source' is missing"),
    ],
)
def test_a_mistake_in_fitted_rates_is_named_with_its_place(path, value, message):
    with pytest.raises(ValueError, match=message):
        device_from_mapping({**GOOD, "fitted": changed(("float16", *path), value, FITTED)})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("peek",), {}, r"device: unknown key 'peek'; allowed are \['alignment', 'cache', 'compute_units'"),
        (
            ("peak", "float16", "vale"),
            1,
            r"peak\.float16: unknown key 'vale'; allowed are \['source', 'unit', 'value'\]",
        ),
        (("runtime",), ..., "device: key 'runtime' is missing"),
        (("peak", "float16", "source"), ..., r"peak\.float16: key 'source' is missing"),
        (("peak", "float16", "source"), " ", r"source must say where the number comes from, found an empty text"),
        (("peak", "float16", "value"), -1, r"peak\.float16: value: must be positive and finite, found -1"),
        (("peak", "float16", "value"), 0, "must be positive and finite, found 0"),
        (("peak", "float16", "value"), float("nan"), "must be positive and finite, found nan"),
        (("peak", "float16", "value"), float("inf"), "must be positive and finite, found inf"),
        (("peak", "float16", "value"), True, "expected int or float, found True"),
        (
            ("peak", "float16", "value"),
            "3e10",
            r"expected int or float, found '3e10'; write 3\.0e\+10 rather than 3e10, which YAML reads as text",
        ),
        (("peak", "float16", "unit"), "GB/s", r"unknown unit 'GB/s'; allowed are \['FLOP/s', 'MFLOP/s'"),
        (("peak",), [], r"peak: expected Mapping, found \[\]"),
        (("peak", "fp16"), GOOD["peak"]["float16"], r"peak: unknown dtype 'fp16'; known are \['bfloat16', 'float16'"),
        (("dtype",), "int8", r"device 'toy' has no peak for dtype 'int8'; it lists \['float16'\]"),
        (("name",), 7, "name: expected str, found 7"),
        (("memory",), [], "memory: at least one level of memory is needed"),
        (("memory",), {}, "memory: expected list, found {}"),
        (("memory", 0, "capacity"), ..., "level 'cache' needs a capacity; only the last level may lack one"),
        (
            ("memory", 1, "capacity"),
            {"value": 1, "unit": "KiB", "source": "x"},
            "level 'dram' must hold more than level 'cache' before it",
        ),
        (("memory", 1, "bandwidth", "value"), 400, "level 'dram' is faster than the smaller level 'cache'"),
        (("launch", "unit"), "minutes", r"launch: unknown unit 'minutes'; allowed are \['s', 'ms', 'us', 'ns'\]"),
        (("alignment",), {"value": 2.5, "unit": "channels", "source": "x"}, "alignment must be a whole number"),
        (("efficiency", "float16", "conv2d", "compute"), ..., r"efficiency\.float16\.conv2d: key 'compute' is missing"),
        (("efficiency", "float16", "conv2d", "slope"), 0.5, r"efficiency\.float16\.conv2d: unknown key 'slope'"),
        (("efficiency", "float16", "conv2d", "read"), 0, "conv2d: read: must be positive and finite, found 0"),
        (("efficiency", "float16", "conv2d", "source"), "", "source must say where the number comes from"),
        (("efficiency", "half"), {}, "efficiency: unknown dtype 'half'"),
        (("tables",), ["absent.jsonl"], "table 'absent.jsonl' is in none of"),
    ],
)
def test_a_mistake_in_a_device_is_named_with_its_place(path, value, message):
    with pytest.raises(ValueError, match=message):
        device_from_mapping(changed(path, value))


def test_what_is_no_mapping_is_no_device():
    with pytest.raises(ValueError, match="device: expected a mapping, found 'mobile_gpu'"):
        device_from_mapping("mobile_gpu")


def test_yaml_really_reads_3e10_as_text():
    assert yaml.safe_load("3e10") == "3e10"
    assert yaml.safe_load("3.0e+10") == 3e10


def test_an_unknown_device_lists_those_that_exist():
    listed = (
        r"unknown device 'mobil_gpu'; nearest are \['mobile_gpu', 'mobile_cpu'\]; there are \['a100', .*'mobile_gpu'"
    )
    with pytest.raises(ValueError, match=listed):
        load_device("mobil_gpu")
    with pytest.raises(ValueError, match=r"device file 'absent\.yaml' does not exist"):
        load_device("absent.yaml")


def test_the_host_must_be_measured_first():
    with pytest.raises(DeviceNotMeasuredError, match=r"run `python -m predictors.profile --device host`"):
        load_device("host")


def test_a_measured_host_is_read_from_the_users_folder(tmp_path):
    (tmp_path / "home" / "hw").mkdir(parents=True)
    (tmp_path / "home" / "hw" / "host.yaml").write_text(yaml.safe_dump({**GOOD, "name": "host"}), encoding="utf-8")
    assert load_device("host").peak_flops() == 2e12


def test_a_users_device_is_found_by_name_and_by_path(tmp_path):
    (tmp_path / "hw").mkdir()
    path = tmp_path / "hw" / "toy.yaml"
    path.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    assert load_device("toy") == load_device(path) == device_from_mapping(GOOD)
    assert "toy" in available_devices()


def test_a_users_device_may_not_hide_behind_a_shipped_name(tmp_path):
    (tmp_path / "hw").mkdir()
    (tmp_path / "hw" / "v100.yaml").write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"device 'v100' is shipped with ridgeline, and .*v100\.yaml has the same name"
    ):
        load_device("v100")


def test_a_file_that_is_no_yaml_mapping_says_so(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.yaml: not valid YAML"):
        load_device(path)
    path.write_text("- a\n- b\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.yaml: expected a mapping of keys to values, found list"):
        load_device(path)


TWO_RUNTIMES = {
    **{key: value for key, value in GOOD.items() if key not in ("launch", "efficiency")},
    "runtimes": {
        "torch_eager": {"launch": {"value": 9, "unit": "us", "source": "made for tests"}},
        "onnxruntime": {
            "launch": {"value": 1, "unit": "us", "source": "made for tests"},
            "fusion": [{"anchors": ["conv2d"], "then": [["batch_norm"]]}],
        },
    },
}


def test_each_runtime_has_its_own_numbers_on_the_peaks_of_one_machine():
    device = device_from_mapping(TWO_RUNTIMES)
    assert (device.runtime, device.launch_s, device.fusion) == ("torch_eager", pytest.approx(9e-6), None)
    other = device.in_runtime("onnxruntime")
    assert (other.runtime, other.launch_s) == ("onnxruntime", pytest.approx(1e-6))
    assert [rule.anchors for rule in other.fusion] == [frozenset({"conv2d"})]
    assert (other.peaks, other.memory) == (device.peaks, device.memory)
    assert other.in_runtime("torch_eager") == device
    assert device.in_runtime("torch_eager") is device


def test_a_runtime_that_was_not_measured_keeps_the_devices_numbers():
    device = device_from_mapping(GOOD).in_runtime("openvino")
    assert (device.runtime, device.launch_s) == ("openvino", pytest.approx(5e-6))


def test_the_rules_of_the_device_file_take_the_place_of_the_runtimes_own():
    device = device_from_mapping({**TWO_RUNTIMES, "runtime": "onnxruntime"})
    assert LatencyPredictor(device).runtime.rules == device.fusion
    assert LatencyPredictor(device, runtime="torch_eager").runtime.rules == load_runtime("torch_eager").rules
    given = load_runtime("onnxruntime")
    assert LatencyPredictor(device, runtime=given).runtime == given, "rules that are given as an object hold"


def test_a_number_may_not_stand_at_the_top_and_under_runtimes():
    mapping = {**TWO_RUNTIMES, "launch": GOOD["launch"]}
    with pytest.raises(ValueError, match="launch of 'torch_eager' stands at the top and under runtimes"):
        device_from_mapping(mapping)
    with pytest.raises(ValueError, match=r"runtimes\.torch_eager: unknown key 'peak'"):
        device_from_mapping({**TWO_RUNTIMES, "runtimes": {"torch_eager": {"peak": {}}}})


def test_the_promised_devices_are_shipped():
    promised = {"mobile_gpu", "mobile_cpu", "cpu_x86", "jetson_nano", "v100", "a100", "h200", "edge_tpu"}
    assert promised <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_device_loads_names_its_sources_and_a_runtime(name):
    device = load_device(name)
    assert device.name == name
    assert load_runtime(device.runtime).name == device.runtime
    assert device.ridge_point() > 0
    assert all(len(source) > 10 for source in device.sources().values())


def test_energy_is_there_only_where_a_source_gives_it():
    assert load_device("edge_tpu").has_energy
    assert not load_device("mobile_gpu").has_energy
    # 2 TOPS per watt are 2e12 operations a joule; a MAC is two of them
    assert load_device("edge_tpu").energy_per_mac.value == pytest.approx(2 / 2e12)


def test_the_peak_of_the_jetson_nano_is_its_derivation():
    device = load_device("jetson_nano")
    assert device.peak_flops("float32") == pytest.approx(128 * 2 * 921e6, rel=1e-3)
    assert device.peak_flops("float16") == pytest.approx(2 * device.peak_flops("float32"))


def test_the_bandwidth_of_the_edge_tpu_is_its_derivation():
    assert load_device("edge_tpu").memory[0].bandwidth.value == pytest.approx(17.6472e6 * 400, rel=1e-3)


@pytest.mark.skipif(not SPECS.is_file(), reason="the device facts are not in ../shared/data")
@pytest.mark.parametrize(
    ("name", "row", "number", "column"),
    [
        ("mobile_gpu", "Adreno 660", "float16", "fp16_gflops_measured"),
        ("mobile_gpu", "Adreno 660", "float32", "fp32_gflops_measured"),
        ("mobile_gpu", "Adreno 660", "dram", "dram_gbs_measured"),
        ("mobile_cpu", "Snapdragon 888 one prime core", "float32", "fp32_gflops_measured"),
        ("mobile_cpu", "Adreno 660", "dram", "dram_gbs_theory"),  # the same chip, the same memory
        ("jetson_nano", "Jetson Nano", "dram", "dram_gbs_theory"),
        ("v100", "Tesla V100", "float32", "fp32_gflops_theory"),
        ("v100", "Tesla V100", "float16", "fp16_gflops_theory"),
        ("v100", "Tesla V100", "int8", "int8_gops_theory"),
        ("v100", "Tesla V100", "dram", "dram_gbs_theory"),
        ("a100", "A100 PCIe 40GB", "float32", "fp32_gflops_theory"),
        ("a100", "A100 PCIe 40GB", "float16", "fp16_gflops_measured"),
        ("a100", "A100 PCIe 40GB", "int8", "int8_gops_theory"),
        ("a100", "A100 PCIe 40GB", "dram", "dram_gbs_theory"),
        ("edge_tpu", "Coral Edge TPU", "int8", "int8_gops_theory"),
    ],
)
def test_numbers_of_shipped_devices_are_those_of_the_facts(name, row, number, column):
    device = load_device(name)
    found = device.bandwidth if number == "dram" else device.peak_flops(number)
    assert found == pytest.approx(stated(row, column))


@pytest.mark.skipif(not SPECS.is_file(), reason="the device facts are not in ../shared/data")
@pytest.mark.parametrize(
    ("number", "column", "least"),
    [
        ("float32", "fp32_gflops_theory", 0.7),
        ("float16", "fp16_gflops_theory", 0.7),
        ("int8", "int8_gops_theory", 0.4),  # torch._int_mm
        ("dram", "dram_gbs_theory", 0.9),
    ],
)
def test_what_was_measured_on_the_h200_stays_below_its_data_sheet(number, column, least):
    device = load_device("h200")
    found = device.bandwidth if number == "dram" else device.peak_flops(number)
    assert least < found / stated("H200", column) < 1.0
    assert {table.stem for table in device.runtimes["torch_eager"].tables} == {
        f"h200-torch_eager-{dtype}" for dtype in ("float32", "tf32", "bfloat16")
    }


def stated(row: str, column: str) -> float:
    """In FLOP/s or byte/s: '112000 (TC)' is 112000; of '54.2-72.2' the lower counts."""
    with SPECS.open(encoding="utf-8", newline="") as file:
        facts = next(each for each in csv.DictReader(file) if each["device"].startswith(row))
    return float(facts[column].split()[0].split("-")[0]) * 1e9
