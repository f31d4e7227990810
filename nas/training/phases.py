"""Which subnets a phase trains: families of knobs become elastic, the others keep their largest value.

Source: H. Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
https://arxiv.org/abs/1908.09791, section 3.3 (progressive shrinking).
"""

import numpy as np

from nas.training.recipe import Phase, Recipe
from search_spaces.space import Arch, Space

RESOLUTION = "resolution"
UNSORTED_FAMILIES = (RESOLUTION, "kernel", "depth")
"""Where any other family becomes elastic, channels are first sorted by importance: a leading slice keeps the best."""


def check_phases(space: Space, recipe: Recipe) -> None:
    """Refuse phases that do not fit the space.

    Raises:
        ValueError: a family fits no knob, or some values of a knob are never elastic: those subnets would be asked for
            and had never been trained.
    """
    for phase in recipe.phases:
        phase_choices(space, phase)
    last = recipe.schedule[-1]
    if last.elastic is not None:
        left = [knob for knob, values in phase_choices(space, last).items() if values != space.choices[knob]]
        if left:
            raise ValueError(
                f"training: the last phase does not train every value of {_shortened(left)} of space {space.name!r}; "
                f"its families of knobs are {families(space)}"
            )


def families(space: Space) -> list[str]:
    """The last words of the knobs' names: what `Phase.elastic` may list."""
    return sorted({_family(knob) for knob in space.choices})


def phase_choices(space: Space, phase: Phase) -> dict[str, tuple[int, ...]]:
    """Every knob and the values that it takes in a phase.

    Raises:
        ValueError: a family fits no knob of the space, or its number of values is not a positive whole number.
    """
    if phase.elastic is None:
        return dict(space.choices)
    chosen = {knob: values[-1:] for knob, values in space.choices.items()}
    for entry in phase.elastic:
        family, _, number = entry.partition(":")
        knobs = [knob for knob in space.choices if knob == family or knob.endswith(f"_{family}")]
        if not knobs:
            raise ValueError(
                f"training: elastic {family!r} fits no knob of space {space.name!r}; its families are {families(space)}"
            )
        if number and not (number.isdecimal() and int(number) > 0):
            raise ValueError(f"training: elastic {entry!r}: write {family}:2 for the two largest values")
        for knob in knobs:
            chosen[knob] = space.choices[knob][-int(number) :] if number else space.choices[knob]
    return chosen


def smallest_of(space: Space, phase: Phase) -> Arch:
    """The smallest arch of a phase."""
    if phase.elastic is None:
        return space.smallest()
    return space.canonical({knob: values[0] for knob, values in phase_choices(space, phase).items()})


def sample_of(space: Space, phase: Phase, rng: np.random.Generator) -> Arch:
    """A random arch of a phase, every knob uniform."""
    if phase.elastic is None:
        return space.sample(rng)
    choices = phase_choices(space, phase)
    return space.canonical({knob: values[rng.integers(len(values))] for knob, values in choices.items()})


def begins_sorting(space: Space, recipe: Recipe, index: int) -> bool:
    """Whether widths become elastic in this phase that were not in the one before: knobs of families that are not in
    `UNSORTED_FAMILIES`. Channels are then sorted, but those of `trained_widths` stay leading.
    """
    if index == 0:
        return False
    before, now = (_widths(space, recipe.schedule[each]) for each in (index - 1, index))
    return any(len(now[knob]) > len(before[knob]) for knob in now)


def trained_widths(space: Space, recipe: Recipe, index: int) -> list[Arch]:
    """Archs that together have every width which the phase before this one trained, beside the largest."""
    before = _widths(space, recipe.schedule[index - 1])
    most = max((len(values) for values in before.values()), default=1)
    chosen = [{knob: values[min(place, len(values) - 1)] for knob, values in before.items()} for place in range(most)]
    return [space.canonical(space.largest() | widths) for widths in chosen[:-1]]


# ------------------------------------------------------------------------------------------------------------ private


def _widths(space: Space, phase: Phase) -> dict[str, tuple[int, ...]]:
    """Values in a phase of the knobs that decide widths."""
    choices = phase_choices(space, phase)
    return {knob: values for knob, values in choices.items() if _family(knob) not in UNSORTED_FAMILIES}


def _family(knob: str) -> str:
    return knob.rpartition("_")[2]


def _shortened(knobs: list[str]) -> str:
    return ", ".join(repr(knob) for knob in knobs[:3]) + (f" and {len(knobs) - 3} more knobs" if knobs[3:] else "")
