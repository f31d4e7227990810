"""Recurrent layers, kept whole: all steps of one layer in one node, as every runtime has them."""

from functools import cached_property
from math import prod

from predictors.operators import Operator, Shape, check_method, check_positive, check_shape, operator, round_up

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@operator
class Recurrent(Operator):
    """One layer of an LSTM, a GRU or a plain RNN over (..., features), in one direction or in both.

    macs = positions * directions * (gates * hidden * (features + width) + hidden * projection), where positions are
    all elements of `shape` but its last axis, and width is the projection of an LSTM that has one, else `hidden`. The
    gates' own products, sums and functions are not counted, as torch.utils.flop_counter counts. Weights are read once:
    they stay in a cache from step to step.

    The output joins both directions; the layer's last states are parts of it.
    """

    kind = "recurrent"
    shape: Shape
    hidden: int
    method: str = "lstm"
    directions: int = 1
    bias: bool = True
    projection: int = 0
    states: tuple[Shape, ...] = ()
    """Shapes of the first states that are given to it; they are zero otherwise."""

    def __post_init__(self) -> None:
        check_shape(self.kind, self.shape)
        check_method(self.kind, self.method, _GATES)
        check_positive(self.kind, hidden=self.hidden, directions=self.directions)
        if len(self.shape) < 2 or not 0 <= self.projection < self.hidden or self.directions > 2:
            raise ValueError(
                f"recurrent: steps of features, at most 2 directions and a projection below {self.hidden} are allowed; "
                f"found shape {self.shape}, {self.directions} directions, projection {self.projection}"
            )
        for state in self.states:
            check_shape(self.kind, state)

    @property
    def width(self) -> int:
        """Features that each direction writes at each step."""
        return self.projection or self.hidden

    @cached_property
    def input_shapes(self) -> tuple[Shape, ...]:
        return (self.shape, *self.states)

    @cached_property
    def output_shape(self) -> Shape:
        return *self.shape[:-1], self.directions * self.width

    @cached_property
    def macs(self) -> int:
        return prod(self.shape[:-1]) * self.directions * self._weights

    @cached_property
    def num_params(self) -> int:
        biases = 2 * _GATES[self.method] * self.hidden if self.bias else 0
        return self.directions * (self._weights + biases)

    @property
    def _weights(self) -> int:
        return _GATES[self.method] * self.hidden * (self.shape[-1] + self.width) + self.hidden * self.projection

    @property
    def variant(self) -> str:
        return self.method

    def padded(self, alignment: int) -> "Recurrent":
        return Recurrent(
            shape=(*self.shape[:-1], round_up(self.shape[-1], alignment)),
            hidden=round_up(self.hidden, alignment), method=self.method, directions=self.directions, bias=self.bias,
            projection=min(round_up(self.projection, alignment), round_up(self.hidden, alignment) - 1),
            states=tuple((*state[:-1], round_up(state[-1], alignment)) for state in self.states),
        )  # fmt: skip
