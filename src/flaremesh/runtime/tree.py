"""Nested values of tensors, arrays and JSON's types, divided into an outline in JSON and its tensors."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flaremesh.errors import FlaremeshError

Tree: TypeAlias = Any
"""A tensor, a NumPy array, a number, a text, None, or a list, tuple, mapping or dataclass of trees."""


class TreeError(FlaremeshError):
    """A value cannot be kept, or one that was kept is not what it should be."""


def copied(tree: Tree) -> Tree:
    """The tree with copies of its tensors, arrays, mappings and lists, which nobody else writes to."""
    match tree:
        case Tensor():
            return tree.detach().clone()
        case np.ndarray():
            return tree.copy()
        case Mapping():
            return {key: copied(part) for key, part in tree.items()}
        case list() | tuple():
            return [copied(part) for part in tree]
    return tree


def divided(tree: Tree) -> tuple[Any, dict[str, Tensor]]:
    """The outline of a tree as JSON has it, and its tensors by the names that they have there.

    Tuples become lists, and dataclasses mappings.

    Raises:
        TreeError: it has something else in it.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}

    def named(tensor: Tensor) -> str:
        if id(tensor) not in names:
            names[id(tensor)] = name = str(len(names))
            tensors[name] = tensor
        return names[id(tensor)]

    def outline(part: Tree) -> Any:
        match part:
            case None | bool() | int() | float() | str():
                return part
            case Tensor():
                return {"tensor": named(part.detach() if part.requires_grad else part)}
            case np.ndarray() if part.dtype.kind in "biufc":
                array = np.ascontiguousarray(part)
                content = torch.from_numpy(array.reshape(-1).view(np.uint8))
                return {"array": named(content), "dtype": array.dtype.str, "shape": part.shape}
            case np.generic():
                return outline(np.asarray(part))
            case list() | tuple():
                return [outline(entry) for entry in part]
            case Mapping() if all(isinstance(key, str | int) for key in part):
                return {"mapping": [[key, outline(value)] for key, value in part.items()]}
            case _ if is_dataclass(part):
                return outline({field.name: getattr(part, field.name) for field in fields(part)})
        raise TreeError(
            f"a {type(part).__name__} cannot be kept: only tensors, arrays of numbers, numbers, texts, None, "
            "and lists and mappings of them can, with texts or whole numbers as keys"
        )

    return outline(tree), tensors


def joined(outline: Any, tensors: Mapping[str, Tensor]) -> Tree:
    """The tree of an outline and its tensors; whatever these say, it fails with an exception at worst."""
    match outline:
        case {"tensor": name}:
            return tensors[name]
        case {"array": name, "dtype": dtype, "shape": shape}:
            content = tensors[name].numpy()
            if np.dtype(dtype).kind not in "biufc":
                raise TreeError(f"an array of {dtype}")
            return content.view(dtype).reshape(shape)
        case {"mapping": entries}:
            return {key: joined(value, tensors) for key, value in entries}
        case list():
            return [joined(part, tensors) for part in outline]
        case None | bool() | int() | float() | str():
            return outline
    raise TreeError("an outline that is none")


def shaped(like: Any, tree: Tree, device: torch.device) -> Any:
    """A tree with the tuples and classes that ``divided`` dropped, and its tensors on a device.

    Args:
        like: a value with the same classes, and with tensors of the same shapes and dtypes.
        tree: what has been kept of another one.
        device: where the tensors belong.

    Raises:
        TreeError: they do not fit together.
    """
    match like:
        case Tensor() if isinstance(tree, Tensor) and (like.shape, like.dtype) == (tree.shape, tree.dtype):
            return tree.to(device)
        case tuple() | list() if isinstance(tree, list) and len(tree) == len(like):
            parts = [shaped(part, kept, device) for part, kept in zip(like, tree, strict=True)]
            return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
        case Mapping() if isinstance(tree, Mapping) and tree.keys() == like.keys():
            return {key: shaped(part, tree[key], device) for key, part in like.items()}
        case _ if is_dataclass(like) and not isinstance(like, type) and isinstance(tree, Mapping):
            return replace(
                like, **{name: shaped(getattr(like, name), part, device) for name, part in tree.items()}
            )
        case None:
            return tree.to(device) if isinstance(tree, Tensor) else tree
        case bool() | int() | float() | str() if isinstance(tree, bool | int | float | str):
            return tree
    raise TreeError(f"{_described(tree)} where {_described(like)} is expected")


def _described(tree: Tree) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of {str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)}"
    if isinstance(tree, list | tuple | Mapping):
        return f"a {type(tree).__name__} of {len(tree)}"
    return f"a {type(tree).__name__}"
