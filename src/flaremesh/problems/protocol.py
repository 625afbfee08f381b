"""What a problem is: the user's model, loss and data at one site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from torch import Generator, Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.problems.data_folder import data_folder


@dataclass(frozen=True)
class SiteContext:
    """What a problem knows of its site; the first argument of its constructor.

    Attributes:
        name: the site's name.
        index: its position in the topology file, 0 <= index < sites.
        sites: number of sites in the mesh.
        seed: the run's seed, equal at all sites: makes the same initial point everywhere.
        data_dir: the site's own data, from FLAREMESH_DATA_DIR in the site's environment; None without it.
        iterations: of the run; 0 where there is none.
    """

    name: str
    index: int
    sites: int
    seed: int
    data_dir: Path | None = None
    iterations: int = 0

    @classmethod
    def here(cls, name: str, index: int, sites: int, seed: int, iterations: int = 0) -> Self:
        """The context of a site in this process, whose environment says where its data is."""
        return cls(name, index, sites, seed, data_folder(), iterations)

    @property
    def own_seed(self) -> int:
        """A seed of this site's own, below 2^32, reproducible from the run's seed."""
        (seed,) = np.random.SeedSequence((self.seed % 2**64, self.index)).generate_state(1)
        return int(seed)

    def generator(self) -> Generator:
        """Random numbers of this site's own, reproducible from the run's seed."""
        return Generator().manual_seed(self.own_seed)


class ProblemError(FlaremeshError):
    """A problem cannot be built, or it failed.

    Args:
        what: what failed, naming the class or the site.
        cause: the exception; its type is left out where the text is a sentence of its own.
    """

    def __init__(self, what: str, cause: Exception | None = None):
        if isinstance(cause, ValueError | ModuleNotFoundError | FlaremeshError):
            what = f"{what}: {cause}"
        elif cause is not None:
            what = f"{what}: {type(cause).__name__}: {cause}"
        super().__init__(what)


class Problem(Protocol):
    """One site's objective over a flat vector.

    A class of a user is built as ``Class(site, **args)`` with ``args`` from the topology file. The run keeps
    and sends vectors without copying them: a problem must write neither to x nor to a gradient it returned.

    While problems are built, the global generators of torch, NumPy and Python hold the run's seed, so that
    all sites make the same model; afterwards they hold a seed of the site's own. So a run can be repeated.
    What shall differ between sites while they are built is drawn from ``site.generator()``.

    A problem that is somewhere, say in its data, has the methods of Resumable too.
    """

    def initial(self) -> Tensor:
        """The initial point x0 (d,); the same at every site unless the problem wants otherwise."""

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Training loss (a 0-d tensor) and its stochastic gradient at x (d,), on the next mini-batch.

        One that has the methods of Trains may give None for the loss, if it does not know it.
        The gradient (d,) is in fresh memory, which the next call does not use again.
        """

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        """Metrics at x on held-out data; the names ``loss`` and ``accuracy`` are shown everywhere."""

    def buffers(self) -> Tensor | None:
        """A flat view of the model's floating-point buffers (BatchNorm statistics), or None.

        The run writes the neighbours' mix back into this tensor.
        """

    def state(self, x: Tensor) -> Mapping[str, Tensor]:
        """The model at x as named tensors, as it is saved at the end of the run."""


@runtime_checkable
class Trains(Protocol):
    """What a problem adds to Problem if it can take local steps by itself, with an optimiser of its own.

    Algorithms with local steps, such as ``k-gt``, ask for these steps instead of gradients.

    Attributes:
        trains: whether it does.
    """

    trains: bool

    def train(
        self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Take ``steps`` steps from x (d,), with ``stepsize`` as learning rate.

        Args:
            x: where to begin.
            steps: so many.
            stepsize: the same at each call.
            shift: (d,), to be subtracted from the parameters after each step, or as much of it as a schedule
                has left of the learning rate; None for none. With it an algorithm corrects that sites have
                different data.

        Returns:
            Training loss of the last step (a 0-d tensor; None where the problem does not know it), and where
            it led, z (d,), in fresh memory.
        """


class LogEntry(NamedTuple):
    """What training has logged at one step.

    Attributes:
        step: of its own counting; None takes the run's iteration.
        metrics: by name.
    """

    step: int | None
    metrics: Mapping[str, float]


@runtime_checkable
class Logs(Protocol):
    """What a problem adds to Problem if its training logs metrics of its own, for the site's history."""

    def take_log(self) -> Sequence[LogEntry]:
        """What it has logged since the last call."""


@runtime_checkable
class ClipsExamples(Protocol):
    """What a problem adds to Problem if it knows the gradient of each of its examples.

    Runs with ``privacy: {examples: N}`` ask for these instead of its gradient.

    Attributes:
        clips_examples: whether it does.
    """

    clips_examples: bool

    def clipped_gradient(self, x: Tensor, clip: float, least: int) -> Tensor:
        """Gradient (d,) at x on the next mini-batch, in fresh memory, with a bounded part for each example.

        It is the sum of the examples' gradients, each scaled down to the 2-norm ``clip``, divided by their
        number or by ``least``, whichever is more. No example is in a batch twice.
        """


@runtime_checkable
class Resumable(Protocol):
    """What a problem adds to Problem if its next gradient depends on more than x: checkpoints keep it.

    A run that goes on from a checkpoint builds the problem anew, without asking it for a gradient, and then
    restores it; from there on it must give what the undisturbed one would have given. The run itself keeps x,
    the states of the global generators of torch, NumPy and Python, and the buffers that it mixes. A problem
    without these methods has nothing else to keep. ``flaremesh simulate --check-resume`` tells.
    """

    def snapshot(self) -> Mapping[str, Any]:
        """Where the problem is: in its data, in generators of its own, in what it has learnt besides x.

        Tensors, NumPy arrays, numbers, texts, None, and lists and mappings of them, whose keys are texts or
        whole numbers. They are copied at once, so that the problem may go on writing to them.
        """

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go there; tuples have become lists, and tensors are on the CPU."""
