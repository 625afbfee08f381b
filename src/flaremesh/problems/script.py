"""A script that is written for NVFlare's Client API, as a problem."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import Module

from flaremesh.problems.flat import FlatBuffers, FlatParameters, buffers_of, parts_of, set_buffers
from flaremesh.problems.protocol import LogEntry, SiteContext
from flaremesh.problems.script_messages import CONTROL, LOGGED, PARAMS, Message
from flaremesh.problems.script_run import ScriptError, ScriptRun, command_of
from flaremesh.topology.schema import ScriptReference

_events = logging.getLogger(__name__)

_MOST_LOGGED: Final = 200_000  # numbers, because a site keeps them all to the end of its run
_LOSSES = ("loss", "train_loss", "training_loss")  # metrics that are a training loss


class ScriptProblem:
    """Has a script train its model: x is the concatenation of the model's trainable parameters.

    For each exchange the script receives the model, trains as it likes, and sends it back, or what it has
    changed. It runs in a process of its own, which starts when it is asked first, and keeps whatever state it
    has there from one exchange to the next.

    A script may have more ranks than one; its run speaks with the first.

    Args:
        site: the site to which the problem belongs.
        model: builds the model, which knows only where all sites begin, and what its parameters are called.
        said: the script as the topology file describes it.
        folder: in which its file lies.
    """

    trains = True

    def __init__(self, site: SiteContext, model: Callable[..., Module], said: ScriptReference, folder: Path):
        self._module = model(**said.model_args)
        if not isinstance(self._module, Module):
            raise TypeError(f"{said.model} is no torch.nn.Module")
        self._title = str(said.script)
        self._site, self._said, self._folder = site, said, folder
        self._parameters = FlatParameters(self._module)
        self._names = [name for name, own in self._module.named_parameters() if own.requires_grad]
        self._buffers = FlatBuffers(self._module)
        self._run: ScriptRun | None = None
        self._round = 0
        self._metrics: dict[str, float] = {}
        self._log: list[LogEntry] = []
        self._logged = 0
        self._control: Tensor | None = None  # c of the site, as NVFlare's SCAFFOLD has it

    def initial(self) -> Tensor:
        """The model's parameters as they are built with the run's seed, (d,)."""
        return self._parameters.vector.clone()

    def train(
        self, x: Tensor, steps: int, stepsize: float, shift: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """Where the script leads from x (d,), and the training loss among its metrics, if it has one.

        How many steps it takes, and with which learning rate, is the script's affair: ``FLModel.meta`` tells
        it of ``local_steps`` and ``stepsize``. A ``shift`` reaches it as NVFlare's SCAFFOLD corrects steps,
        Z ← Z − lr(c_global − c_local), with c_global = shift/stepsize + c_local.

        Raises:
            ScriptError: the script fails, does not answer in time or sends another model, or it takes no
                notice of a correction.
        """
        tensors = {}
        if shift is not None:
            if self._control is None:
                self._control = torch.zeros_like(x)
            tensors[CONTROL] = self._named(shift / stepsize + self._control)
        answer = self._ask("train", x, {"local_steps": steps, "stepsize": stepsize}, tensors)
        self._round += 1
        self._take(answer)
        if self._control is not None:
            self._control += self._control_change(answer)
        return self._loss(), self._parameters.gather()

    def loss_and_gradient(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The training loss, and x − z (d,): a gradient step of size 1 does what the script did."""
        loss, z = self.train(x, 1, 1.0, None)
        return loss, x - z

    def evaluate(self, x: Tensor) -> Mapping[str, float]:
        """The script's metrics: those that it sent with its last model, or of a task to evaluate x (d,)."""
        if self._said.evaluates:
            self._metrics = _metrics(self._ask("validate", x, {}, {}))
        return self._metrics

    def take_log(self) -> Sequence[LogEntry]:
        """What the script has logged with NVFlare's writers since the last call."""
        log, self._log = self._log, []
        return log

    def ranks(self) -> int | None:
        """How many ranks of the script run now; None before it is asked first."""
        return None if self._run is None else self._run.ranks()

    def buffers(self) -> Tensor | None:
        """The persistent floating-point buffers as one flat view, or None."""
        return self._buffers.vector

    def state(self, x: Tensor) -> Mapping[str, Any]:
        """The model's state_dict at x."""
        self._load(x)
        state: Mapping[str, Any] = self._module.state_dict()
        return state

    def snapshot(self) -> dict[str, Any]:
        """How many models the script has sent, and what else came with them; not what it keeps itself."""
        return {
            "round": self._round,
            "metrics": self._metrics,
            "buffers": buffers_of(self._module),
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on at that round, with a script that begins anew, and has no correction yet."""
        self._round = int(snapshot["round"])
        self._metrics = dict(snapshot["metrics"])
        set_buffers(self._module, snapshot["buffers"])

    def _ask(
        self, kind: str, x: Tensor, meta: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> Message:
        if self._run is None:
            words = [str(word) for word in self._said.args]
            command = command_of(self._said.launch, self._folder / self._said.script, words)
            self._run = ScriptRun(self._title, self._site.name, command, self._said.timeout)
        self._load(x)
        said = {"round": self._round, "rounds": self._site.iterations or None, "meta": meta}
        answer = self._run.ask(Message(kind, said, {PARAMS: self._state(), **tensors}))
        self._take_in_log(answer.said.get(LOGGED, []))
        return answer

    def _take_in_log(self, logged: Sequence[Sequence[Any]]) -> None:
        if not logged or self._logged > _MOST_LOGGED:
            return
        self._log += [LogEntry(step, metrics) for step, metrics in logged]
        self._logged += sum(len(metrics) for _, metrics in logged)
        if self._logged > _MOST_LOGGED:
            _events.warning(
                "%s: %s has logged %d numbers; no more of them are kept",
                self._site.name,
                self._title,
                self._logged,
            )

    def _state(self) -> dict[str, Tensor]:
        state = self._module.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def _load(self, x: Tensor) -> None:
        self._parameters.load(x)
        self._buffers.scatter()

    @torch.no_grad()
    def _take(self, answer: Message) -> None:
        """Take over what has become of the model."""
        self._metrics = _metrics(answer)
        own, sent = self._state(), answer.tensors.get(PARAMS, {})
        if missing := [name for name in self._names if name not in sent]:
            raise ScriptError(
                f"{self._title} sent a model without {_few(missing)}, which {self._said.model} has"
            )
        if unknown := [name for name in sent if name not in own]:
            raise ScriptError(f"{self._title} sent {_few(unknown)}, which {self._said.model} does not have")
        for name, value in sent.items():
            if value.shape != own[name].shape:
                raise ScriptError(
                    f"{self._title} sent {name} of shape {tuple(value.shape)}; in {self._said.model} it is "
                    f"{tuple(own[name].shape)}: name the class of the model that it trains"
                )
            if answer.said["difference"]:
                own[name].add_(value)
            else:
                own[name].copy_(value)
        self._buffers.gather()

    def _control_change(self, answer: Message) -> Tensor:
        changed = answer.tensors.get(CONTROL, {})
        if changed.keys() != set(self._names):
            raise ScriptError(
                f"{self._title} sends no SCAFFOLD_CTRL_DIFF, and so takes no notice of how the algorithm "
                "corrects its steps: let it use NVFlare's PTScaffoldHelper, or write algorithm: local-dgd"
            )
        joined = torch.cat([changed[name].reshape(-1) for name in self._names])
        return joined.to(self._parameters.vector.dtype)

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, parts_of(vector, self._parameters.parameters), strict=True))

    def _loss(self) -> Tensor | None:
        told = next((self._metrics[name] for name in _LOSSES if name in self._metrics), None)
        return None if told is None else torch.tensor(told, dtype=torch.float64)


def _metrics(answer: Message) -> dict[str, float]:
    return {str(name): float(value) for name, value in answer.said["metrics"].items()}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
