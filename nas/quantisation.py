"""int8 copies of exported networks, calibrated on training images, and what they cost in accuracy."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from nas.data.images import ImageData, Images
from nas.data.inputs import evaluation_input
from nas.files import replacing
from predictors.operators import Shape

NUM_CALIBRATION = 200
"""Training images that the ranges of activations are taken from."""

NUM_COMPARED = 250
"""Validation images that a search compares the two models on: answers of pairs, so that few tell."""

_READ_AT_ONCE = 200

Array = NDArray[np.float32]


class OnnxModel:
    """A file with one input `image` and one output `logits` in ONNX Runtime, on this machine's processor."""

    def __init__(self, path: str | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logits(self, x_BCHW: Array) -> Array:
        """float32 of shape (batch, classes); the batch is the one that the file was exported with."""
        (found,) = self._session.run(["logits"], {"image": x_BCHW})
        logits: Array = found
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A float network and its int8 copy, in ONNX Runtime, on the same images.

    Attributes:
        data, part: what the images are of.
        image_size: height and width at which both read them, as deployed.
        trained_size: those at which the network was trained.
        num_images: that were compared.
        float_accuracy, int8_accuracy: shares of right answers.
        same_answers: share of images for which both give the same class.
        num_calibration: images that the int8 copy was calibrated on.
        onnxruntime: its version.
    """

    data: str
    part: str
    image_size: int
    trained_size: int
    num_images: int
    float_accuracy: float
    int8_accuracy: float
    same_answers: float
    num_calibration: int
    onnxruntime: str

    @property
    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def quantise_and_compare(
    source: Path,
    target: Path,
    data: ImageData,
    shape: Shape,
    *,
    trained_size: int,
    symmetric: bool = False,
    num_compared: int = NUM_COMPARED,
) -> Compared:
    """Write the int8 copy of an exported network and compare the two on validation images.

    Args:
        shape: (batch, channels, height, width) that the file takes.
        trained_size: height and width of the images that the network was trained on.
        symmetric: as of `quantise`.
        num_compared: validation images, at most; each is one run of a batch.
    """
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(data.train))[: max(NUM_CALIBRATION, shape[0])])
    quantise(source, target, (x for x, _ in _batches(data, data.train, chosen, shape)), symmetric=symmetric)
    compared = np.sort(rng.permutation(len(data.valid))[:num_compared])
    models = OnnxModel(source), OnnxModel(target)
    right = np.zeros(2)
    num_images = num_same = 0
    for x_BCHW, labels in _batches(data, data.valid, compared, shape):
        answers = [model.logits(x_BCHW).argmax(axis=1)[: len(labels)] for model in models]
        right += [(each == labels).sum() for each in answers]
        num_same += int((answers[0] == answers[1]).sum())
        num_images += len(labels)
    if not num_images:
        raise ValueError(f"data {data.name!r}: none of the validation images can be read")
    return Compared(
        data=data.name,
        part="valid",
        image_size=shape[2],
        trained_size=trained_size,
        num_images=num_images,
        float_accuracy=float(right[0] / num_images),
        int8_accuracy=float(right[1] / num_images),
        same_answers=num_same / num_images,
        num_calibration=len(chosen),
        onnxruntime=version("onnxruntime"),
    )


def quantise(source: Path, target: Path, inputs: Iterable[Array], *, symmetric: bool = False) -> None:
    """Write an int8 copy of an ONNX file: weights in int8, a scale for each channel; activations in 8 bits between
    the least and the largest value that the inputs bring forth; written as QuantizeLinear and DequantizeLinear.

    Args:
        inputs: calibration batches of the shape that the file takes, normalised.
        symmetric: activations are signed, with 0 in the middle, as TensorRT wants them; otherwise they are unsigned
            with a zero point, which ONNX Runtime runs faster on x86.

    Raises:
        ValueError: there are no inputs.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _Reader(inputs)
    with replacing(target) as temporary, _quiet():
        prepared = temporary.with_name(f"{temporary.name}.prepared")
        try:
            quant_pre_process(source, prepared, skip_optimization=True, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                temporary,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric},
            )
        finally:
            prepared.unlink(missing_ok=True)
        if not reader.num_read:
            raise ValueError("an int8 network needs calibration images, and there were none")


# ------------------------------------------------------------------------------------------------------------ private


class _Reader:
    """Batches one by one, as `onnxruntime.quantization` asks for them."""

    def __init__(self, inputs: Iterable[Array]) -> None:
        self._inputs = iter(inputs)
        self.num_read = 0

    def get_next(self) -> dict[str, Array] | None:
        found = next(self._inputs, None)
        self.num_read += found is not None
        return None if found is None else {"image": found}


def _batches(
    data: ImageData, images: Images, chosen: NDArray[np.int64], shape: Shape
) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    """Inputs of that shape and the labels of those of its images that are not there to fill the last batch."""
    batch, _, size, _ = shape
    for start in range(0, len(chosen), _READ_AT_ONCE):
        read = images.read(chosen[start : start + _READ_AT_ONCE])
        for begin in range(0, len(read.labels), batch):
            labels = read.labels[begin : begin + batch]
            pictures = read.images[begin : begin + batch]
            pictures = np.concatenate([pictures, np.repeat(pictures[-1:], batch - len(pictures), axis=0)])
            yield evaluation_input(data, pictures, size).contiguous().numpy(), labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is printed, shown or logged below an error: the quantiser speaks through the root logger and `print`."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
