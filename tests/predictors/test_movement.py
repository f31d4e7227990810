"""Steps of views and copies: shapes by hand, and torch's own views as the second route."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from movements import LARGER, PLAIN
from torch import Tensor

from predictors.measure.torch_layers import build_layer
from predictors.movement import shape_after, strided_steps
from predictors.operators import Copy, View, operator_from_text


def some_view(x: Tensor, rng: random.Random) -> Tensor:
    """A view that torch makes without a copy; of an axis where it needs one."""
    axis = rng.randrange(x.dim())
    size = x.shape[axis]
    start = rng.randrange(size)
    length = rng.randrange(1, size - start + 1)
    factor = rng.choice([each for each in range(1, size + 1) if size % each == 0])
    order = list(range(x.dim()))
    rng.shuffle(order)
    made = (
        lambda: x.permute(order),
        lambda: x.narrow(axis, start, length),
        lambda: x[(slice(None),) * axis + (slice(start, None, rng.randrange(1, 4)),)],
        lambda: x.unflatten(axis, (factor, size // factor)),
        lambda: x.view(*x.shape[:axis], -1, *x.shape[axis + 2 :]),
        lambda: x.select(axis, start) if x.dim() > 1 else x,
        lambda: x.unsqueeze(axis),
        lambda: x.expand(*x.shape[:axis], 3, *x.shape[axis + 1 :]) if size == 1 else x,
    )
    try:
        return rng.choice(made)()
    except RuntimeError:  # its strides do not allow it
        return x


@given(st.integers(0, 2**32), st.lists(st.sampled_from([1, 2, 3, 4, 6, 7]), min_size=1, max_size=4))
def test_steps_make_the_view_whose_strides_they_were_told(seed: int, sizes: list[int]) -> None:
    rng = random.Random(seed)
    order = list(range(len(sizes)))
    rng.shuffle(order)
    x = torch.arange(torch.Size(sizes).numel()).reshape(sizes).permute(order)
    y = x
    for _ in range(rng.randrange(5)):
        y = some_view(y, rng)
    steps = strided_steps(tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), y.storage_offset())
    if steps is None:
        return
    assert shape_after(tuple(x.shape), steps) == tuple(y.shape)
    copy = Copy(shape=tuple(x.shape), to=tuple(y.shape), method="copy", steps=(*steps, ("reshape", tuple(y.shape))))
    assert torch.equal(build_layer(copy)(x), y)


def test_few_views_have_no_steps() -> None:
    found = []
    for seed in range(2000):
        rng = random.Random(seed)
        x = torch.zeros(rng.choice([(2, 3, 4), (1, 6, 4, 5), (12, 7)]))
        y = x
        for _ in range(4):
            y = some_view(y, rng)
        found.append(strided_steps(tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), y.storage_offset()))
    assert found.count(None) < 20, "of 2000"


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda x: x.permute(0, 2, 3, 1), (("transpose", (0, 2, 3, 1)),)),
        (lambda x: x[:, 2:5, ::2], (("slice", (0, 2, 0, 0), (2, 5, 3, 6), (1, 1, 2, 1)),)),
        (lambda x: x[:, 1], (("slice", (0, 1, 0, 0), (2, 2, 4, 6), (1,) * 4), ("reshape", (2, 4, 6)))),
        (lambda x: x.flatten(2).transpose(1, 2), (("reshape", (2, 8, 24)), ("transpose", (0, 2, 1)))),
        (lambda x: x.view(2, 4, 2, 4, 6)[:, :, 1], (("slice", (0, 1, 0, 0), (2, 8, 4, 6), (1, 2, 1, 1)),)),
        (lambda x: x, ()),
    ],
)  # fmt: skip
def test_steps_are_few_and_on_the_tensors_own_axes_where_they_can_be(make, steps) -> None:
    x = torch.zeros(2, 8, 4, 6)
    y = make(x)
    assert strided_steps(tuple(x.shape), x.stride(), tuple(y.shape), y.stride(), y.storage_offset()) == steps


def test_windows_that_overlap_have_no_steps() -> None:
    y = torch.zeros(1, 10).unfold(1, 4, 2)
    assert strided_steps((1, 10), (10, 1), tuple(y.shape), y.stride()) is None


def test_a_step_that_does_not_fit_is_refused_with_what_was_asked() -> None:
    for step in (
        ("reshape", (2, 4)), ("transpose", (0, 0)), ("slice", (0, 0), (2, 4), (1, 1)), ("expand", (2, 4)),
        ("pad", (-1, 0), (0, 0)), ("flip", (2,)), ("slice", (0, 0), (2, 3), (1, -1)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"\('{step[0]}', .* cannot be done to shape \(2, 3\)"):
            shape_after((2, 3), (step,))
    for step in (("shuffle", (1,)), ("transpose", [1, 0]), ("roll",), ("reshape", 6)):
        with pytest.raises(ValueError, match=r"is no step; there are .*'transpose'"):
            shape_after((2, 3), (step,))


@pytest.mark.parametrize("operator", [*PLAIN, *LARGER], ids=lambda operator: operator.text)
def test_views_and_copies_are_read_back_from_their_text(operator: View | Copy) -> None:
    assert operator_from_text(operator.text) == operator
    assert hash(operator_from_text(operator.text)) == hash(operator)


def test_a_record_whose_steps_lead_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"copy: the steps .* make \(1, 5, 4\) of \(1, 4, 5\), not \(5, 4\)"):
        Copy(shape=(1, 4, 5), to=(5, 4), method="transpose", steps=(("transpose", (0, 2, 1)),))
    with pytest.raises(ValueError, match="steps are tuples of a name and its arguments"):
        operator_from_text("view(shape=(2, 3), to=(3, 2), steps=[])")


def test_a_copy_of_a_table_from_before_steps_is_read_and_stays_undetermined() -> None:
    copy = operator_from_text("copy(shape=(1, 8, 6, 6), to=(1, 6, 6, 8), method='transpose')")
    assert isinstance(copy, Copy)
    assert copy.steps == ()
    assert "steps" not in copy.text
