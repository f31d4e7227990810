"""LiteRT, the runtime of TensorFlow Lite, with its XNNPACK delegate on a CPU.

Networks are timed through the interpreter. Its Python classes have no profiler: steps come from the same package's C
library, whose profiler reports each operator that XNNPACK launches, in whole microseconds.
"""

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from predictors.graph import Graph
from predictors.measure.backend import Option, Step, check_choice
from predictors.measure.tflite_model import TfliteModel, TfliteOperator, stored_axes, tflite_model
from predictors.measure.values import given_value


class LiteRt:
    """Float32 with XNNPACK, which is the interpreter's default; TensorFlow Lite's kernels run what it lacks."""

    name = "litert"
    version = metadata.version("ai-edge-litert")

    def __init__(self, *, threads: int = 1, dtype: str = "float32", processor: str = "cpu") -> None:
        check_choice(self.name, "dtype", dtype, ["float32"])
        check_choice(self.name, "processor", processor, ["cpu"])
        self.threads = threads
        self.dtype = dtype
        self.options: Mapping[str, Option] = {"delegate": "xnnpack"}

    def network(self, graph: Graph) -> "_Run":
        return _Run(graph, tflite_model(graph), self.threads)

    def profile(self, graph: Graph) -> "_TimedRun | None":
        """None for a version whose C interface is not known here, and for a network of which XNNPACK has made
        operators that cannot be told apart."""
        model = tflite_model(graph)
        if not self.version.startswith(_PROFILED_VERSION) or _library_path() is None:
            return None
        run = _TimedRun(graph, model, self.threads)
        return run if run.steps is not None else None


# ------------------------------------------------------------------------------------------------------------ private


class _Run:
    def __init__(self, graph: Graph, model: TfliteModel, threads: int) -> None:
        self._interpreter = Interpreter(model_content=model.data, num_threads=threads)
        self._interpreter.allocate_tensors()
        for detail in self._interpreter.get_input_details():
            self._interpreter.set_tensor(detail["index"], _stored_value(graph, model, _node(detail["name"])))
        self._outputs = []
        for detail in self._interpreter.get_output_details():
            axes = stored_axes(len(detail["shape"]), _node(detail["name"]) in model.channels_last)
            self._outputs.append((detail["index"], np.argsort(axes)))

    def run(self) -> None:
        self._interpreter.invoke()

    def outputs(self) -> list[NDArray[np.float32]]:
        self.run()
        return [self._interpreter.get_tensor(index).transpose(axes) for index, axes in self._outputs]


def _node(name: str) -> int:
    return int(name.removeprefix("n"))


def _stored_value(graph: Graph, model: TfliteModel, index: int) -> NDArray[np.float32]:
    value = given_value(graph, index)
    return np.ascontiguousarray(value.transpose(stored_axes(value.ndim, index in model.channels_last)))


# ----------------------------------------------------------------------------------------------- from events to steps


@dataclass(frozen=True, slots=True)
class Event:
    """One operator of a run: of XNNPACK, or of TensorFlow Lite itself with its index in the flatbuffer."""

    name: str
    builtin: int | None


def events_of_operators(operators: Sequence[TfliteOperator], events: Sequence[Event]) -> list[list[int]] | None:
    """Which events each operator of a flatbuffer has caused; none where XNNPACK has taken it into another one.

    XNNPACK keeps the order of the operators, so they are matched in order and by name; None where that fails.
    """
    found: list[list[int]] = [[] for _ in operators]
    position = 0
    for index in _execution_order(operators, {event.builtin for event in events if event.builtin is not None}):
        name = operators[index].name
        taken = [position]
        if name == "FULLY_CONNECTED" and _matches(events, position, _XNNPACK_NAMES["RESHAPE"]):
            taken.append(position + 1)  # of two axes: XNNPACK makes sure of it first
        if taken[-1] < len(events) and events[taken[-1]].builtin == index:
            pass
        elif not _matches(events, taken[-1], _XNNPACK_NAMES.get(name, ())):
            if name not in _TAKEN_IN:
                return None
            continue
        found[index] = taken
        position = taken[-1] + 1
    return found if position == len(events) else None


def _matches(events: Sequence[Event], position: int, names: tuple[str, ...]) -> bool:
    return position < len(events) and events[position].builtin is None and events[position].name.startswith(names)


def _execution_order(operators: Sequence[TfliteOperator], builtin: set[int]) -> list[int]:
    """TensorFlow Lite collects what is ready of one kind, XNNPACK's or its own, then what is ready of the other."""
    unwritten = {operator.output for operator in operators}
    order: list[int] = []
    waiting = list(range(len(operators)))
    while waiting:
        kind: bool | None = None
        later = []
        for index in waiting:
            is_ready = unwritten.isdisjoint(operators[index].inputs)
            if is_ready and kind in (None, index in builtin):
                kind = index in builtin
                order.append(index)
                unwritten.discard(operators[index].output)
            else:
                later.append(index)
        waiting = later
    return order


_TAKEN_IN = ("PAD", "SQUARE", "RESHAPE")
"""What XNNPACK may run inside another operator: padding of a convolution, squares of a mean."""

_XNNPACK_NAMES: dict[str, tuple[str, ...]] = {
    "ABS": ("Abs",),
    "ADD": ("Add",),
    "AVERAGE_POOL_2D": ("Average Pooling",),
    "BATCH_MATMUL": ("Batch Matrix Multiply",),
    "CONCATENATION": ("Copy",),
    "CONV_2D": ("Convolution", "Fully Connected"),
    "COS": ("Cosine",),
    "DEPTHWISE_CONV_2D": ("Convolution",),
    "DIV": ("Divide",),
    "ELU": ("ELU",),
    "EXP": ("Exp",),
    "FULLY_CONNECTED": ("Fully Connected",),
    "GELU": ("GELU",),
    "HARD_SWISH": ("HardSwish",),
    "LEAKY_RELU": ("LeakyReLU",),
    "LOGISTIC": ("Sigmoid",),
    "MAXIMUM": ("Maximum",),
    "MAX_POOL_2D": ("Max Pooling",),
    "MEAN": ("Mean",),
    "MINIMUM": ("Minimum",),
    "MUL": ("Multiply",),
    "NEG": ("Negate",),
    "PAD": ("Constant Pad",),
    "REDUCE_MAX": ("Reduce Max",),
    "REDUCE_MIN": ("Reduce Min",),
    "RELU": ("Clamp",),
    "RELU6": ("Clamp",),
    "RELU_N1_TO_1": ("Clamp",),
    "RESHAPE": ("Static Reshape",),
    "RESIZE_BILINEAR": ("Resize Bilinear",),
    "ROUND": ("Bankders Rounding",),
    "RSQRT": ("Reciprocal Square Root",),
    "SIN": ("Sine",),
    "SLICE": ("Slice",),
    "SOFTMAX": ("Softmax",),
    "SQUARE": ("Square",),
    "SUB": ("Subtract",),
    "SUM": ("Sum",),
    "TANH": ("TanH",),
    "TRANSPOSE": ("Transpose",),
    "TRANSPOSE_CONV": ("Deconvolution",),
}


# ------------------------------------------------------------------------------- the C library, as litert/c/*.h has it

_PROFILED_VERSION = "2.3."  # others have had other arguments
_CPU = 1
_FLOAT32 = 1
_HOST_MEMORY = 1
_LOCK_TO_WRITE = 1
_BUILTIN_EVENT, _XNNPACK_EVENT = 2, 8
_ERRORS_ONLY = 3
_EVENT_WORDS = 13
"""Of 8 bytes: name, type, start, elapsed microseconds, six of memory, operator's index, a second number, source."""


class _TensorType(ctypes.Structure):
    _fields_ = (
        ("element_type", c_int),
        ("rank", c_uint32),
        ("dimensions", c_int32 * 8),
        ("strides", c_uint32 * 8),
    )


class _EnvironmentOption(ctypes.Structure):
    _fields_ = (("tag", c_int), ("padding", c_int), ("type", c_int), ("value", c_int64))


class _TimedRun:
    """A compiled model with its profiler. The first run, which the caller does not count, shows what XNNPACK made."""

    def __init__(self, graph: Graph, model: TfliteModel, threads: int) -> None:
        kept: list[Any] = [ctypes.create_string_buffer(model.data, len(model.data))]
        handles: list[tuple[str, c_void_p]] = []
        self._free = weakref.finalize(self, _destroy, handles, kept)
        environment = _environment()
        flatbuffer = _handle(handles, "LiteRtDestroyModel")
        _call("LiteRtCreateModelFromBuffer", environment, kept[0], c_size_t(len(model.data)), byref(flatbuffer))
        options = _handle(handles, "LiteRtDestroyOptions")
        _call("LiteRtCreateOptions", byref(options))
        _call("LiteRtSetOptionsHardwareAccelerators", options, c_int(_CPU))
        for identifier, toml in (
            (b"xnnpack", f"num_threads = {threads}\n"),
            (b"runtime_options_string", "enable_profiling = true\n"),
        ):
            opaque, text = c_void_p(), ctypes.create_string_buffer(toml.encode())
            kept.append(text)
            _call("LiteRtCreateOpaqueOptions", c_char_p(identifier), text, _LEAVE_TO_PYTHON, byref(opaque))
            _call("LiteRtAddOpaqueOptions", options, opaque)
        compiled, self._profiler = _handle(handles, "LiteRtDestroyCompiledModel"), c_void_p()
        _call("LiteRtCreateCompiledModel", environment, flatbuffer, options, byref(compiled))
        _call("LiteRtCompiledModelGetProfiler", compiled, byref(self._profiler))
        inputs = [_buffer(handles, environment, _stored_value(graph, model, index)) for index in model.inputs]
        outputs = [
            _buffer(handles, environment, np.zeros(_stored_shape(graph, model, index), np.float32))
            for index in graph.outputs
        ]
        self._arguments = (
            compiled, c_size_t(0), c_size_t(len(inputs)), (c_void_p * len(inputs))(*inputs), c_size_t(len(outputs)),
            (c_void_p * len(outputs))(*outputs),
        )  # fmt: skip
        self._num_operators = len(model.operators)
        self._seconds: list[NDArray[np.float64]] = []
        self.run()
        self._events = [_event(words) for words in self._words()]
        found = events_of_operators(model.operators, self._events)
        self._events_of_steps = None if found is None else _by_nodes(model.operators, found)
        self._seconds.clear()

    @property
    def steps(self) -> tuple[Step, ...] | None:
        """None where it is not known which nodes the events belong to."""
        if self._events_of_steps is None:
            return None
        return tuple(
            Step(name=" + ".join(self._events[event].name for event in events), nodes=nodes)
            for nodes, events in self._events_of_steps
        )

    def run(self) -> None:
        _call("LiteRtResetProfiler", self._profiler)
        _call("LiteRtStartProfiler", self._profiler)
        _call("LiteRtRunCompiledModel", *self._arguments)
        words = self._words()
        half = 0.5 * (words[:, 1] == _XNNPACK_EVENT)  # XNNPACK cuts off what is left of a microsecond
        self._seconds.append((words[:, 3] + half) * 1e-6)

    def finish(self) -> tuple[tuple[Step, ...], NDArray[np.float64]]:
        steps = self.steps
        assert steps is not None
        assert self._events_of_steps is not None
        self._free()
        seconds_RE = np.array(self._seconds).reshape(len(self._seconds), len(self._events))  # runs, events
        seconds_RS = [seconds_RE[:, events].sum(1) for _, events in self._events_of_steps]
        return steps, np.stack(seconds_RS, axis=1)

    def _words(self) -> NDArray[np.uint64]:
        """Events of operators in the last run, of shape (events, _EVENT_WORDS)."""
        num_events = c_int()
        _call("LiteRtGetNumProfilerEvents", self._profiler, byref(num_events))
        words = np.zeros((num_events.value, _EVENT_WORDS), np.uint64)
        _call("LiteRtGetProfilerEvents", self._profiler, num_events, words.ctypes.data_as(c_void_p))
        words[:, 1] &= np.uint64(0xFFFFFFFF)  # the type has 4 bytes, the rest is not written
        is_builtin = (words[:, 1] == _BUILTIN_EVENT) & (words[:, 10] < self._num_operators)
        found: NDArray[np.uint64] = words[is_builtin | (words[:, 1] == _XNNPACK_EVENT)]
        return found


def _by_nodes(
    operators: Sequence[TfliteOperator], events: Sequence[list[int]]
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Nodes and events of each step: all that ran for the same nodes, and each change of a layout by itself."""
    found: dict[tuple[int, ...] | int, list[int]] = {}
    for index, (operator, indices) in enumerate(zip(operators, events)):
        if indices:
            found.setdefault(operator.nodes or index, []).extend(indices)
    ordered = sorted(found.items(), key=lambda item: item[1])
    return [(() if isinstance(key, int) else key, indices) for key, indices in ordered]


def _event(words: NDArray[np.uint64]) -> Event:
    name = ctypes.string_at(int(words[0])).decode()
    return Event(name, int(words[10]) if words[1] == _BUILTIN_EVENT else None)


def _stored_shape(graph: Graph, model: TfliteModel, index: int) -> tuple[int, ...]:
    shape = graph.nodes[index].operator.output_shape
    return tuple(shape[axis] for axis in stored_axes(len(shape), index in model.channels_last))


def _buffer(handles: list[tuple[str, c_void_p]], environment: c_void_p, value: NDArray[np.float32]) -> c_void_p:
    """A tensor buffer of the library with these numbers."""
    kind = _TensorType(_FLOAT32, value.ndim, (c_int32 * 8)(*value.shape), (c_uint32 * 8)())
    buffer, address = _handle(handles, "LiteRtDestroyTensorBuffer"), c_void_p()
    _call(
        "LiteRtCreateManagedTensorBuffer", environment, c_int(_HOST_MEMORY), byref(kind), c_size_t(value.nbytes),
        byref(buffer),
    )  # fmt: skip
    _call("LiteRtLockTensorBuffer", buffer, byref(address), c_int(_LOCK_TO_WRITE))
    ctypes.memmove(address, value.ctypes.data, value.nbytes)
    _call("LiteRtUnlockTensorBuffer", buffer)
    return buffer


def _library_path() -> Path | None:
    """The C library beside the package's modules, where this platform has one."""
    return next(Path(ai_edge_litert.__path__[0]).glob("libLiteRt.*"), None)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(_library_path()))


@lru_cache(maxsize=1)
def _environment() -> c_void_p:
    """One for the process; it registers the CPU alone and writes errors alone."""
    options = (_EnvironmentOption * 2)(
        _EnvironmentOption(tag=24, type=2, value=_CPU),  # accelerators to register, an integer
        _EnvironmentOption(tag=25, type=2, value=_ERRORS_ONLY),  # severity of what it writes
    )
    environment = c_void_p()
    _call("LiteRtCreateEnvironment", c_int(len(options)), options, byref(environment))
    return environment


def _call(name: str, *arguments: Any) -> None:
    status = getattr(_library(), name)(*arguments)
    if status != 0:
        raise RuntimeError(f"LiteRT's {name} has failed with status {status}")


def _handle(handles: list[tuple[str, c_void_p]], destroyer: str) -> c_void_p:
    """An empty handle that will be destroyed with the others."""
    handles.append((destroyer, c_void_p()))
    return handles[-1][1]


def _destroy(handles: list[tuple[str, c_void_p]], kept: list[Any]) -> None:
    """Destroy the handles, the latest first, before the memory that they use."""
    for destroyer, handle in reversed(handles):
        if handle:
            getattr(_library(), destroyer)(handle)
    handles.clear()
    kept.clear()


def _leave_to_python(payload: int) -> None:
    """What the library calls to free a text that Python owns."""


_LEAVE_TO_PYTHON = ctypes.CFUNCTYPE(None, c_void_p)(_leave_to_python)
