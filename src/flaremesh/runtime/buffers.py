"""A model's buffers in the mixing: statistics are averaged, constants are left alone."""

from torch import Tensor

from flaremesh.topology.neighborhood import Neighborhood


class MixedBuffers:
    """What training changes of the buffers is mixed: statistics do. Constants, such as masks, stay.

    Args:
        buffers: of the problem, (b,), which computing a gradient writes to.
    """

    def __init__(self, buffers: Tensor):
        self._buffers = buffers
        self._first = buffers.clone()
        self._sent = self._first

    def message(self) -> Tensor:
        """What is sent of them now; a copy, because they change where states never do."""
        self._sent = self._buffers.clone()
        return self._sent

    def mix(self, mixed: Tensor, hood: Neighborhood) -> None:
        """Take in the mixture of the last message with the neighbours'.

        Averaged with rows that sum to one even where only W's columns do, and as a difference, because a
        gradient computed since the message was sent has updated them.
        """
        row_sum = hood.self_weight + sum(hood.in_weights.values())
        change = mixed / row_sum - self._sent
        constant = (self._buffers == self._first) | ~change.isfinite()
        self._buffers.add_(change.masked_fill_(constant, 0.0))
