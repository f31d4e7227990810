"""The two devices that timm's networks were measured on, as data sheets describe them: no kernel was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from predictors.device import Device, MemoryLevel, Quantity, load_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A table of latencies and the device that they are of.

    Attributes:
        title: the end of a sentence that begins "On".
        file: in `timm_bench`.
    """

    name: str
    title: str
    file: str
    device: Callable[[], Device]


def rtx3090() -> Device:
    """NVIDIA's RTX 3090 under PyTorch in float16, by its data sheet; what its kernels reach comes from other GPUs."""
    sheet = "NVIDIA Ampere GA102 GPU Architecture, white paper V2, 2021, GeForce RTX 3090"
    return Device(
        name="rtx3090",
        description="NVIDIA GeForce RTX 3090",
        runtime="torch_eager",
        dtype="float16",
        peaks={
            "float32": Quantity(value=35.6e12, source=f"{sheet}: peak FP32"),
            "float16": Quantity(value=71e12, source=f"{sheet}: peak FP16 tensor with FP32 accumulate, dense"),
        },
        memory=(MemoryLevel(name="dram", bandwidth=Quantity(value=936.2e9, source="device_specs.csv: GDDR6X")),),
        alignment=Quantity(
            value=8, source="of float16 on tensor cores: NVIDIA, Tensor Core Performance: The Ultimate Guide, GTC 2019"
        ),
        compute_units=Quantity(value=82, source=f"{sheet}: 82 streaming multiprocessors"),
        cache=Quantity(value=6 * 2**20, source=f"{sheet}: L2"),
    )


def i9_10940x() -> Device:
    """Intel's i9-10940X in float32, by its data sheet; its kernels reach what those of `cpu_x86` do under PyTorch.

    Inductor without frozen weights calls PyTorch's own convolutions and products, so eager efficiencies serve.
    """
    sheet = "Intel ARK, Core i9-10940X"
    return Device(
        name="i9_10940x",
        description="Intel Core i9-10940X, 14 cores",
        runtime="torch_compile",
        dtype="float32",
        peaks={
            "float32": Quantity(
                value=14 * 3.3e9 * 64,
                source=f"{sheet}: 14 cores at 3.3 GHz, two AVX-512 FMA units (64 FLOP a cycle); theoretical",
            )
        },
        memory=(MemoryLevel(name="dram", bandwidth=Quantity(value=94e9, source=f"{sheet}: maximum, four channels")),),
        efficiency=load_device("cpu_x86").in_runtime("torch_eager").efficiency,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark(
            name="rtx3090_nhwc",
            title="an RTX 3090 (float16, channels last, large batches)",
            file="benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv",
            device=rtx3090,
        ),
        Benchmark(
            name="i9_10940x",
            title="an i9-10940X (float32, batch 1, Inductor)",
            file="benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv",
            device=i9_10940x,
        ),
        Benchmark(
            name="rtx3090_nchw",
            title="an RTX 3090 (float16, channels first, large batches)",
            file="benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv",
            device=rtx3090,
        ),
    )
}
