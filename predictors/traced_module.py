"""A module while it is traced: in eval mode, its weights replaced, its paths known, and afterwards as it was before."""

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

_CONTAINERS = (list, dict, set, OrderedDict, deque)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode by the flags alone, so that a module's own `train` or `eval` cannot change it; compiled parts as code.

    Once it is over, all attributes of all modules are as they were: what a forward pass keeps for the next one has no
    data here.
    """
    before = [_attributes(each) for each in module.modules()]
    try:
        for each in list(module.modules()):
            each.training = False
            if not isinstance(each, torch.jit.ScriptModule):
                each._compiled_call_impl = None
                for name, child in each._modules.items():
                    each._modules[name] = as_written(child)
        yield
    finally:
        for restore in before:
            restore()


def as_written(module: Any) -> Any:
    """What `torch.compile` was given to make this module; other modules as they are."""
    return getattr(module, "_orig_mod", module)


def replace_weights(module: nn.Module, replace: Callable[[Tensor, str, bool], Tensor]) -> None:
    """Put `replace(tensor, name, learned)` in the place of every parameter and buffer, within `evaluating`.

    Scripted modules hold theirs elsewhere: they keep them.

    Raises:
        ValueError: a lazy module's parameter has no shape yet.
    """
    replaced: dict[int, Tensor] = {}
    for path, each in module.named_modules():
        for held, learned in ((each._parameters, True), (each._buffers, False)):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                full = f"{path}.{name}" if path else name
                if is_lazy(tensor):
                    raise ValueError(
                        f"parameter {full!r} of the lazy module {type(each).__name__} has no shape yet; "
                        "call the module once with an input, or build it with sizes"
                    )
                if id(tensor) not in replaced:
                    replaced[id(tensor)] = replace(tensor, full, learned)
                if not isinstance(each, torch.jit.ScriptModule):
                    held[name] = replaced[id(tensor)]


@contextmanager
def following_paths(module: nn.Module, enter_path: Callable[[str], str]) -> Iterator[None]:
    """Call `enter_path` with the path of the module whose forward begins, or goes on; it returns the one before."""
    names = {id(each): name for name, each in module.named_modules()}
    outer: list[str] = []
    here = get_ident()  # the hooks are called for what other threads run, too

    def enter(each: nn.Module, _: Any) -> None:
        if get_ident() != here:
            return
        name = names.get(id(each))
        before = enter_path(name or "")
        outer.append(before)
        if name is None:
            enter_path(before)

    def leave(each: nn.Module, *_: Any) -> None:
        if get_ident() == here:
            enter_path(outer.pop())

    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class ExportedModule(nn.Module):
    """An exported program as a module that says the path of the original module at each of its operators."""

    def __init__(self, program: ExportedProgram, enter_path: Callable[[str], str]) -> None:
        super().__init__()
        self.program = program.module()
        self._enter_path = enter_path

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        enter_path = self._enter_path

        class Interpreter(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                stack = list(n.meta.get("nn_module_stack", {}).values())
                enter_path(stack[-1][0] if stack else "")
                return super().run_node(n)

        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        return Interpreter(self.program).run(*leaves, enable_io_processing=False)


# ------------------------------------------------------------------------------------------------------------ private


def _attributes(module: nn.Module) -> Callable[[], None]:
    """What restores them."""
    training = module.training
    if isinstance(module, torch.jit.ScriptModule):
        return lambda: setattr(module, "training", training)
    attributes = dict(module.__dict__)
    containers = [each for each in attributes.values() if type(each) in _CONTAINERS]
    contents = [copy.copy(each) if each else None for each in containers]

    def restore() -> None:
        module.__dict__.clear()
        module.__dict__.update(attributes)
        for container, content in zip(containers, contents):
            if container or content:
                container.clear()
            if content:
                container.extend(content) if isinstance(container, list | deque) else container.update(content)

    return restore
