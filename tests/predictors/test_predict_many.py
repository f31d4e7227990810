"""Many archs at once cost what each costs by itself."""

import pickle
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import (
    DeviceNotMeasuredError,
    Graph,
    GraphBuilder,
    LatencyPredictor,
    available_devices,
    device_from_mapping,
    load_device,
)
from predictors.sections import Position, Section, joined
from search_spaces import load_space

METRICS = (
    "latency_s", "std_s", "macs", "num_params", "traffic_bytes", "arithmetic_intensity", "peak_memory_bytes",
    "num_kernels",
)  # fmt: skip
SPACES = {
    "mobilenet_v3": load_space("mobilenet_v3", resolutions=[128, 224]),
    "mobilenet_v3_tiny": load_space("mobilenet_v3_tiny").deployed(64, batch=2),
}


def quantity(value, unit):
    return {"value": value, "unit": unit, "source": "made for tests"}


MAPPING = {
    "name": "toy", "description": "", "runtime": "torch_eager", "dtype": "float32",
    "peak": {"float32": quantity(100, "GFLOP/s")},
    "memory": [{"name": "dram", "bandwidth": quantity(10, "GB/s")}],
    "launch": quantity(2, "us"), "network_overhead": quantity(50, "us"), "kernel_overhead": quantity(3, "us"),
    "in_network": quantity(0.9, "1"), "energy_per_mac": quantity(2, "pJ"), "energy_per_byte": quantity(50, "pJ"),
}  # fmt: skip
TOY = device_from_mapping(MAPPING)
SPREAD = device_from_mapping(MAPPING | {"network_spread": quantity(0.04, "1")})
QUEUED = device_from_mapping(MAPPING | {"host_launch": quantity(60, "us")})


def measured_cases():
    """Every shipped device in every dtype, under its runtime and every other that it has numbers of."""
    for name in available_devices():
        try:
            device = load_device(name)
        except DeviceNotMeasuredError:
            continue
        for dtype in device.dtypes:
            for runtime in dict.fromkeys((device.runtime, *device.runtimes)):
                yield pytest.param(device, dtype, runtime, id=f"{name}-{dtype}-{runtime}")


def random_indices(space, num_archs, seed=0):
    """Archs as `encode` gives them, most of them not canonical."""
    sizes = [len(values) for values in space.choices.values()]
    return np.random.default_rng(seed).integers(0, sizes, size=(num_archs, len(sizes)))


def agree(predictor, space, indices):
    found = predictor.predict_many(space, indices)
    assert len(found) == len(indices)
    for row, arch in enumerate(space.decode(indices)):
        graph = space.graph(arch)
        expected = predictor.predict(Graph(graph.nodes, graph.outputs))  # without what is known of its sections
        for name in METRICS:
            assert getattr(found, name)[row] == pytest.approx(getattr(expected, name), rel=1e-9), name
        if predictor.device.has_energy:
            assert found.energy_j[row] == pytest.approx(expected.energy_j, rel=1e-9)
        else:
            assert found.energy_j is None
    return found


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("device", "dtype", "runtime"), list(measured_cases()))
def test_many_archs_cost_what_each_does(device, dtype, runtime, name):
    space = SPACES[name]
    predictor = LatencyPredictor(device, dtype=dtype, runtime=runtime)
    agree(predictor, space, random_indices(space, 12))
    assert predictor._tables_of(space) is not None, "no kernel reaches from one block into the next"


@pytest.mark.parametrize("device", [TOY, SPREAD, QUEUED], ids=["groups", "spread", "queued"])
@pytest.mark.parametrize("runtime", ["torch_eager", "torch_compile", "edgetpu", "executorch", "tensorrt", "tvm_opencl"])
def test_corrections_of_whole_networks_and_energy_are_the_same_under_every_runtime(runtime, device):
    space = SPACES["mobilenet_v3"]
    agree(LatencyPredictor(device, [], runtime=runtime), space, random_indices(space, 12))


def test_positions_that_no_knob_decides_share_a_table():
    space = load_space("mobilenet_v3", resolutions=[224])
    agree(LatencyPredictor(TOY, []), space, random_indices(space, 5))


def test_archs_may_be_given_as_mappings_and_need_not_be_canonical():
    space = SPACES["mobilenet_v3"]
    predictor = LatencyPredictor(TOY, [])
    indices = random_indices(space, 50)
    by_indices = predictor.predict_many(space, indices)
    archs = space.decode(indices)
    assert any(space.canonical(arch) != arch for arch in archs)
    for each in (archs, [space.canonical(arch) for arch in archs], tuple(archs)):
        found = predictor.predict_many(space, each)
        for name in (*METRICS, "energy_j"):
            assert np.array_equal(getattr(found, name), getattr(by_indices, name)), name
    assert np.array_equal(predictor.predict_many(space, indices.astype(np.uint8)).std_s, by_indices.std_s)


@pytest.mark.parametrize("num_archs", [0, 1, 2047, 2048, 2049, 5000])
def test_archs_are_in_their_order_however_many(num_archs):
    space = SPACES["mobilenet_v3_tiny"]
    predictor = LatencyPredictor(TOY, [])
    indices = random_indices(space, num_archs)
    found = predictor.predict_many(space, indices)
    assert found.latency_s.shape == (num_archs,)
    order = np.random.default_rng(1).permutation(num_archs)
    assert np.array_equal(predictor.predict_many(space, indices[order]).latency_s, found.latency_s[order])
    if num_archs > 1:
        last = predictor.predict(space.graph(space.decode(indices[-1:])[0]))
        assert found.latency_s[-1] == pytest.approx(last.latency_s, rel=1e-12)


# ---------------------------------------------------------------------------------------------- a space by hand


@dataclass(frozen=True)
class Chain:
    """`depth` blocks of a convolution to `width` channels, and a rectifier, on 8x8 images of 4 channels."""

    cut: bool = True
    activation_first: bool = False

    @property
    def choices(self):
        return {"width": (4, 8), "depth": (1, 2)}

    @property
    def positions(self):
        if not self.cut:
            return ()
        return (
            Position(("width",), lambda knobs: self._block(4, knobs["width"])),
            Position(
                ("depth", "width"), lambda knobs: self._block(*2 * (knobs["width"],)) if knobs["depth"] == 2 else None
            ),
        )

    def _block(self, width_in, width):
        builder = GraphBuilder()
        x = builder.input((1, width_in, 8, 8))
        if self.activation_first:
            return Section(builder.graph(builder.conv2d(builder.activation(x, "relu"), width, kernel=3)))
        return Section(builder.graph(builder.activation(builder.conv2d(x, width, kernel=3), "relu")))

    def graph(self, arch):
        return joined(Chain(activation_first=self.activation_first).positions, arch)

    def encode(self, archs):
        return np.array([[self.choices[knob].index(arch[knob]) for knob in self.choices] for arch in archs])

    def decode(self, indices):
        return [{knob: values[i] for (knob, values), i in zip(self.choices.items(), row)} for row in indices]


ALL = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])


def test_hand_derived_costs_of_a_chain():
    device = device_from_mapping(
        MAPPING
        | {
            "efficiency": {
                "float32": {
                    name: {"compute": 1, "read": 1, "write": 1, "fixed_s": 1e-5, "spread": 0.2, "source": "tests"}
                    for name in ("conv2d", "relu")
                }
            }
        }
    )
    found = LatencyPredictor(device, []).predict_many(Chain(), ALL)
    # a 3x3 convolution of 8x8 images: 64 * 9 * channels in * channels out
    assert found.macs.tolist() == [9216, 18432, 18432, 18432 + 36864]
    assert found.num_params.tolist() == [144, 288, 288, 288 + 576]
    assert found.num_kernels.tolist() == [2, 2, 4, 4]
    # width 4, depth 1: conv 256 read + 144 held + 256 written, relu 256 read + 256 written, four bytes each
    assert found.traffic_bytes[0] == 4 * (256 + 144 + 256 + 256 + 256)
    assert found.arithmetic_intensity[0] == 2 * 9216 / 4672
    # width 8, depth 2: four tensors of 64 * 8, of which two are alive at once; the input is smaller
    assert found.peak_memory_bytes.tolist() == [4 * (512 + 144), 4 * (1024 + 288), 4 * (512 + 288), 4 * (1024 + 864)]
    conv_s = 2 * 9216 / 100e9 + 4 * 656 / 10e9 + 1e-5
    relu_s = 4 * 512 / 10e9 + 1e-5
    assert found.latency_s[0] == pytest.approx(0.9 * (conv_s + relu_s) + 50e-6 + 2 * 3e-6)
    assert found.std_s[0] == pytest.approx(0.9 * 0.2 * sqrt(conv_s**2 + relu_s**2))
    assert found.latency_s[2] == pytest.approx(0.9 * 2 * (conv_s + relu_s) + 50e-6 + 4 * 3e-6)
    assert found.std_s[2] == pytest.approx(0.9 * 0.2 * sqrt((2 * conv_s) ** 2 + (2 * relu_s) ** 2)), (
        "one class, one error"
    )
    assert found.energy_j[0] == pytest.approx(2e-12 * 9216 + 50e-12 * 4672)


@pytest.mark.parametrize("space", [Chain(), Chain(cut=False), Chain(activation_first=True)])
@pytest.mark.parametrize("runtime", ["torch_eager", "tvm_opencl"])
def test_a_space_that_is_not_cut_or_fuses_over_its_borders_gives_the_same(space, runtime):
    predictor = LatencyPredictor(SPREAD, [], runtime=runtime)
    found = agree(predictor, space, ALL)
    has_tables = predictor._tables_of(space) is not None
    assert has_tables == (space.cut and (runtime == "torch_eager" or not space.activation_first))
    assert found.num_kernels[-1] == {
        ("torch_eager", False): 4, ("torch_eager", True): 4, ("tvm_opencl", False): 2, ("tvm_opencl", True): 3
    }[runtime, space.activation_first]  # fmt: skip
    by_mapping = predictor.predict_many(space, space.decode(ALL))
    assert np.array_equal(by_mapping.std_s, found.std_s)


@dataclass(frozen=True)
class Gap(Chain):
    """A convolution, a pooling that may be left out, and a block that begins with a rectifier."""

    @property
    def positions(self):
        builder = GraphBuilder()
        x = builder.input((1, 4, 8, 8))
        conv = Section(builder.graph(builder.conv2d(x, 4, kernel=3)))
        pool = Section(builder.graph(builder.pool2d(x, "max", kernel=3, stride=1, padding=1)))
        relu = Section(builder.graph(builder.global_pool(builder.activation(x, "relu"))))
        return (
            Position((), lambda knobs: conv),
            Position(("depth",), lambda knobs: pool if knobs["depth"] == 2 else None),
            Position((), lambda knobs: relu),
        )

    def graph(self, arch):
        return joined(self.positions, arch)


def test_sections_that_meet_only_where_one_is_left_out_may_fuse_too():
    predictor = LatencyPredictor(SPREAD, [], runtime="onnxruntime")
    found = agree(predictor, Gap(), ALL)
    assert found.num_kernels.tolist() == [2, 2, 4, 4], "conv + relu, pool; conv, pool, relu, pool"
    assert predictor._tables_of(Gap()) is None


def test_positions_with_very_many_choices_are_asked_arch_by_arch(monkeypatch):
    monkeypatch.setattr("predictors.predict_many._MAX_CHOICES", 3)
    predictor = LatencyPredictor(TOY, [])
    agree(predictor, Chain(), ALL)
    assert predictor._tables_of(Chain()) is None


@settings(deadline=None, max_examples=20)
@given(max_rows=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1))
def test_it_does_not_matter_which_positions_share_a_table(max_rows, seed):
    space = SPACES["mobilenet_v3_tiny"]
    indices = random_indices(space, 20, seed)
    expected = SHARED.predict_many(space, indices)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("predictors.predict_many._MAX_ROWS", max_rows)
        found = LatencyPredictor(TOY, []).predict_many(space, indices)
    for name in METRICS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


SHARED = LatencyPredictor(TOY, [])


def test_indices_that_the_space_does_not_have_are_refused():
    space = SPACES["mobilenet_v3_tiny"]
    predictor = LatencyPredictor(TOY, [])
    indices = random_indices(space, 3000)
    for row, value in ((0, -1), (1, len(next(iter(space.choices.values())))), (2999, 2**40), (2970, 99)):
        wrong = indices.copy()
        wrong[row, 0] = value
        with pytest.raises(ValueError, match=r"outside of 0 <= index < \[4, 3, 3"):
            predictor.predict_many(space, wrong)
    with pytest.raises(ValueError, match=r"rows of 22 indices, found \(3000, 21\)"):
        predictor.predict_many(space, indices[:, 1:])
    with pytest.raises(ValueError, match=r"are integers, as `space.encode` gives them, found float64"):
        predictor.predict_many(space, indices.astype(float))
    with pytest.raises(ValueError, match="knob 'resolution' takes"):
        predictor.predict_many(space, [space.smallest() | {"resolution": 99}])


def test_tables_are_those_of_the_space_that_is_asked():
    predictor = LatencyPredictor(TOY, [])
    space = load_space("mobilenet_v3_tiny")
    indices = random_indices(space, 10)
    first = predictor.predict_many(space, indices)
    for batch in range(2, 8):
        agree(predictor, space.deployed(batch=batch), indices)
    assert len(predictor._block_tables) <= 4
    assert predictor._tables_of(space.deployed(batch=7)) is predictor._tables_of(space.deployed(batch=7))
    assert np.array_equal(predictor.predict_many(space, indices).latency_s, first.latency_s)


def test_a_space_can_be_pickled_after_it_was_cut():
    space = load_space("mobilenet_v3_tiny")
    space.graph(space.smallest())
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    assert again.graph(space.largest()) == space.graph(space.largest())
