"""The server's part of a run: configure, start, watch, and tell the outcome."""

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.controller_spec import Task as ControllerTask
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flaremesh import atomic
from flaremesh.errors import FlaremeshError
from flaremesh.links.carrier import Address
from flaremesh.metrics.names import RunState
from flaremesh.p2p.attempt import CurrentAttempt, resumable_store
from flaremesh.p2p.controllers.checkpoint_clock import CheckpointClock
from flaremesh.p2p.controllers.failures import Failures
from flaremesh.p2p.controllers.parts import network_of_those, parts_of
from flaremesh.p2p.controllers.replies import Reply, configured
from flaremesh.p2p.extra import checkpoint_interval_of, planned_iterations, positive, privacy_of, until_of
from flaremesh.p2p.fed_job import prepare
from flaremesh.p2p.nvflare.cells import CHECKPOINT, PROGRESS, RunCell
from flaremesh.p2p.nvflare.jobs import SERVER_PARAMETERS
from flaremesh.p2p.nvflare.server import answer_admin
from flaremesh.p2p.outcome import RESULT, RUN_FOLDER, RUN_RESULT, Graph, Outcome, RunResult
from flaremesh.p2p.progress import RUN_PROGRESS, RunProgress
from flaremesh.p2p.roster import Roster
from flaremesh.p2p.tasks import (
    ADDRESS,
    ADDRESSES,
    BY_VALUE,
    JOINING,
    PREPARE,
    PROGRESS_COMMAND,
    REPAIR,
    RESUME,
    START_TIMEOUT,
    Task,
)
from flaremesh.p2p.types import Config
from flaremesh.record import RecordError
from flaremesh.runtime.until import reason
from flaremesh.topology.schema import Privacy, Until

_POLL_SECONDS = 0.1
_FETCH_SECONDS = 1.0  # for the admin to fetch the result at once: NVFlare takes some seconds to end the job
_LAST_WORDS_SECONDS = 1.0  # an aborted site says so at most this long after another; a killed one never


class SiteFailure(Exception):
    """A site ended the run."""


class DistOptController(Controller):
    """Sends each site its part of the network, starts all of them, and ends the run at the first failure.

    Args:
        config: network and ``extra``, or the same as a dict.
        task_check_period: seconds between NVFlare's looks at its tasks.
        start_timeout: seconds until all sites are ready for the first iteration: up, linked and prepared;
            ``extra`` may override it.
        labels: fields of the result that the controller cannot know: name, topology, predicted_contraction.
    """

    def __init__(
        self,
        config: Config | dict[str, Any],
        task_check_period: float = 0.2,
        *,
        start_timeout: float = 60.0,
        labels: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(task_check_period)
        # FedJob writes constructor arguments as JSON and finds them under their names, or with an underscore
        self._config = Config.of(config).__dict__
        self.start_timeout = start_timeout
        self.labels = labels or {}
        self._state = RunState.WAITING
        self._changed = threading.Event()
        self._result: dict[str, Any] | None = None
        self._fetched = threading.Event()
        self._addresses: dict[str, Address | None] = {}
        self._by_value = False
        self._checkpoints: dict[str, tuple[int, ...]] = {}
        self._attempt = CurrentAttempt.begin(None, "", (), {})
        self._linked: set[str] = set()
        self._prepared: set[str] = set()
        self._strangers: set[str] = set()
        self._matrices: list[list[list[float]]] = []
        self._joining: tuple[str, ...] = ()
        self._until: Until | None = None
        self._privacy = Privacy()
        self._written: int | None = None  # the newest checkpoint when somebody was back

    @cached_property
    def config(self) -> Config:
        """The network and ``extra``."""
        return Config.of(self._config)

    @cached_property
    def _failures(self) -> Failures:
        return Failures(len(self.config.network.nodes))

    @cached_property
    def _roster(self) -> Roster:
        return Roster([node.id for node in self.config.network.nodes], planned_iterations(self.config.extra))

    @property
    def _sites(self) -> tuple[str, ...]:
        """The sites that take part: all, unless an attempt has begun with fewer."""
        return self._attempt.sites or tuple(node.id for node in self.config.network.nodes)

    def add_to_fed_job(self, job: Any, ctx: Any, **kwargs: Any) -> None:
        """Called by FedJob."""
        prepare(job, self)
        job.add_params(SERVER_PARAMETERS, ctx)
        super().add_to_fed_job(job, ctx, **kwargs)

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Listen for the sites' progress and for the admin's question about it."""
        self._cell = RunCell(fl_ctx, self._roster.sites)
        self._cell.listen(PROGRESS, self._hear)
        answer_admin(fl_ctx, PROGRESS_COMMAND, self._report)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is left to stop."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The whole run; a failure becomes a failed job with the reason in result.json and in the log."""
        started = time.monotonic()
        workspace, job = fl_ctx.get_workspace(), fl_ctx.get_job_id()
        try:
            store = resumable_store(Path(workspace.get_root_dir()), Path(workspace.get_app_dir(job)))
            if store and not store.is_dir():  # in NVFlare's simulator, which begins nothing again
                store = None
            self._attempt = CurrentAttempt.begin(store, job, self._roster.sites, self.config.extra)
            self._until = until_of(self.config.extra)
            self._privacy = privacy_of(self.config.extra)
            self._configure(abort_signal, fl_ctx)
            self._run(abort_signal, fl_ctx)
        except SiteFailure:
            pass
        except (ValueError, FlaremeshError) as error:
            self._fail(str(error), is_loss=bool(self._attempt.joining))  # it may do without who joins
        if abort_signal.triggered and not self._failures.cause and (silent := self._silent_sites()):
            self._fail(silent, is_loss=True)
        cause = self._failures.cause
        outcome: Outcome = (
            RunState.FAILED if cause else RunState.ABORTED if abort_signal.triggered else RunState.FINISHED
        )
        self._state = RunState(outcome)
        lost = self._attempt.end(self._state, cause.reason if cause and cause.is_loss else None)
        if self._joining:
            self._state = RunState.WAITING  # nothing has failed
        self._write(outcome, fl_ctx, time.monotonic() - started, lost)
        if cause and not abort_signal.triggered:
            self.system_panic(cause.reason, fl_ctx)
        self._fetched.wait(_FETCH_SECONDS)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A reply that came after its task ended changes nothing."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """A site whose heartbeat stopped fails the run."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.CLIENT_DISCONNECTED:
            site = fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)
            self._fail(f"{site}: lost its connection to the server", is_loss=True)

    def _configure(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        self._state = RunState.CONFIGURING
        network = network_of_those(self._sites, self.config)
        self._matrices = network.matrices()
        parts = parts_of(network, self.config, self.labels, self._attempt.run_id)
        for site, part in parts.items():
            self.send(self._task(Task.CONFIG, asdict(part)), fl_ctx, targets=[site])
        timeout = self._start_timeout
        begun = time.monotonic()
        deadline = begun + timeout
        late = f"within {timeout:g} s of the start"
        if not self._await_sites(self._addresses, deadline, f"not ready {late}", abort_signal):
            return
        if self._strangers and self._strangers != set(parts):
            self._fail(
                f"{', '.join(sorted(self._strangers))}: its executor answers the config task without the "
                "address of its link, which its neighbours need; let execute return what super().execute does"
            )
        up = time.monotonic() - begun
        for site in set(parts) - self._linked:
            hoods = parts[site].schedule
            dialled = {peer for hood in hoods for peer in hood.out}
            if self._addresses[site] is None:  # nobody can dial it, so it dials whoever sends to it
                dialled |= {peer for hood in hoods for peer in hood.in_weights}
            known = {peer: self._addresses[peer] for peer in sorted(dialled)}
            addresses = {peer: address for peer, address in known.items() if address}
            step = {ADDRESSES: addresses, START_TIMEOUT: timeout, BY_VALUE: self._by_value}
            self.send(self._task(Task.CONFIG, step), fl_ctx, targets=[site])
        if not self._await_sites(self._linked, deadline, f"not linked {late}", abort_signal):
            return
        linked = time.monotonic() - begun
        begin_at = self._attempt.begin_at(self._checkpoints)
        step = {
            PREPARE: True,
            RESUME: begin_at,
            JOINING: self._attempt.joining,
            REPAIR: self._attempt.repairs,
        }
        for site in set(parts) - self._prepared:
            self.send(self._task(Task.CONFIG, step), fl_ctx, targets=[site])
        spent = f"all sites were up after {up:.0f} s and linked after {linked:.0f} s"
        doing = "it is still loading data, building its problem or computing its first gradient"
        remedy = "raise run.start_timeout, in a job's config extra['start_timeout']"
        otherwise = f"not prepared {late} ({spent}): {doing}; {remedy}"
        self._await_sites(self._prepared, deadline, otherwise, abort_signal)

    @property
    def _start_timeout(self) -> float:
        return positive(self.config.extra, START_TIMEOUT, self.start_timeout)

    def _await_sites(
        self, ready: Collection[str], deadline: float, otherwise: str, abort_signal: Signal
    ) -> bool:
        """Wait until all sites are ready, and fail naming the others; False if the run was aborted."""
        while missing := set(self._sites).difference(ready):
            if time.monotonic() > deadline:
                # a site that waits for a late one itself is not to blame, if that is true
                waiting = {
                    site for site in missing if self._roster.latest(site).waits_for in missing - {site}
                }
                late = missing - waiting or missing
                others = ", ".join(sorted(missing - late))
                excused = f" (by their own word these wait for others: {others})" if others else ""
                # who was there when the run began is lost, and who never was has failed
                self._fail(
                    f"{', '.join(sorted(late))}: {otherwise}{excused}", is_loss=self._attempt.is_further
                )
            if self._wait(abort_signal):
                return False
        return True

    def _run(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        if abort_signal.triggered:
            return
        self._attempt.prepared()
        self._state = RunState.RUNNING
        sites = self._sites
        task = self._task(Task.RUN_ALGORITHM, self.config.extra)
        self.broadcast(task, fl_ctx, targets=[*sites], min_responses=len(sites))
        clock = CheckpointClock(
            checkpoint_interval_of(self.config.extra).seconds if self._attempt.goes_on else None
        )
        while set(sites) - self._roster.ended:
            if self._wait(abort_signal):
                return
            reached = [self._roster.latest(site).iteration for site in sites]
            if cuts := clock.due(min(reached), max(reached)):
                for site in sites:
                    self._cell.post(site, CHECKPOINT, b"%d %d" % cuts)
            self._let_join()

    def _let_join(self) -> None:
        """End the attempt once sites are back, and all others have written a checkpoint since.

        It is not lost: the run goes on in another one, with who is back.
        """
        back, written = self._attempt.back, [self._roster.latest(site).checkpoint for site in self._sites]
        if not back:
            self._written = None
        elif self._written is None:
            self._written = max(written)
        elif min(written) > self._written:
            self._joining = back
            self._fail(f"{', '.join(back)} can take part again", is_loss=True)

    def _task(self, name: Task, data: dict[str, Any]) -> ControllerTask:
        shareable = DXO(data_kind=DataKind.APP_DEFINED, data=data).to_shareable()
        return ControllerTask(name=name.value, data=shareable, result_received_cb=self._take_result)

    def _take_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        site = client_task.client.name
        try:
            reply = Reply.of(site, client_task.result, planned_iterations(self.config.extra))
            if reply.failure is not None:
                is_loss = reply.lost or bool(self._attempt.joining)
                self._fail(f"{site}: {reply.failure}", reply.iteration, is_loss=is_loss)
            elif client_task.task.name == Task.CONFIG and not reply.stopped:
                self._take_step(site, reply.data)
            elif not reply.stopped:
                self._roster.end(site, reply.data)
        except RecordError as error:
            self._fail(str(error))
        client_task.result = None
        self._changed.set()

    def _take_step(self, site: str, reply: Mapping[str, Any]) -> None:
        if site in self._linked:
            self._prepared.add(site)
        elif site in self._addresses:
            self._linked.add(site)
        else:
            told = configured(site, reply, self.config.links.get(site))
            self._addresses[site] = told.address
            self._by_value |= told.by_value
            self._checkpoints[site] = told.checkpoints
            if ADDRESS not in reply:
                # not a flaremesh executor: it knows one config task, and links and prepares by itself
                self._strangers.add(site)
                self._linked.add(site)
                self._prepared.add(site)

    def _fail(self, reason: str, iteration: int | None = None, *, is_loss: bool = False) -> None:
        """As Failures.add."""
        self._failures.add(reason, iteration, is_loss=is_loss)
        self._changed.set()

    def _wait(self, abort_signal: Signal) -> bool:
        """Wait a moment for news; returns whether the run was aborted, or raises SiteFailure."""
        self._changed.wait(_POLL_SECONDS)
        self._changed.clear()
        if cause := self._failures.settled:
            raise SiteFailure(cause.reason)
        return bool(abort_signal.triggered)

    def _silent_sites(self) -> str | None:
        """Which job process died: NVFlare aborts the run without saying it, but all other sites report."""
        sites = set(self._sites)

        def not_stopped() -> set[str]:
            return {site for site in sites - self._roster.ended if not self._roster.latest(site).stopped}

        last_word, silent = time.monotonic(), not_stopped()
        while silent and time.monotonic() < last_word + _LAST_WORDS_SECONDS:
            time.sleep(_POLL_SECONDS)
            if (still := not_stopped()) != silent:
                last_word, silent = time.monotonic(), still
        if not silent or silent == sites:
            return None
        return f"{', '.join(sorted(silent))}: the job process ended without a word; killed, or out of memory"

    def _hear(self, site: str, data: Any) -> None:
        if (panic := self._roster.hear(site, data)) is not None:
            self._fail(f"{site}: {panic}")

    def _report(self) -> dict[str, Any]:
        progress = RUN_PROGRESS.data(
            RunProgress(self._state, dict(self._roster.progress), missing=self._attempt.missing)
        )
        if self._result is not None:
            progress["result"] = self._result
            self._fetched.set()
        return progress

    def _ended(self, outcome: Outcome, sites: Collection[str]) -> str | None:
        """Why the run ended before its last iteration, if all sites say the same of it."""
        results = [self._roster.result(site) for site in sites]
        said = {(result.ending, result.iterations) for result in results}
        if outcome != RunState.FINISHED or len(said) != 1:
            return None
        ((ending, iteration),) = said
        return reason(self._until, ending, iteration, self._privacy)

    def _write(self, outcome: Outcome, fl_ctx: FLContext, seconds: float, lost: bool) -> None:
        sites = [node.id for node in self.config.network.nodes if node.id in self._sites]
        result = RunResult(
            run_id=fl_ctx.get_job_id(),
            outcome=outcome,
            name=self.labels.get("name", ""),
            reason=self._failures.cause.reason if self._failures.cause else None,
            ended=self._ended(outcome, sites),
            lost=lost,
            algorithm=self.labels.get("algorithm") or self._roster.algorithm,
            topology=self.labels.get("topology"),
            iterations=planned_iterations(self.config.extra),
            seconds=seconds,
            predicted_contraction=self.labels.get("predicted_contraction"),
            sites={site: self._roster.result(site) for site in sites},
            graph=Graph(sites, self._matrices),
            members=self._attempt.members,
            joining=self._joining,
        )
        folder = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())) / RUN_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(folder / RESULT, RUN_RESULT.json(result, indent=1), durable=True)
        self._result = RUN_RESULT.data(result)
