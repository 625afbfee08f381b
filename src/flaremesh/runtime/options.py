"""How the sites of a run go about it, whatever the algorithm."""

from dataclasses import dataclass, field

from flaremesh.topology.schema import Mixing, Privacy, Run, Until, Wire


@dataclass(frozen=True)
class RunOptions:
    """How a site runs, apart from the algorithm.

    Attributes:
        iterations: number of iterations.
        peer_timeout: seconds to wait for a neighbour.
        evaluate_every: iterations between evaluations, None for 20 evaluations a run; the first and the last
            iterate are always evaluated.
        stop_on_non_finite: raise NonFiniteValue where a loss, a gradient or a message is not finite.
        mix_buffers: mix the problem's buffers too.
        wire: how vectors travel; may be given as a word or a mapping, as in a topology file.
        mixing: what becomes of the neighbours' vectors; may be given as a mapping.
        checkpoint_every: iterations between checkpoints, None for no such rule.
        asynchronous: mix what has come, and wait for nobody.
        until: what ends the run earlier; None for nothing. May be given as a mapping, as in a topology file.
        privacy: what keeps the site's data from others; may be given as a mapping.
    """

    iterations: int
    peer_timeout: float = 60.0
    evaluate_every: int | None = None
    stop_on_non_finite: bool = True
    mix_buffers: bool = True
    wire: Wire = field(default_factory=Wire)
    mixing: Mixing = field(default_factory=Mixing)
    checkpoint_every: int | None = None
    asynchronous: bool = False
    until: Until | None = None
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", Wire.of(self.wire))
        if self.until is not None:
            object.__setattr__(self, "until", Until.model_validate(self.until))
        object.__setattr__(self, "mixing", Mixing.model_validate(self.mixing))
        object.__setattr__(self, "privacy", Privacy.model_validate(self.privacy))

    @classmethod
    def of(cls, run: Run) -> "RunOptions":
        """The options that a topology file gives."""
        return cls(
            run.iterations,
            run.peer_timeout,
            run.evaluate_every,
            run.stop_on_non_finite,
            run.mix_buffers,
            run.wire,
            run.mixing,
            asynchronous=run.asynchronous,
            until=run.until,
            privacy=run.privacy,
        )

    def evaluates(self, iteration: int) -> bool:
        """Whether the estimate is evaluated after ``iteration`` iterations."""
        every = self.evaluate_every or max(1, self.iterations // 20)
        return iteration % every == 0 or iteration == self.iterations
