"""A device that is nowhere: it computes as the CPU does and, as a GPU would, refuses to mix its tensors with the CPU's.

Its tensors call themselves `meta` and hold one of the CPU. So code that makes a tensor without asking where its inputs
are fails on a machine without any accelerator, and what does not fail can be compared with the CPU to the last bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "meta"

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)
BY_ROW = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Row numbers, the second argument, may come from the CPU, and so may single numbers where all else is pointwise."""


class Elsewhere(Tensor):
    """A tensor on the other device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=NAME
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """Takes numbers from Python and gives them to it by way of the CPU: torch would not do so for `meta`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is Tensor.tolist:
            return func(args[0].cpu())
        if func is Tensor.new_tensor:
            func, given = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device, **given}
            args = args[1:]
        if func is torch.tensor:
            device, is_leaf = given.pop("device", "cpu"), given.pop("requires_grad", False)
            return func(*args, **given).to(device).requires_grad_(is_leaf)
        return func(*args, **given)


@contextmanager
def other_device() -> Iterator[str]:
    """Name the device, which is there until the context ends."""
    with Literals(), Operations():
        yield NAME


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU; its results are where its inputs are, or where it was told to put them."""
    tensors = list(_tensors((args, kwargs)))
    is_elsewhere = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if is_elsewhere and func not in COPIES:
        judged = list(_tensors((args[0], *args[2:]))) if func in BY_ROW else tensors
        least = 1 if torch.Tag.pointwise in func.tags else 0
        if any(not isinstance(one, Elsewhere) and one.ndim >= least for one in judged):
            raise RuntimeError(f"{func} got tensors of the CPU among those of another device")
    if kwargs.get("device") is not None:
        is_elsewhere = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": "cpu"}
    results = func(*_each(_held, args), **_each(_held, kwargs))
    if is_elsewhere and torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)
    if func._schema.is_mutable:
        return kwargs.get("out", args[0]) if func._schema.returns else None
    return _each(Elsewhere, results) if is_elsewhere else results


def _tensors(given: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments, at any depth."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, dict):
        yield from _tensors(tuple(given.values()))
    elif isinstance(given, list | tuple):
        for part in given:
            yield from _tensors(part)


def _each(change: Callable[[Tensor], Tensor], given: Any) -> Any:
    """Change the tensors in arguments or results; torch's own way takes several times as long."""
    if isinstance(given, Tensor):
        return change(given)
    if isinstance(given, dict):
        return {name: _each(change, part) for name, part in given.items()}
    return type(given)(_each(change, part) for part in given) if isinstance(given, list | tuple) else given


def _held(tensor: Tensor) -> Tensor:
    return tensor.held if isinstance(tensor, Elsewhere) else tensor
