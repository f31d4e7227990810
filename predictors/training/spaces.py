"""What is meant by a space or a device, in whichever way it is given."""

from typing import Any, Protocol, cast

from predictors.device import Device, load_device
from predictors.latency import LatencyPredictor
from predictors.predict_many import ArchSpace


class HasSpace(Protocol):
    """A module that holds the networks of a space, such as a supernet."""

    @property
    def space(self) -> Any: ...


def space_of(given: ArchSpace | HasSpace) -> ArchSpace:
    """A space itself, or that of a module.

    Raises:
        ValueError: it is none and has none.
    """
    for each in (given, getattr(given, "space", None)):
        if each is not None and hasattr(each, "choices") and hasattr(each, "graph"):
            return cast(ArchSpace, each)
    raise ValueError(
        f"{type(given).__name__} is no search space and has none as `.space`; supernets have, "
        "`search_spaces.elastic.elastic` makes a space of a network of your own, and for channels of a network as it "
        "is there is DifferentiableCost(module, example_input, device)"
    )


def predictor_of(given: LatencyPredictor | Device | str) -> LatencyPredictor:
    """A predictor itself; or that of a device, or of the device of a name, with its usual runtime and dtype.

    Raises:
        ValueError: no such device.
    """
    if isinstance(given, LatencyPredictor):
        return given
    return LatencyPredictor(given if isinstance(given, Device) else load_device(given))
