"""The supernets that Once-for-All's authors published, from the files that they published.

Source: H. Cai et al., https://arxiv.org/abs/1908.09791; files and names of layers of https://github.com/mit-han-lab/once-for-all.
"""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from search_spaces.inverted_residuals import InvertedResidualSpace
from search_spaces.loading import load_space
from search_spaces.space import Space
from search_spaces.supernet import Supernet, uninitialised


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What Once-for-All calls the layers of one of our spaces.

    Args:
        space: its name in configs/space.
        published: the names of the published files.
        mark: a tensor that only this family has.
        layers: our prefixes outside of the stages, and theirs.
        block_layers: our prefixes inside of a block, and theirs.
        first_block: the number that they give the first block of the first stage.
    """

    space: str
    published: str
    mark: str
    layers: Mapping[str, str]
    block_layers: Mapping[str, str]
    first_block: int


_INVERTED_RESIDUAL = {
    "expand": "inverted_bottleneck", "depthwise": "depth_conv", "squeeze": "depth_conv.se.fc",
    "project": "point_linear",
}  # fmt: skip
_STEM_AND_CLASSIFIER = {
    "stem": "first_conv", "classifier": "classifier.linear",
    "first_block.depthwise": "blocks.0.depth_conv", "first_block.project": "blocks.0.point_linear",
}  # fmt: skip
FAMILIES = (
    Family(
        space="mobilenet_v3",
        published="ofa_mbv3_d234_e346_k357_w1.0, ofa_mbv3_d234_e346_k357_w1.2",
        mark="final_expand_layer.conv.weight",
        layers=_STEM_AND_CLASSIFIER | {"head": "final_expand_layer", "feature_mix": "feature_mix_layer"},
        block_layers=_INVERTED_RESIDUAL,
        first_block=1,
    ),
    Family(
        space="proxyless",
        published="ofa_proxyless_d234_e346_k357_w1.3",
        mark="feature_mix_layer.bn.weight",
        layers=_STEM_AND_CLASSIFIER | {"head": "feature_mix_layer"},
        block_layers=_INVERTED_RESIDUAL,
        first_block=1,
    ),
    Family(
        space="resnet50d",
        published="ofa_resnet50_d=0+1+2_e=0.2+0.25+0.35_w=0.65+0.8+1.0",
        mark="input_stem.0.conv.weight",
        layers={
            "stem": "input_stem.0", "stem_block": "input_stem.1", "stem_out": "input_stem.2",
            "classifier": "classifier.linear",
        },
        block_layers={"reduce": "conv1", "spatial": "conv2", "expand": "conv3", "shortcut": "downsample"},
        first_block=0,
    ),
)  # fmt: skip
_FREE_FIELDS = {"name", "resolutions", "num_classes", "in_channels", "width_multiplier", "deployed_resolution", "batch"}
"""What a space may change and still have the published layers, or what the shapes of the tensors tell."""


def read_ofa_checkpoint(path: Path, space: Space) -> Supernet:
    """The supernet of a space with the weights that Once-for-All published for it, in evaluation mode.

    Of the file only tensors are read, never code, under the names of any of Once-for-All's versions.

    Args:
        path: a file as `torch.save` writes it: names and tensors, or those under the key 'state_dict'.
        space: `mobilenet_v3` of width 1.0 or 1.2, `proxyless`, or `resnet50d`, at any resolutions.

    Raises:
        ValueError: there is no such file, it holds more than tensors or the weights of another space, tensors are
            missing or left over, or have other shapes; each is named.
    """
    family = _family_of(space)
    found = _published_names(_read_tensors(path), path)
    _check_family(found, family, path, space)
    with uninitialised():
        supernet = space.supernet()
    wanted = {name: _published_name(name, family, supernet) for name in supernet.state_dict()}
    wanted = {name: published for name, published in wanted.items() if not name.endswith("num_batches_tracked")}
    asked = f"{path}: space {space.name!r}"
    missing = [published for published in wanted.values() if published not in found]
    if missing:
        raise ValueError(f"{asked} needs tensors that the file lacks: {_listed(missing)}")
    left_over = set(found) - set(wanted.values())
    if left_over:
        raise ValueError(f"{asked} has no place for tensors of the file: {_listed(sorted(left_over))}")
    state = supernet.state_dict()
    differing = [
        f"{published} is {tuple(found[published].shape)}, not {tuple(state[name].shape)}"
        for name, published in wanted.items()
        if found[published].shape != state[name].shape
    ]
    if differing:
        hint = _hint(found, state, space)
        raise ValueError(f"{asked} has layers of other sizes than the file: {_listed(differing)}{hint}")
    for name, published in wanted.items():
        # Once-for-All multiplies a kernel's centre by the transposed matrix (`F.linear`).
        state[name] = found[published].T if name.startswith("kernel_transforms.") else found[published]
    supernet.load_state_dict(state)
    return supernet.eval()


def _family_of(space: Space) -> Family:
    for family in FAMILIES:
        published = load_space(family.space)
        if type(space) is not type(published):
            continue
        for field in fields(published):  # type: ignore[arg-type]
            asked, allowed = getattr(space, field.name), getattr(published, field.name)
            if asked != allowed and field.name not in _FREE_FIELDS:
                raise ValueError(
                    f"space {space.name!r}: {field.name} is {_shown(asked)}, for the published weights "
                    f"{_shown(allowed)}, as in space={family.space}"
                )
        return family
    raise ValueError(
        f"Once-for-All published no weights for space {space.name!r}, but for {[each.space for each in FAMILIES]}"
    )


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {str(path)!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another pickle protocol than torch.save's
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise ValueError(
                f"{path}: refused, for it asks to run {found[1]!r}; a checkpoint holds tensors, and no code is run"
            ) from None
        reason = re.search(r"WeightsUnpickler error:\s*(.*)", str(error)) or re.search(r"(.+)", str(error))
        raise ValueError(
            f"{path}: refused, for it is no file of tensors that torch.save wrote, or not a whole one; anything else "
            f"could hold code, and none is run ({reason[1].strip() if reason else type(error).__name__})"
        ) from None
    tensors = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(
            f"{path}: expected names and tensors, or those under 'state_dict', found {type(tensors).__name__}"
        )
    others = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(
            f"{path}: expected names and tensors, or those under 'state_dict', found other things: {_listed(others)}"
        )
    return {str(name): tensor for name, tensor in tensors.items()}


def _published_names(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Tensors by names without the wrappers that differ from version to version: `module.`, `.mobile_inverted_conv`,
    `conv.conv`, `bn.bn`, `linear.linear`.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        *modules, leaf = name.removeprefix("module.").split(".")
        if leaf == "num_batches_tracked":
            continue
        kept = [
            module
            for module, following in zip(modules, [*modules[1:], ""])
            if module != "mobile_inverted_conv"
            and not (module == "conv" and following)
            and not (module in ("bn", "linear") and module == following)
        ]
        plain = ".".join([*kept, leaf])
        if plain in found:
            raise ValueError(f"{path}: the file has {plain!r} twice, once as {name!r}")
        found[plain] = tensor
    return found


def _check_family(found: Iterable[str], family: Family, path: Path, space: Space) -> None:
    for other in FAMILIES:
        if other is not family and other.mark in found and family.mark not in found:
            raise ValueError(
                f"{path}: the file holds weights of {other.space!r} ({other.published}); space {space.name!r} takes "
                f"those of {family.published}: ask for space={other.space}"
            )


def _published_name(name: str, family: Family, supernet: Supernet) -> str:
    kind, _, layer = name.partition(".")
    if kind == "kernel_transforms":
        match = re.fullmatch(r"stages_(\d+)_(\d+)_depthwise_conv_weight_to_(\d+)", layer)
        assert match is not None, layer
        stage, block, small = map(int, match.groups())
        large = supernet.kernels[supernet.kernels.index(small) + 1]
        return f"blocks.{_block_number(stage, block, family, supernet)}.depth_conv.conv.{large}to{small}_matrix"
    if not layer.startswith("stages."):
        return _renamed(layer, family.layers)
    _, stage_text, block_text, rest = layer.split(".", maxsplit=3)
    number = _block_number(int(stage_text), int(block_text), family, supernet)
    return f"blocks.{number}.{_renamed(rest, family.block_layers)}"


def _block_number(stage: int, block: int, family: Family, supernet: Supernet) -> int:
    stages = supernet.network.get_submodule("stages")
    return family.first_block + sum(len(list(each.children())) for each in list(stages.children())[:stage]) + block


def _renamed(layer: str, prefixes: Mapping[str, str]) -> str:
    for ours, theirs in prefixes.items():
        if layer.startswith(f"{ours}."):
            return theirs + layer.removeprefix(ours)
    raise AssertionError(f"no published name for {layer}")


def _hint(found: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], space: Space) -> str:
    num_classes, num_features = found["classifier.linear.weight"].shape
    asked_classes, asked_features = state["network.classifier.weight"].shape
    hint = ""
    if num_features != asked_features and isinstance(space, InvertedResidualSpace):
        hint += f"; for this file the space needs width_multiplier={num_features / space.feature_width:g}"
    if num_classes != asked_classes:
        hint += f"; the file's network has {num_classes} classes, that of the space {asked_classes}"
    return hint


def _shown(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
