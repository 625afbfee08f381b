"""A model's buffers in the mixing: statistics are averaged, constants are left alone."""

from collections.abc import Mapping

from torch import Tensor

from flaremesh.topology.neighborhood import Neighborhood


class MixedBuffers:
    """Mixes those entries of the buffers that training changes, such as statistics; constants stay.

    Args:
        buffers: of the problem, (b,), which computing a gradient writes to.
    """

    def __init__(self, buffers: Tensor):
        self._buffers = buffers
        self._first = buffers.clone()
        self._sent = self._first

    def message(self) -> Tensor:
        """What is sent of them, (b,); a copy, because training writes to the buffers while it travels."""
        self._sent = self._buffers.clone()
        return self._sent

    def mix(self, mixed: Tensor, hood: Neighborhood) -> None:
        """Take in the mixture (b,) of the last message with the neighbours'.

        The mixture is divided by the sum of the row's weights, which is not one where only the columns of W
        sum to one. Its difference to the last message is added, because a gradient that was computed since
        has updated the buffers.
        """
        row_sum = hood.self_weight + sum(hood.in_weights.values())
        change = mixed / row_sum - self._sent
        constant = (self._buffers == self._first) | ~change.isfinite()
        self._buffers.add_(change.masked_fill_(constant, 0.0))

    def snapshot(self) -> dict[str, Tensor]:
        """What is needed to go on after a whole iteration: the buffers then and at first, (b,) each."""
        return {"now": self._buffers.clone(), "first": self._first}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go on from there.

        Raises:
            RuntimeError: the buffers were of another length.
        """
        self._buffers.copy_(snapshot["now"])
        self._first = snapshot["first"].to(self._buffers).view_as(self._buffers)
