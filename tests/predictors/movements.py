"""Views and copies that their records determine, one of each kind of step and those that networks have."""

from predictors.movement import Steps, shape_after
from predictors.operators import Copy, Operator, View

MAP = (1, 6, 9, 7)
TOKENS = (1, 5, 24)


def copy(shape: tuple[int, ...], *steps: tuple, method: str = "transpose") -> Copy:
    return Copy(shape=shape, to=shape_after(shape, steps), method=method, steps=steps)


def view(shape: tuple[int, ...], *steps: tuple) -> View:
    return View(shape=shape, to=shape_after(shape, steps), steps=steps)


_WINDOWS: Steps = (("reshape", (2, 4, 2, 3, 8)), ("transpose", (0, 2, 1, 3, 4)), ("reshape", (4, 12, 8)))

_KEYS = ("slice", (0, 0, 4, 0), (1, 5, 8, 2), (1, 1, 1, 1))

PLAIN: tuple[Operator, ...] = (
    *(
        copy(MAP, ("transpose", axes))
        for axes in ((0, 1, 3, 2), (0, 2, 1, 3), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1))
    ),
    copy(TOKENS, ("transpose", (0, 2, 1))),
    copy(MAP, ("transpose", (0, 2, 3, 1)), ("reshape", (1, 63, 6))),
    copy(MAP, ("slice", (0, 2, 1, 0), (1, 5, 5, 7), (1, 1, 1, 1)), method="slice"),
    copy(TOKENS, ("slice", (0, 1, 8), (1, 5, 16), (1, 1, 1)), method="slice"),
    copy(MAP, ("pad", (0, 1, 1, 2), (0, 0, 2, 0)), method="pad"),
    copy(TOKENS, ("pad", (0, 0, 3), (0, 1, 0)), method="pad"),
    copy(MAP, ("flip", (1, 3)), method="flip"),
    copy(MAP, ("roll", (0, 0, 3, 2)), method="roll"),
    copy(MAP, ("repeat", (1, 2, 1, 3)), method="repeat"),
    copy((1, 6, 1, 1), ("expand", MAP), method="expand"),
    copy((1, 1, 24), ("expand", TOKENS), method="expand"),
    view(TOKENS, ("reshape", (1, 5, 12, 2)), _KEYS, ("transpose", (0, 2, 1, 3))),
    view(MAP, ("slice", (0, 3, 0, 0), (1, 6, 9, 7), (1,) * 4)),
)
"""What ncnn can do too: a batch of one before at most three other axes."""

LARGER: tuple[Operator, ...] = (
    copy(MAP, ("slice", (0, 2, 0, 0), (1, 5, 9, 7), (1, 2, 2, 2)), method="slice"),
    copy((2, 4, 6, 8), ("reshape", (2, 4, 2, 3, 8)), *_WINDOWS[1:]),
    copy((1, 8, 3, 5), ("reshape", (1, 2, 2, 2, 3, 5)), ("transpose", (0, 1, 4, 2, 5, 3)), ("reshape", (1, 2, 6, 10))),
)
"""Strided, of windows, and between channels and pixels."""
