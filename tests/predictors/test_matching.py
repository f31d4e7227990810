import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.fusion import KernelNode, make_kernel
from predictors.matching import kernel_times
from predictors.operators import Activation

RELU = make_kernel(Activation(shape=(1, 8), function="relu"), (), "float32")


def kernels(*nodes: tuple[int, ...]) -> list[KernelNode]:
    return [KernelNode(RELU, each, ()) for each in nodes]


def test_a_kernel_with_several_steps_takes_their_sum_in_each_run():
    times = kernel_times(kernels((1, 2), (3,)), [(1,), (2,), (3,)], np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]]))
    assert {index: list(seconds_R) for index, seconds_R in times.seconds_R.items()} == {0: [3.0, 30.0], 1: [4.0, 40.0]}
    assert times.unmatched == ()
    assert times.unowned == ()


def test_kernels_that_share_a_step_cannot_be_told_apart_also_over_a_third():
    # step 0 ties kernels 0 and 1, step 1 ties 1 and 2: one group of 1 + 2 seconds
    times = kernel_times(kernels((1,), (2, 3), (4,), (5,)), [(1, 2), (3, 4), (5,)], np.array([[1.0, 2.0, 8.0]]))
    (group,) = times.unmatched
    assert group.kernels == (0, 1, 2)
    assert list(group.seconds_R) == [3.0]
    assert list(times.seconds_R) == [3]


def test_steps_without_kernels_count_with_the_next_and_the_last_ones_with_the_one_before():
    steps = [(), (1,), (0,), (), (2,), ()]  # node 0 is an input, no kernel
    times = kernel_times(kernels((1,), (2,)), steps, np.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]]))
    assert list(times.seconds_R[0]) == [1.0 + 2.0]
    assert list(times.seconds_R[1]) == [4.0 + 8.0 + 16.0 + 32.0]
    assert times.unowned == (0, 2, 3, 5)


def test_a_kernel_that_no_step_ran_is_unmatched_with_no_time():
    times = kernel_times(kernels((1,), (2,)), [(1,)], np.array([[1.0], [2.0]]))
    (group,) = times.unmatched
    assert group.kernels == (1,)
    assert list(group.seconds_R) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("steps", "seconds_RS", "message"),
    [
        ([(7,), ()], [[1.0, 2.0]], "none of the 2 steps runs any of the 2 kernels"),
        ([(1,), (2,)], [[1.0]], r"shape \(runs, 2\), found \(1, 1\)"),
        ([(1,), (2,)], [1.0, 2.0], r"found \(2,\)"),
    ],
)
def test_times_that_belong_to_nobody_are_an_error(steps, seconds_RS, message):
    with pytest.raises(ValueError, match=message):
        kernel_times(kernels((1,), (2,)), steps, np.array(seconds_RS))


@given(st.data())
def test_no_time_is_lost_and_every_kernel_is_accounted_for(data):
    num_kernels = data.draw(st.integers(1, 6))
    nodes = [(2 * index, 2 * index + 1) for index in range(num_kernels)]
    one_step = st.lists(st.integers(0, 2 * num_kernels + 2), max_size=4).map(tuple)
    steps = [(0,), *data.draw(st.lists(one_step, max_size=8))]
    seconds_RS = np.array(
        data.draw(st.lists(st.lists(st.floats(0, 1), min_size=len(steps), max_size=len(steps)), min_size=1, max_size=3))
    )
    times = kernel_times(kernels(*nodes), steps, seconds_RS)
    total_R = sum(times.seconds_R.values(), np.zeros(len(seconds_RS)))
    total_R = total_R + sum((group.seconds_R for group in times.unmatched), np.zeros(len(seconds_RS)))
    assert total_R == pytest.approx(seconds_RS.sum(1))
    assert sorted([*times.seconds_R, *(index for group in times.unmatched for index in group.kernels)]) == list(
        range(num_kernels)
    )
