"""Networks by what a person writes: a file, a published network's name, an arch of a search space, a callable.

models/mine.onnx                         an ONNX file
models/mine.pt2                          what torch.export.save wrote
models/mine.param                        ncnn's text
networks.graphs.jsonl#small              a network in a file of networks (predictors.graph_file)
timm:resnet18@224                        a network of timm, at a resolution
space:mobilenet_v3@224:{"stage1_depth": 2, ...}    an arch of a search space, or the path of a JSON file with one
my_networks.small:make                   what a callable makes: a torch module, a module and its inputs, or a graph
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from predictors.graph import Graph
from predictors.graph_file import SUFFIX, read_graphs
from predictors.ncnn_param import read_ncnn_param
from predictors.network_inputs import NetworkInput, check_named, named_at
from predictors.operators import Shape

if TYPE_CHECKING:
    import onnx

_SPACE_FORM = "space:NAME[@RESOLUTION]:{arch or a JSON file's path}"

FORMS = (
    "FILE.onnx", "FILE.pt2", "FILE.param", f"FILE{SUFFIX}#NAME", "timm:NAME[@RESOLUTION]",
    _SPACE_FORM, "package.module:callable",
)  # fmt: skip

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def read_network(
    text: str,
    folder: Path = Path(),
    *,
    inputs: Sequence[NetworkInput] = (),
    batch: int | None = None,
    allow_unknown: bool = False,
) -> Graph:
    """The graph of a network.

    Args:
        text: in one of `FORMS`.
        folder: that relative paths start from.
        inputs: in place of those that the network says or usually takes; for an ONNX file those that it leaves open.
        batch: takes the place of the first axis of every input.
        allow_unknown: keep operators without a formula, as `trace` and `read_onnx` do.

    Raises:
        ValueError: another form, a file that is not there, a package that is missing, a network that cannot be read,
            inputs or a batch where the network has its own. Where the user's own code fails, its error comes first.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"a batch has at least one image, found {batch}")
    if text.startswith("space:"):
        _refuse(text, inputs, None, "has the inputs of its space")
        return _space_network(text, folder, batch)
    if text.startswith("timm:"):
        from predictors.named_modules import timm_network

        return timm_network(text.removeprefix("timm:"), inputs, batch, allow_unknown=allow_unknown)
    name, _, member = text.partition("#")
    path = folder / Path(name).expanduser()
    if name.endswith(SUFFIX):
        _refuse(text, inputs, batch, "has its shapes in the file")
        return _member(_existing(path, text), member)
    if path.suffix == ".pt2":
        from predictors.named_modules import exported_network

        return exported_network(_existing(path, text), inputs, batch, allow_unknown=allow_unknown)
    if path.suffix == ".onnx":
        return _onnx(_existing(path, text), inputs, batch, allow_unknown)
    if path.suffix == ".param":
        return _ncnn(_existing(path, text), inputs, batch)
    if _CALLABLE.fullmatch(text):
        from predictors.named_modules import callable_network

        return callable_network(text, inputs, batch, allow_unknown=allow_unknown)
    raise ValueError(f"network {text!r} has none of the forms {list(FORMS)}")


def timm_network(text: str) -> Graph:
    """A network of timm, without its weights: its name, and behind an @ the height and width of the image."""
    return read_network(f"timm:{text}")


def load_space(name: str, resolution: int | None = None, batch: int = 1) -> Any:
    """A search space as deployed. Spaces stand on this floor, so commands reach up, by name."""
    return resolve_name("search_spaces:load_space")(name).deployed(resolution=resolution, batch=batch)


# ------------------------------------------------------------------------------------------------------------ private


def _existing(path: Path, text: str) -> Path:
    if not path.is_file():
        raise ValueError(f"network {text!r}: there is no file {path}")
    return path


def _member(path: Path, name: str) -> Graph:
    graphs = read_graphs(path)
    if not name and len(graphs) == 1:
        return next(iter(graphs.values()))
    if name not in graphs:
        raise ValueError(f"{path} has no network {name!r}; it has {_few(list(graphs))}")
    return graphs[name]


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} others" if len(names) > 12 else "")


def _onnx(path: Path, inputs: Sequence[NetworkInput], batch: int | None, allow_unknown: bool) -> Graph:
    from predictors.onnx.file import read_without_weights
    from predictors.onnx.reader import read_onnx

    shapes = _shapes(inputs, f"{path}: an ONNX file says the dtypes of its inputs")
    if isinstance(shapes, dict):
        shapes = _all_shapes(read_without_weights(path), shapes, batch, path)
    elif batch is not None:
        shapes = (batch, *shapes[1:])
    return read_onnx(path, shapes, allow_unknown=allow_unknown)


def _all_shapes(model: "onnx.ModelProto", shapes: dict[str, Shape], batch: int | None, path: Path) -> dict[str, Shape]:
    """Shapes of those inputs that are given or take a batch; that the others leave no axis open is checked here."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = dict(shapes)
    for value in model.graph.input:
        if value.name in weights or not value.type.tensor_type.HasField("shape"):
            continue
        dims = [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]
        shape = list(shapes.get(value.name, dims))
        if batch is not None and shape:
            shape[0] = batch
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            given = ",".join(str(size) if isinstance(size, int) else "1" for size in shape)
            raise ValueError(
                f"{path}: input {value.name!r} of shape ({', '.join(map(str, dims))}) has axes without a size; "
                f"give them as in {value.name}={given}" + (", or a batch" if isinstance(shape[0], str) else "")
            )
        if batch is not None or value.name in shapes:
            found[value.name] = sizes
    return found


def _ncnn(path: Path, inputs: Sequence[NetworkInput], batch: int | None) -> Graph:
    if batch not in (None, 1):
        raise ValueError(f"{path}: ncnn's blobs have no batch axis, so the batch is 1, found {batch}")
    shapes = _shapes(inputs, f"{path}: inputs in ncnn's text have no dtype")
    if not isinstance(shapes, dict):
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        shapes = {words[1]: shapes for words in lines if words[:1] == ["Input"]}
    return read_ncnn_param(path, {name: shape[1:] if len(shape) == 4 else shape for name, shape in shapes.items()})


def _shapes(inputs: Sequence[NetworkInput], why_no_dtype: str) -> dict[str, Shape] | Shape:
    """By name; of one input without a name its shape alone."""
    if typed := [each.text for each in inputs if each.dtype]:
        raise ValueError(f"{why_no_dtype}; give shapes alone, found {typed[0]!r}")
    if not inputs or check_named(inputs):
        return {each.name: each.shape for each in inputs}
    if len(inputs) > 1:
        raise ValueError(f"several inputs need names, such as ids=1,128; found {[each.text for each in inputs]}")
    return inputs[0].shape


def _refuse(text: str, inputs: Sequence[NetworkInput], batch: int | None, why: str) -> None:
    if inputs or batch is not None:
        raise ValueError(f"network {text!r} {why}; leave the {'input' if inputs else 'batch'} out")


def _space_network(text: str, folder: Path, batch: int | None) -> Graph:
    name, separator, arch = text.removeprefix("space:").partition(":")
    if not separator:
        raise ValueError(f"network {text!r} names no arch; the form is {_SPACE_FORM}")
    source = arch if arch.lstrip().startswith("{") else _existing(folder / arch, text).read_text(encoding="utf-8")
    try:
        knobs = json.loads(source)
    except json.JSONDecodeError as error:
        raise ValueError(f"network {text!r}: the arch is not valid JSON: {error}") from None
    name, resolution = named_at(name)
    graph: Graph = load_space(name, resolution, batch or 1).graph(knobs)
    return graph
