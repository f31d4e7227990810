import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from predictors import export_models, kernel_cost, load_device
from predictors.fusion import fuse, kernel_from_text, load_runtime, make_kernel
from predictors.graph import GraphBuilder
from predictors.import_table import DEFAULT_SPREAD, Sample, main, measurements, read_layer_log
from predictors.imports.kernel_csv import read_kernel_csv
from predictors.imports.layers import nodes_in, runs_of, with_absorbed
from predictors.imports.manifest import ExportedModel, manifest_text
from predictors.latency import LatencyPredictor
from predictors.lookup_table import LookupTable
from predictors.operators import Activation, Conv2d


def graph(size=16):
    """0 input, 1 conv 3x3, 2 batch norm, 3 relu, 4 depthwise, 5 batch norm, 6 hardswish, 7 conv 1x1, 8 add,
    9 global pool, 10 view, 11 linear."""
    builder = GraphBuilder()
    x = builder.activation(builder.batch_norm(builder.conv2d(builder.input((1, 3, size, size)), 8, kernel=3)), "relu")
    y = builder.activation(builder.batch_norm(builder.conv2d(x, 8, kernel=3, groups=8)), "hardswish")
    y = builder.elementwise("add", x, builder.conv2d(y, 8, kernel=1))
    return builder.graph(builder.linear(builder.flatten(builder.global_pool(y)), 10))


TFLITE_LAYERS = ((1, 2, 3), (4, 5), (6,), (7,), (8,), (9,), (10,), (11,))
MODEL = ExportedModel(name="net", files=("net.tflite",), graph=graph(), layers=TFLITE_LAYERS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the manifest of MODEL and no devices of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_HOME", str(tmp_path / "home"))
    (tmp_path / "manifest.json").write_text(manifest_text([MODEL]), encoding="utf-8")
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def run(*files: str, log_format: str, runtime: str = "litert", device: str = "my_phone", **further: str) -> int:
    options = {"dtype": "float32", "threads": "1", "runtime-version": "1", "out": "hw", **further}
    if log_format not in ("csv", "autotvm"):
        options.setdefault("manifest", "manifest.json")
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return main([*files, "--format", log_format, "--device", device, "--runtime", runtime, *flags])


def table(name: str = "my_phone-litert-float32") -> dict[str, float]:
    """Milliseconds by the kinds of the operators."""
    found = LookupTable.read(Path("hw") / f"{name}.jsonl").entries
    return {
        "+".join(operator.variant for operator in (kernel.anchor, *kernel.fused)): entry.latency_p50_s * 1e3
        for kernel, entry in found.items()
    }


# ------------------------------------------------------------------------------------------------------------- tflite

HEADER = "\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]\n"


def tflite_row(kind: str, milliseconds: float, name: str, calls: int = 1) -> str:
    return f"\t{kind:>24}\t{9.9:9.3f}\t{milliseconds:9.3f}\t{1.5:7.3f}%\t{50.0:7.3f}%\t{0.0:10.3f}\t{calls:9}\t{name}\n"


def tflite_log(rows: str, count: int = 50) -> str:
    """As benchmark_model prints it: tables of the initialization, in run order, by time and by type."""
    bar = "=" * 30
    return (
        "INFO: STARTING!\nINFO: Profiling Info for Benchmark Initialization:\n"
        f"{bar} Run Order {bar}\n{HEADER}{tflite_row('AllocateTensors', 4.2, 'AllocateTensors/0')}\n"
        "INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n"
        f"{bar} Run Order {bar}\n{HEADER}{rows}\n{bar} Top by Computation Time {bar}\n{HEADER}{rows}\n"
        f"Number of nodes executed: 8\n{bar} Summary by node type {bar}\n"
        "\t             [Node type]\t  [count]\t  [avg ms]\n\t CONV_2D\t 2\t 0.5\n\n"
        f"Timings (microseconds): count={count} first=1 curr=1 min=1 max=2 avg=1 std=0\nMemory (bytes): count=0\n"
    )


def named_rows(factor: float = 1.0) -> str:
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "CONV_2D", "ADD", "MEAN", "RESHAPE", "FULLY_CONNECTED")
    names = ("n3", "t7", "n6", "n7", "n8", "n9", "n10", "n11")
    return "".join(
        tflite_row(kind, factor * 0.1 * (index + 1), f"[{name}]:{index}")
        for index, (kind, name) in enumerate(zip(kinds, names))
    )


# What the rows above say; the RESHAPE runs no kernel and counts with the product after it.
NAMED_MS = {
    "conv2d+batch_norm+relu": 0.1,
    "depthwise_conv2d+batch_norm": 0.2,
    "hardswish": 0.3,
    "conv2d": 0.4,
    "add": 0.5,
    "adaptive_avg_pool2d": 0.6,
    "linear": 0.7 + 0.8,
}


def test_operators_of_tensorflow_lite_are_matched_by_their_number(folder, capsys):
    assert run(write("net.txt", tflite_log(named_rows())), log_format="tflite") == 0
    assert table() == pytest.approx(NAMED_MS)
    entries = LookupTable.read("hw/my_phone-litert-float32.jsonl").entries.values()
    assert {entry.num_runs for entry in entries} == {50}
    slowest = max(entries, key=lambda entry: entry.latency_p50_s)
    # 5 % for a lone value, and half of the last digit, 1 us / sqrt(12) of 1.5 ms, hardly adds to it
    assert slowest.spread == pytest.approx(DEFAULT_SPREAD, rel=1e-3)
    said = capsys.readouterr().out
    assert "7 of 7 kernels of net, 100.0% of 3.6 ms" in said
    assert "19.4% in layers that run no kernel, counted with the next: [n10]:6" in said  # 0.7 of 3.6 ms
    assert "tables: [my_phone-litert-float32.jsonl]" in said


def test_a_profile_as_csv_says_the_same_although_types_hold_commas(folder):
    rows = "".join(
        f"{row.split()[0]}, 9.9, {row.split()[2]}, 1.5%, 50%, 0, 1, {row.split()[-1]}\n"
        for row in named_rows().splitlines()
    )
    text = (
        "=" * 30 + " Run Order " + "=" * 30 + "\nnode type, first, avg_ms, %, cdf%, mem KB, times called, name\n" + rows
    )
    assert run(write("net.csv", text), log_format="tflite") == 0
    assert table() == pytest.approx(NAMED_MS)


def test_the_older_table_has_a_column_more(folder):
    rows = "".join(
        line.replace("\t    9.900\t", "\t   0.000\t    9.900\t") + "\n" for line in named_rows().splitlines()
    )
    assert rows != named_rows()
    assert run(write("net.txt", tflite_log(rows).replace("[first]", "[start]\t[first]")), log_format="tflite") == 0
    assert table() == pytest.approx(NAMED_MS)


def test_several_logs_of_one_model_give_the_median_and_their_scatter(folder):
    files = [write(f"net_{run}.txt", tflite_log(named_rows(factor))) for run, factor in enumerate((1.0, 1.1, 1.3))]
    assert run(*files, log_format="tflite") == 0
    assert table() == pytest.approx({kind: 1.1 * ms for kind, ms in NAMED_MS.items()})
    entries = LookupTable.read("hw/my_phone-litert-float32.jsonl").entries.values()
    slowest = max(entries, key=lambda entry: entry.latency_p50_s)
    assert slowest.num_runs == 150
    assert slowest.spread == pytest.approx(np.std([1.0, 1.1, 1.3], ddof=1) / 1.1 / 3**0.5, rel=1e-3)


XNNPACK = (
    ("Convolution (NHWC, F32) IGEMM", 0.1),
    ("Convolution (NHWC, F32) DWConv", 0.2),
    ("HardSwish (NC)", 0.3),
    ("Transpose (ND, X32)", 0.05),
    ("Fully Connected (NC, F32) GEMM", 0.4),  # a convolution of 1x1
    ("Add (ND)", 0.5),
    ("Mean (ND) Mean", 0.6),
    ("Static Reshape (NC)", 0.01),
    ("Fully Connected (NC, F32) GEMM", 0.8),
)


def xnnpack_rows(operators=XNNPACK, calls: int = 1) -> str:
    inside = "".join(
        tflite_row(kind, milliseconds, f"Delegate/{kind}:{index}", calls)
        for index, (kind, milliseconds) in enumerate(operators)
    )
    return inside + tflite_row("TfLiteXNNPackDelegate", 3.1, "[n11]:8")


def test_operators_of_the_xnnpack_delegate_are_matched_in_their_order(folder):
    assert run(write("net.txt", tflite_log(xnnpack_rows())), log_format="tflite") == 0
    assert table() == pytest.approx(
        {
            "conv2d+batch_norm+relu": 0.1,
            "depthwise_conv2d+batch_norm": 0.2,
            "hardswish": 0.3,
            "conv2d": 0.05 + 0.4,
            "add": 0.5,
            "adaptive_avg_pool2d": 0.6,
            "linear": 0.01 + 0.8,
        }
    )


def test_what_litert_does_around_the_network_belongs_to_no_kernel(folder, capsys):
    sync = "LiteRT::Run[Buffer sync]"
    rows = (
        xnnpack_rows() + tflite_row(sync, 0.05, f"{sync}/0") + tflite_row("AllocateTensors", 9.0, "AllocateTensors/0")
    )
    assert run(write("net.txt", tflite_log(rows)), log_format="tflite") == 0
    assert table()["linear"] == pytest.approx(0.01 + 0.8 + 0.05)
    assert f"{sync}/0" in capsys.readouterr().out


def test_what_the_xnnpack_delegate_fused_is_not_told_apart(folder, capsys):
    rows = xnnpack_rows([each for each in XNNPACK if "Swish" not in each[0]])
    assert run(write("net.txt", tflite_log(rows)), log_format="tflite") == 0
    assert set(table()) == set(NAMED_MS) - {"depthwise_conv2d+batch_norm", "hardswish"}
    assert "cannot be told apart: depthwise_conv2d+batch_norm | hardswish" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {0: "Fully Connected (NC, F32) GEMM"},
            "product or pool 1 of the delegate is 'Fully Connected .* it is conv2d",
        ),
        ({0: "Convolution (NHWC, F32) DWConv"}, "pool 1 of the delegate is 'Convolution .NHWC, F32. DWConv'"),
        ({1: "Convolution (NHWC, F32) GEMM"}, "pool 2 of the delegate"),
        ({6: "Unary Elementwise (NC)"}, "pool 4 of the delegate is 'Fully Connected"),
        ({2: "Softmax (NC, F32)"}, "pool 3 of the delegate is 'Softmax"),
    ],
)
def test_another_order_in_the_xnnpack_delegate_is_an_error(folder, capsys, change, message):
    operators = [(change.get(index, kind), each) for index, (kind, each) in enumerate(XNNPACK)]
    assert run(write("net.txt", tflite_log(xnnpack_rows(operators))), log_format="tflite") == 2
    assert re.search(message, capsys.readouterr().err)


def test_parts_of_several_delegates_cannot_be_told_apart(folder, capsys):
    assert run(write("net.txt", tflite_log(xnnpack_rows(calls=2))), log_format="tflite") == 2
    assert "called 2 times a run" in capsys.readouterr().err


def test_a_delegate_that_is_one_line_gives_no_kernel(folder, capsys):
    rows = tflite_row("TfLiteGpuDelegateV2", 3.1, "[n11]:8")
    assert run(write("net.txt", tflite_log(rows)), log_format="tflite") == 2
    assert "no kernel has a time of its own; one layer runs conv2d+batch_norm+relu | " in capsys.readouterr().err
    assert not Path("hw").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count=50 first=1", "has no table in run order; call benchmark_model with --enable_op_profiling=true"),
        (tflite_log(named_rows()).replace("[n6]:2", ""), "net.txt, line 12: no row of an operator profile"),
        (tflite_log(tflite_row("CONV_2D", -0.1, "[n3]:0")), "line 10: a time must be finite and not negative"),
        (tflite_log(tflite_row("CONV_2D", float("nan"), "[n3]:0")), "line 10: a time must be finite and not negative"),
        (tflite_log(tflite_row("CONV_2D", 0.1, "[n40]:99")), "names node 40, the model has 12"),
        (tflite_log(tflite_row("CONV_2D", 0.1, "[n9]:0")), "operator '.n9.:0' is none of net; is this another model"),
        (tflite_log(tflite_row("CONV_2D", 0.0, "[n3]:0")), "all of its times are 0"),
    ],
)
def test_a_profile_that_cannot_be_read_is_an_error_and_writes_nothing(folder, capsys, text, message):
    good = write("net.good.txt", tflite_log(named_rows()))
    assert run(good, write("net.txt", text), log_format="tflite") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("hw").exists()


# --------------------------------------------------------------------------------------------------------------- ncnn


def ncnn_log(*runs: float) -> str:
    layers = ("n3_Convolution", "n3_split", "n6_ConvolutionDepthWise", "n7_Convolution", "n8_BinaryOp", "n9_Pooling")
    layers = (*layers, "n11_InnerProduct")
    lines = ["loop_count = 4", "num_threads = 1"]
    for factor in runs:
        for index, layer in enumerate(layers):
            time = 0.0 if "split" in layer else factor * (index + 1)
            shapes = "" if "split" in layer else " [ 16,  16,   3 *1] -> [ 16,  16,   8 *1]         kernel: 3 x 3"
            lines.append(f"{layer.split('_')[1]:<24} {layer:<30} {time:8.2f}ms    |{shapes}")
    return "\n".join([*lines, "                 net  min =    1.20  max =    9.00  avg =    2.00", ""])


def test_runs_of_ncnn_follow_one_another_and_the_split_belongs_to_its_producer(folder):
    assert run(write("net.txt", ncnn_log(5.0, 1.0, 2.0)), log_format="ncnn", runtime="ncnn") == 0
    # median run: factor 2
    assert table("my_phone-ncnn-float32") == pytest.approx(
        {
            "conv2d+batch_norm+relu": 2.0,
            "depthwise_conv2d+batch_norm+hardswish": 6.0,
            "conv2d": 8.0,
            "add": 10.0,
            "adaptive_avg_pool2d": 12.0,
            "linear": 14.0,
        }
    )
    entry = max(LookupTable.read("hw/my_phone-ncnn-float32.jsonl").entries.values(), key=lambda e: e.latency_p50_s)
    assert entry.num_runs == 3
    assert entry.spread == pytest.approx(np.std([5.0, 1.0, 2.0], ddof=1) / 2.0 / 3**0.5, rel=1e-3)


def test_a_kernel_shorter_than_the_last_digit_is_left_out(folder, capsys):
    assert run(write("net.txt", ncnn_log(0.0009, 0.0009)), log_format="ncnn", runtime="ncnn") == 0
    # layers of 0.9 us to 6.3 us: those of 5.4 and 6.3 are printed as 0.01 ms, the others as 0.00
    assert table("my_phone-ncnn-float32") == pytest.approx({"adaptive_avg_pool2d": 0.01, "linear": 0.01})
    assert "4 kernels took 0 s, less than the log's last digit, and were left out" in capsys.readouterr().out
    spreads = [entry.spread for entry in LookupTable.read("hw/my_phone-ncnn-float32.jsonl").entries.values()]
    assert spreads == pytest.approx(2 * [(DEFAULT_SPREAD**2 + 1 / 12) ** 0.5])  # 0.01 ms / sqrt(12) of 0.01 ms


def test_a_time_of_the_whole_network_is_that_of_its_only_kernel(folder):
    builder = GraphBuilder()
    x = builder.activation(builder.conv2d(builder.input((1, 3, 16, 16)), 8, kernel=3), "relu")
    model = ExportedModel(name="one", files=(), graph=builder.graph(x))
    Path("one.json").write_text(manifest_text([model]), encoding="utf-8")
    log = write("one.txt", "                 one  min =    1.20  max =    9.00  avg =    2.50\n")
    assert run(log, log_format="ncnn", runtime="ncnn", manifest="one.json") == 0
    assert table("my_phone-ncnn-float32") == pytest.approx({"conv2d+relu": 2.5})


def test_a_time_of_a_whole_network_of_several_kernels_is_refused(folder, capsys):
    log = write("net.txt", "                 net  min =    1.20  max =    9.00  avg =    2.50\n")
    assert run(log, log_format="ncnn", runtime="ncnn") == 2
    assert "no kernel has a time of its own" in capsys.readouterr().err


def test_a_run_that_was_cut_off_is_an_error(folder, capsys):
    cut = ncnn_log(1.0, 2.0).splitlines()[:-3]
    assert run(write("net.txt", "\n".join(cut)), log_format="ncnn", runtime="ncnn") == 2
    assert "run 2 has other layers than run 1, such as 'n11_InnerProduct'" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- onnxruntime and trtexec


def test_a_real_profile_of_onnx_runtime_sums_up_to_its_own_total(folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx_model = pytest.importorskip("predictors.measure.onnx_model")
    model = ExportedModel(name="net", files=("net.onnx",), graph=graph(96), layers=())  # large: launches weigh little
    (folder / "manifest.json").write_text(manifest_text([model]), encoding="utf-8")
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "net")
    options.intra_op_num_threads = 1
    data = onnx_model.onnx_bytes(model.graph)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for _ in range(6):
        session.run(None, {"n0": np.zeros((1, 3, 96, 96), np.float32)})
    log = session.end_profiling()
    assert run(log, log_format="onnxruntime", runtime="onnxruntime") == 0
    found = LookupTable.read("hw/my_phone-onnxruntime-float32.jsonl").entries
    assert {kernel.anchor.kind for kernel in found} >= {"adaptive_pool2d", "linear"}
    assert {entry.num_runs for entry in found.values()} == {5}  # the first run warms up

    events = [event for event in json.loads(Path(log).read_text()) if event["cat"] == "Node"]
    total_s = sum(event["dur"] for event in events[len(events) // 6 :]) * 1e-6 / 5
    reading = read_layer_log(Path(log), "onnxruntime", model, load_runtime("onnxruntime"), "float32")
    assert sum(float(sample.seconds_R.mean()) for sample in reading.samples) <= total_s * (1 + 1e-9)


def ort_log(name: str, *microseconds: object) -> str:
    session = {"cat": "Session", "name": "model_run", "dur": 9999, "args": {}}
    events = [{"cat": "Node", "name": f"{name}_kernel_time", "dur": each, "args": {}} for each in microseconds]
    return json.dumps([session, *events])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ort_log("n1_conv2d", 5)[:-1], "not valid JSON"),
        ("{}", "expected list"),
        ("[1]", "event 1: expected dict"),
        (ort_log("n1_conv2d", "fast"), "event 2: expected int or float, found 'fast'"),
        (ort_log("n1_conv2d", 5, -1), "event 3: a time must be finite and not negative"),
        (ort_log("n4_conv2d", 10**400), "event 2: expected a time"),
        (ort_log("n3_linear", 5), "says that node 3 is a linear, in the model it is a activation"),
        (ort_log("Conv_0", 5), r"none of the 1 steps runs any of the \d kernels; its layers are called .'Conv_0'"),
        ("[]", "it times no layer"),
    ],
)
def test_a_malformed_profile_of_onnx_runtime_names_the_event(folder, capsys, text, message):
    assert run(write("net.json", text), log_format="onnxruntime", runtime="onnxruntime") == 2
    assert re.search(message, capsys.readouterr().err)


TRT = [
    ("Reformatting CopyNode for Input Tensor 0 to n1_conv2d + n3_activation", 0.05),
    ("n1_conv2d + n3_activation", 0.1),
    ("n4_conv2d + PWN(n6_activation)", 0.2),
    ("n7_conv2d + n8_elementwise", 0.3),
    ("n9_adaptive_pool2d", 0.4),
    ("n11_linear", 0.5),
]


def trt_log(layers=TRT) -> str:
    records = [
        {"name": name, "timeMs": 100 * ms, "averageMs": 2 * ms, "medianMs": ms, "percentage": 1} for name, ms in layers
    ]
    return json.dumps([{"count": 50}, *records])


def test_fused_layers_of_tensorrt_name_their_nodes_and_copies_count_with_the_next(folder):
    assert run(write("net.json", trt_log()), log_format="trtexec", runtime="tensorrt") == 0
    assert table("my_phone-tensorrt-float32") == pytest.approx(
        {
            "conv2d+batch_norm+relu": 0.05 + 0.1,
            "depthwise_conv2d+batch_norm+hardswish": 0.2,
            "conv2d+add": 0.3,
            "adaptive_avg_pool2d": 0.4,
            "linear": 0.5,
        }
    )
    assert {e.num_runs for e in LookupTable.read("hw/my_phone-tensorrt-float32.jsonl").entries.values()} == {50}


def test_a_foreign_node_runs_everything_between_its_ends(folder, capsys):
    layers = [*TRT[:3], ("{ForeignNode[n7_conv2d...n9_adaptive_pool2d]}", 0.7), TRT[5]]
    assert run(write("net.json", trt_log(layers)), log_format="trtexec", runtime="tensorrt") == 0
    assert set(table("my_phone-tensorrt-float32")) == {
        "conv2d+batch_norm+relu", "depthwise_conv2d+batch_norm+hardswish", "linear",
    }  # fmt: skip
    assert "cannot be told apart: conv2d+add | adaptive_avg_pool2d" in capsys.readouterr().out


def test_layers_without_names_may_not_take_most_of_the_time(folder, capsys):
    layers = [TRT[1], ("__myl_ConvAddRelu_0x12", 5.0)]
    assert run(write("net.json", trt_log(layers)), log_format="trtexec", runtime="tensorrt") == 2
    assert "98% of the time ran in layers that name no kernel" in capsys.readouterr().err  # 5 of 5.1 ms


# ---------------------------------------------------------------------------------------------------- autotvm and csv

CONV = "conv2d(in_channels=8, out_channels=16, height=4, width=4, kernel=(3, 3), padding=(1, 1))"


def test_autotvm_logs_give_the_best_configuration(folder):
    tensors = [["TENSOR", [1, 8, 4, 4], "float32"], ["TENSOR", [16, 8, 3, 3], "float32"]]
    task = ["opencl", "conv2d_nchw.cuda", [*tensors, [1, 1], [1, 1, 1, 1], [1, 1], "float32"], {}]
    lines = [json.dumps({"input": task, "result": [[seconds], 0, 1.0, 2.0]}) for seconds in (3e-3, 1e-3, 2e-3)]
    log = write("net.log", "\n".join(lines) + "\n")
    assert run(log, log_format="autotvm", runtime="tvm_opencl") == 0
    assert table("my_phone-tvm_opencl-float32") == pytest.approx({"conv2d": 1.0})
    assert run(log, log_format="autotvm", runtime="tvm_opencl", dtype="float16") == 2


@pytest.mark.parametrize(("column", "value"), [("latency_s", 0.002), ("latency_ms", 2), ("latency_us", 2000)])
def test_a_csv_of_kernels_says_its_unit(folder, column, value):
    assert run(write("a.csv", f'kernel,{column}\n"{CONV}",{value}\n'), log_format="csv") == 0
    found = LookupTable.read("hw/my_phone-litert-float32.jsonl").entries
    assert found[kernel_from_text(CONV, "float32")].latency_p50_s == pytest.approx(2e-3)


def test_a_csv_of_convolutions_by_columns_is_the_same_kernel(folder):
    text = "in_channels,out_channels,height,width,kernel,stride,groups,fused,latency_ms,spread,num_runs\n"
    path = Path(write("a.csv", text + "8,16,4,4,3,1,1,,2,0.01,7\n8,8,6,4,1x3,2,8,batch_norm+relu,1,,\n"))
    plain, fused = read_kernel_csv(path, "float32")
    assert plain.kernel is kernel_from_text(CONV, "float32")
    assert (plain.spread, plain.num_runs, plain.latency_s) == (0.01, 7, pytest.approx(2e-3))
    anchor = Conv2d(
        in_channels=8, out_channels=8, height=6, width=4, kernel=(1, 3), stride=(2, 2), padding=(0, 1), groups=8
    )
    assert fused.kernel.anchor == anchor
    assert fused.kernel.fused[-1] == Activation(shape=(1, 8, 3, 2), function="relu")
    assert fused.spread is None
    assert run(str(path), log_format="csv") == 0
    entries = LookupTable.read("hw/my_phone-litert-float32.jsonl").entries
    assert entries[plain.kernel].spread == 0.01
    assert entries[fused.kernel].spread == DEFAULT_SPREAD


COLUMNS = "in_channels,out_channels,height,width,kernel,stride,groups"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernel,latency\nx,1\n", "line 1: one of the columns .* must give the time, found"),
        ("kernel,latency_ms,latency_s\nx,1,2\n", "line 1: one of the columns"),
        ("kernel,latency_ms,colour\nx,1,2\n", "unknown column 'colour'"),
        ("in_channels,latency_ms\n8,1\n", "column 'out_channels' is missing"),
        ("kernel,latency_ms\n", "it has no rows"),
        (f"kernel,latency_ms\n{CONV},1\n", "line 2: expected 2 columns; commas within a kernel need quotes"),
        (f'kernel,latency_ms\n"{CONV}",1\nnonsense,1\n', "line 3: 'nonsense' is no operator"),
        (f'kernel,latency_ms\n"{CONV}",fast\n', "line 2: latency_ms: expected a time, found 'fast'"),
        (f'kernel,latency_ms\n"{CONV}",-1\n', "line 2: latency_ms: a time must be finite and not negative"),
        (f'kernel,latency_ms\n"{CONV}",inf\n', "line 2: latency_ms: a time must be finite and not negative"),
        (f'kernel,latency_ms,num_runs\n"{CONV}",1,0\n', "line 2: num_runs must be at least 1"),
        (f'kernel,latency_ms,spread\n"{CONV}",1,-2\n', "line 2: spread must be at least 0"),
        (f"{COLUMNS},latency_ms\n8,16,4,4,3x3x3,1,1,1\n", "line 2: kernel must be like 3 or 3x5"),
        (f"{COLUMNS},latency_ms\n8,16,4,4,3,1,3,1\n", "line 2: conv2d: groups 3 do not divide"),
        (f"{COLUMNS},latency_ms\n8,wide,4,4,3,1,1,1\n", "line 2: out_channels: expected a whole number, found 'wide'"),
        (f'kernel,latency_ms\n"{CONV}",0\n', "all 1 times are 0"),
        (f'kernel,latency_s\n"{CONV}",1e-13\n', "FLOP/s, more than any device has; is the unit of the times right"),
        (f'kernel,latency_s\n"{CONV}",1e300\n', "would take 1e[+]300 s; is the unit of the times right"),
    ],
)
def test_a_csv_that_cannot_be_right_is_an_error_and_writes_nothing(folder, capsys, text, message):
    assert run(write("a.csv", text), log_format="csv") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not Path("hw").exists()


# ------------------------------------------------------------------------------------------------- the table it makes


@pytest.mark.parametrize(
    "further", [{"device": "../evil"}, {"device": "a/b"}, {"runtime": "../litert"}, {"device": ""}]
)
def test_names_that_leave_the_folder_are_refused(folder, capsys, further):
    assert run(write("a.csv", f'kernel,latency_ms\n"{CONV}",1\n'), log_format="csv", **further) == 2
    assert "must be a plain name" in capsys.readouterr().err


def test_a_runtime_file_cannot_lead_out_of_the_folder_by_the_name_that_it_gives(folder, capsys):
    write("evil.yaml", "name: ../../evil\ndescription: a\nsource: b\nremoves_dead_branches: true\nfusion: []\n")
    assert run(write("a.csv", f'kernel,latency_ms\n"{CONV}",1\n'), log_format="csv", runtime="evil.yaml") == 2
    assert "the runtime's name must be a plain name" in capsys.readouterr().err


def test_a_table_that_was_measured_otherwise_is_not_mixed(folder, capsys):
    log = write("a.csv", f'kernel,latency_ms\n"{CONV}",1\n')
    assert run(log, log_format="csv") == 0
    assert run(log, log_format="csv", threads="4") == 2
    assert "measured with threads=1, asked to go on with 4" in capsys.readouterr().err


def test_importing_again_replaces_older_entries(folder, capsys):
    assert run(write("a.csv", f'kernel,latency_ms\n"{CONV}",1\n'), log_format="csv") == 0
    assert run(write("a.csv", f'kernel,latency_ms\n"{CONV}",3\n'), log_format="csv") == 0
    assert table() == pytest.approx({"conv2d": 3.0})
    assert "1 of them replace older entries" in capsys.readouterr().out


PHONE = """
name: my_phone
description: a phone
runtime: litert
dtype: float32
peak:
  float32: {value: 50, unit: GFLOP/s, source: made up}
memory:
  - {name: dram, bandwidth: {value: 20, unit: GB/s, source: made up}}
"""


def test_the_device_file_that_the_command_asks_for_predicts_with_the_imported_table(folder, capsys):
    assert run(write("net.txt", tflite_log(named_rows())), log_format="tflite") == 0
    lines = capsys.readouterr().out.split("beside it:\n")[1]
    tables = next(line.strip() for line in lines.splitlines() if "tables" in line)
    write("hw/my_phone.yaml", PHONE + tables + "\n")
    prediction = LatencyPredictor(load_device("my_phone")).predict(MODEL.graph)
    assert prediction.coverage == pytest.approx(1.0)
    # measurements of one kernel each pull a little towards their kind, so not to the last digit
    assert prediction.latency_s == pytest.approx(3.6e-3, rel=0.1)


@pytest.mark.parametrize(("column", "code"), [("latency_ms", 0), ("latency_s", 2), ("latency_us", 2)])
def test_with_a_device_file_a_slip_of_the_unit_is_noticed(folder, capsys, column, code):
    Path("hw").mkdir()
    write("hw/my_phone.yaml", PHONE)
    wide = "conv2d(in_channels=64, out_channels=64, height=56, width=56, kernel=(3, 3), padding=(1, 1))"
    cost = kernel_cost(kernel_from_text(wide, "float32"))
    assert cost.flops == 2 * 64 * 64 * 9 * 56 * 56  # 231 MFLOP: 4.6 ms at the peak of 50 GFLOP/s
    assert run(write("a.csv", f'kernel,{column}\n"{wide}",9\n'), log_format="csv") == code
    assert ("is the unit of the times right" in capsys.readouterr().err) == (code == 2)


def test_fusion_in_the_device_file_decides_what_is_matched(folder):
    Path("hw").mkdir()
    fusion = "fusion:\n  - {anchors: [conv2d], then: [[batch_norm], [relu, hardswish]]}\n"
    write("hw/my_phone.yaml", PHONE + fusion)
    rows = xnnpack_rows([each for each in XNNPACK if "Swish" not in each[0]])
    assert run(write("net.txt", tflite_log(rows)), log_format="tflite") == 0
    assert table()["depthwise_conv2d+batch_norm+hardswish"] == pytest.approx(0.2)


def test_the_model_of_a_log_is_the_one_whose_name_its_file_begins_with(folder, capsys):
    other = ExportedModel(name="net_1", files=(), graph=graph(), layers=TFLITE_LAYERS)
    Path("manifest.json").write_text(manifest_text([MODEL, other]), encoding="utf-8")
    logs = [write("net.txt", tflite_log(named_rows())), write("net_1.txt", tflite_log(named_rows()))]
    assert run(*logs, log_format="tflite") == 0
    said = capsys.readouterr().out
    assert "net.txt: 7 of 7 kernels of net," in said
    assert "net_1.txt: 7 of 7 kernels of net_1," in said
    assert run(write("log.txt", tflite_log(named_rows())), log_format="tflite") == 2
    assert "say with --model what it times" in capsys.readouterr().err
    assert run("log.txt", log_format="tflite", model="net") == 0
    assert run("log.txt", log_format="tflite", model="nets") == 2


@pytest.mark.parametrize(
    ("further", "message"),
    [({"dtype": "float99"}, "unknown dtype"), ({"threads": "0"}, "threads must be at least 1"), ({}, "No such file")],
)
def test_the_command_turns_mistakes_into_a_sentence(folder, capsys, further, message):
    assert run("missing.csv", log_format="csv", **further) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- the guide

GUIDE = (Path(__file__).parents[2] / "docs" / "bring_your_device.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def test_the_device_file_of_the_guide_loads_with_its_fusion(folder):
    device, fusion = blocks("yaml")
    assert run(write("net.txt", tflite_log(named_rows())), log_format="tflite") == 0
    write("hw/my_phone.yaml", device + fusion)
    (conv, _) = LatencyPredictor(load_device("my_phone")).runtime.rules
    assert conv.anchors == {"conv2d"}
    assert any("hardswish" in slot.names for slot in conv.slots)


def test_the_csv_files_of_the_guide_can_be_read(folder):
    by_text, by_columns = (each for each in blocks("") if "latency_" in each)
    assert read_kernel_csv(Path(write("a.csv", by_text)), "float32")[0].latency_s == pytest.approx(410e-6)
    assert [row.kernel.classes[0] for row in read_kernel_csv(Path(write("b.csv", by_columns)), "float32")] == [
        "conv2d_3x3_s2", "depthwise_conv2d_5x5_s1",
    ]  # fmt: skip


def test_the_commands_of_the_guide_are_understood(folder, capsys):
    commands = [line for each in blocks("") for line in each.replace("\\\n", " ").splitlines()]
    imports = [line.split("import_table ")[1] for line in commands if "import_table " in line]
    exports = [line.split("export_models ")[1] for line in commands if "export_models " in line]
    assert len(imports) == 5
    assert len(exports) == 3
    for command in imports:
        assert main(shlex.split(command)) == 2
        assert "No such file" in capsys.readouterr().err
    for command in exports:
        assert export_models.main(shlex.split(command.replace("mobilenet_v3", "nowhere"))) == 2
        assert "nowhere" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- by parts


def test_numbers_within_other_words_are_no_nodes():
    assert nodes_in("fused n1_conv2d_nchwc + n3_activation", MODEL.graph, "log") == (1, 3)
    assert nodes_in("ReorderOutput_token_12, conv2n3, n4x, Constant_n5", MODEL.graph, "log") == ()


def test_a_run_ends_where_a_name_comes_again():
    names, seconds_RL = runs_of([("a", 1.0), ("b", 2.0), ("b", 4.0), ("a", 3.0)], "log")
    assert names == ("a", "b")
    assert seconds_RL.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_kernel_that_no_layer_names_is_where_its_latest_producer_ran():
    kernels = fuse(MODEL.graph, load_runtime("litert"), "float32")
    layers, absorbed = with_absorbed(kernels, [(3,), (5,), (7,), (9,)])
    # hardswish 6 reads 5; add 8 reads 3 and 7, of which 7 ran later; linear 11 reads 9 behind a view
    assert [kernels[index].nodes for index in absorbed] == [(6,), (8,), (11,)]
    assert layers == ((3,), (5, 6), (7, 8), (9, 11))
    layers, absorbed = with_absorbed(kernels, [(4,), (6,), (7,), (8,), (9,), (11,)])
    assert [kernels[index].nodes for index in absorbed] == [(1, 2, 3)]  # it reads the input only: in its first reader
    assert layers[0] == (4, 1, 2, 3)


def test_spreads_of_few_values_are_at_least_the_typical_one():
    kernels = [make_kernel(Activation(shape=(1, size), function="relu"), (), "float32") for size in (1, 2, 3, 4)]
    runs = ([1.0, 1.0], [1.0, 1.2], [1.0, 1.4], [1.0])
    found = measurements(
        Sample(kernel=kernel, seconds_R=np.array(each), num_runs=len(each)) for kernel, each in zip(kernels, runs)
    )
    deviation = [np.std(each, ddof=1) / np.median(each) for each in runs[:3]]
    assert [found[kernel].spread for kernel in kernels] == pytest.approx(
        [deviation[1] / 2**0.5, deviation[1] / 2**0.5, deviation[2] / 2**0.5, DEFAULT_SPREAD]
    )
    assert found[kernels[1]].latency_p50_s == pytest.approx(1.1)
