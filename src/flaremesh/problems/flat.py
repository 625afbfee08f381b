"""Parameters and buffers of a module as vectors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.parameter import UninitializedParameter


class FlatParameters:
    """Trainable parameters as one vector x (d,), entries in each parameter's logical order.

    A parameter of x's dtype is a view of x, so that no step loops over layers. Others are copied: those in
    another memory format, those of another dtype, and complex ones, which are pairs of numbers in x.

    Args:
        module: its trainable parameters are taken.

    Attributes:
        parameters: the module's own.
        vector: x, of the narrowest dtype that holds all of them.

    Raises:
        ValueError: nothing to train, or parameters without a shape.
    """

    def __init__(self, module: Module):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no trainable parameters")
        if any(isinstance(parameter, UninitializedParameter) for parameter in self.parameters):
            raise ValueError("the model has lazy parameters; let a batch through it when it is built")
        self.vector = joined(self.parameters)
        parts = parts_of(self.vector, self.parameters)
        self._views, self._copies = [], []
        for own, part in zip(self.parameters, parts, strict=True):
            if own.dtype == part.dtype and not _in_format(own):
                self._views.append((own, part))
            else:
                own.data = own.data.clone()  # its memory may be shared, by a parameter or by its entries
                self._copies.append((own, part))
        self.load(self.vector)

    def load(self, x: Tensor) -> None:
        """Give the parameters the values of x (d,)."""
        if x.data_ptr() != self.vector.data_ptr():
            self.vector.copy_(x)
        for parameter, part in self._views:
            if parameter.data_ptr() != part.data_ptr():  # at first, and where the model has moved it
                parameter.data = part
        for parameter, part in self._copies:
            real(parameter.data).copy_(part)

    def gather(self) -> Tensor:
        """What has become of the parameters, (d,) in fresh memory."""
        for parameter, part in self._views:
            if parameter.data_ptr() != part.data_ptr():
                part.copy_(parameter.data)
        for parameter, part in self._copies:
            part.copy_(real(parameter.data))
        return self.vector.clone()

    def subtract(self, shift: Tensor) -> None:
        """Subtract a vector (d,) from the parameters."""
        self.load(self.gather().sub_(shift))

    def clear_gradients(self) -> None:
        """Drop the parameters' gradients, so that backward() allocates new ones."""
        for parameter in self.parameters:
            parameter.grad = None

    def take_gradient(self) -> Tensor:
        """The gradient (d,) in fresh memory, zero where none has arrived.

        Raises:
            ValueError: none has arrived at all.
        """
        gradients = [parameter.grad for parameter in self.parameters]
        if all(gradient is None for gradient in gradients):
            raise ValueError("no gradient arrives: the loss depends on none of the trainable parameters")
        self.clear_gradients()
        return torch.cat(
            [
                self.vector.new_zeros(real(parameter.data).numel())
                if gradient is None
                else real(gradient.to_dense()).reshape(-1).to(self.vector.dtype)
                for parameter, gradient in zip(self.parameters, gradients, strict=True)
            ]
        )


class FlatBuffers:
    """Persistent floating-point buffers as one vector (b,).

    A module may write to a buffer or put another tensor in its place. Buffers that are not persistent are
    caches, and stay the module's own.

    Args:
        module: its buffers are taken.

    Attributes:
        vector: of the narrowest dtype that holds all of them, or None where there are none.
    """

    def __init__(self, module: Module):
        found = list(_float_buffers(module))
        buffers = [buffer for *_, buffer in found]
        self._slots = [(owner, name, title) for owner, name, title, _ in found]
        self.vector = joined(buffers) if buffers else None
        self._parts = [] if self.vector is None else parts_of(self.vector, buffers)
        self.gather()

    def gather(self) -> None:
        """Take over what the module has made of its buffers.

        Raises:
            ValueError: one has another shape or dtype now.
        """
        for (owner, name, title), part in zip(self._slots, self._parts, strict=True):
            own = owner._buffers.get(name)
            if own is not None and own.data_ptr() == part.data_ptr() and own.dtype == part.dtype:
                continue
            if own is None or own.shape != part.shape or not own.is_floating_point():
                raise ValueError(
                    f"the buffer {title} has changed from shape {tuple(part.shape)} to "
                    f"{'nothing' if own is None else tuple(own.shape)}, and cannot be mixed; "
                    "write mix_buffers: false, or register it with persistent=False"
                )
            part.copy_(own)
            if own.dtype == part.dtype:
                owner._buffers[name] = part

    def scatter(self) -> None:
        """Give the buffers the values of the vector."""
        for (owner, name, _), part in zip(self._slots, self._parts, strict=True):
            own = owner._buffers[name]
            if own is not None and own.data_ptr() != part.data_ptr():
                owner._buffers[name] = part.to(own.dtype)


def buffers_of(module: Module) -> dict[str, Tensor]:
    """All buffers by their full names, also those that do not persist or are no floats."""
    return dict(module.named_buffers())


def set_buffers(module: Module, values: Mapping[str, Tensor]) -> None:
    """Give buffers the values of others by the same names, in their own memory where these fit.

    Raises:
        AttributeError: the module has no such part.
    """
    buffers = dict(module.named_buffers())
    for title, value in values.items():
        own = buffers.get(title)
        if own is not None and (own.shape, own.dtype) == (value.shape, value.dtype):
            own.copy_(value)
            continue
        path, _, name = title.rpartition(".")
        device = next(module.parameters()).device
        module.get_submodule(path)._buffers[name] = value.to(own.device if own is not None else device)


def _float_buffers(module: Module) -> Iterator[tuple[Module, str, str, Tensor]]:
    """Owner, name there, full name and buffer; a tensor that has several names is given once."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for name, buffer in owner._buffers.items():
            persistent = name not in owner._non_persistent_buffers_set
            if buffer is not None and persistent and buffer.is_floating_point() and id(buffer) not in seen:
                seen.add(id(buffer))
                yield owner, name, f"{path}.{name}" if path else name, buffer


def joined(tensors: Iterable[Tensor]) -> Tensor:
    """A vector (d,) of the entries of all, complex ones as two, in the narrowest dtype that holds them."""
    values = [real(tensor).reshape(-1) for tensor in tensors]
    dtype = reduce(torch.promote_types, (value.dtype for value in values))
    return torch.cat([value.to(dtype) for value in values])


def parts_of(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Views of a vector that `joined` made of such tensors, shaped like each, complex ones (..., 2)."""
    shapes = [real(tensor).shape for tensor in tensors]
    parts = torch.split(vector, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def real(tensor: Tensor) -> Tensor:
    """The tensor, of complex numbers as pairs of real ones (..., 2), without its history."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _in_format(parameter: Parameter) -> bool:
    """Whether it is in channels_last or channels_last_3d, which its owner has chosen for speed."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    chosen = formats.get(parameter.ndim)
    return (
        chosen is not None and not parameter.is_contiguous() and parameter.is_contiguous(memory_format=chosen)
    )
