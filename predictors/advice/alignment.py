"""Numbers of channels that the device pads, or that its kernels are slow at."""

from collections.abc import Iterable
from functools import partial
from math import lcm

from predictors.advice.channels import ChannelGroup, channel_groups, set_channels
from predictors.advice.rule import Context, Edit, Place, changed, edit_all, gainful, listed
from predictors.graph import Graph
from predictors.operators import round_up

_MULTIPLES = (4, 8, 16)
"""Of channels: what registers hold, and blocked layouts."""

_DEVIATIONS = 2.0
"""More channels are more work, so that they take less time is believed only where it is clear: of three numbers for
each of many layers the best looks good by chance."""

_FREE = 1e-3
"""More channels that cost less than this share of the network's time are called free."""


def alignment(graph: Graph, context: Context) -> Iterable[Edit]:
    """Channels that are padded anyway become a multiple of the device's alignment; others one that runs faster.

    Layers whose numbers of channels are tied change together. Fewer channels are only proposed where the device pads:
    elsewhere they save what they compute less, which is no matter of alignment.
    """
    groups = channel_groups(graph)
    aligned = context.device.channel_alignment
    if aligned > 1:
        yield from _padded(graph, context, groups, aligned)
    yield from _slow(graph, context, groups)


# ------------------------------------------------------------------------------------------------------------ private


def _padded(graph: Graph, context: Context, groups: Iterable[ChannelGroup], aligned: int) -> Iterable[Edit]:
    smaller = []
    for group in groups:
        multiple = lcm(aligned, group.multiple)
        if (down := group.channels // multiple * multiple) in (0, group.channels):
            continue
        up = round_up(group.channels, multiple)
        place = _place(context, group, down)
        edited = changed(graph, [place])
        wider = changed(graph, [_place(context, group, up)])
        if edited is None or wider is None:
            continue
        smaller.append(place)
        is_free = context.gain(wider).share > -_FREE
        yield Edit(
            text=f"{place.name}: {group.channels} channels cost what {up} cost on this device: "
            + (f"use {up} (free) or {down}" if is_free else f"use {down}"),
            graph=edited,
            module_paths=_names(context, group),
        )
    if len(smaller) > 1 and (edited := changed(graph, smaller)) is not None:
        names = [place.name for place in smaller]
        yield Edit(
            text=f"{listed(names)}: channels are padded to multiples of {aligned} on this device: "
            "take the next lower multiple everywhere",
            graph=edited,
            module_paths=tuple(names),
        )


def _slow(graph: Graph, context: Context, groups: Iterable[ChannelGroup]) -> Iterable[Edit]:
    """More channels that take less time: a runtime that leaves its fast kernels at odd numbers."""
    best: list[Place] = []
    widths: dict[str, str] = {}
    for group in groups:
        choices = {round_up(group.channels, lcm(multiple, group.multiple)) for multiple in _MULTIPLES}
        places = {channels: _place(context, group, channels) for channels in sorted(choices - {group.channels})}
        found = [
            (gain.gain_s, channels, place)
            for channels, place in places.items()
            for place, gain in gainful(graph, context, [place], _DEVIATIONS)
        ]
        if found:
            _, channels, place = max(found, key=lambda each: each[0])
            best.append(place)
            widths[place.name] = f"{group.channels} -> {channels}"
    yield from edit_all(
        graph, context, best,
        lambda names, places: f"{names}: more channels take less time on this device: "
        + listed([widths[place.name] for place in places]),
    )  # fmt: skip


def _place(context: Context, group: ChannelGroup, channels: int) -> Place:
    return Place(
        index=group.producers[0],
        name=listed(_names(context, group)),
        change=partial(set_channels, group=group, channels=channels),
    )


def _names(context: Context, group: ChannelGroup) -> tuple[str, ...]:
    return tuple(context.name(index) for index in (*group.producers, *group.followers))
