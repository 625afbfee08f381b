"""The process of a script: ``python -m flaremesh.p2p.nvflare.script_process SCRIPT [WORD...]``.

It puts NVFlare's own Client API in place, for which the script is written, and becomes the script: what that
receives comes from its run, and what it sends goes there. Of several ranks the first one speaks with the run,
and the others receive nothing, as in NVFlare's external processes.
"""

import ctypes
import logging
import os
import runpy
import select
import signal
import sys
import traceback
from multiprocessing.connection import Client, Connection
from operator import index
from pathlib import Path
from threading import Thread
from typing import Any

from nvflare.apis.analytix import AnalyticsDataType, TrackConst
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AlgorithmConstants, AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.api_spec import CLIENT_API_KEY
from nvflare.client.config import ConfigKey, ExchangeFormat, TransferType
from nvflare.client.in_process.api import TOPIC_LOCAL_RESULT, InProcessClientAPI
from nvflare.fuel.data_event.data_bus import DataBus
from torch import as_tensor
from typing_extensions import override

from flaremesh.metrics.sink import MOST_METRICS
from flaremesh.problems.script_messages import (
    CHANNEL_VARIABLE,
    CONTROL,
    LOGGED,
    MOST_LOGGED_STEPS,
    PARAMS,
    RANK,
    SITE_VARIABLE,
    Message,
)
from flaremesh.record import MOST_CHARACTERS, MOST_COUNT

_log = logging.getLogger(__name__)

_TASKS = {"train": AppConstants.TASK_TRAIN, "validate": AppConstants.TASK_VALIDATION}
_METRICS = frozenset(
    {
        AnalyticsDataType.SCALAR,
        AnalyticsDataType.SCALARS,
        AnalyticsDataType.METRIC,
        AnalyticsDataType.METRICS,
    }
)
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> None:
    """Put the API in place, and run the script."""
    script, *arguments = sys.argv[1:]
    rank = os.environ.get("RANK", "0")
    Path(os.environ[CHANNEL_VARIABLE]).with_name(RANK.format(rank)).write_text(str(os.getpid()))
    if rank == "0":
        connection = Client(os.environ[CHANNEL_VARIABLE], "AF_UNIX")
        Thread(target=_end_with, args=(connection,), name="run-watch", daemon=True).start()
        api: InProcessClientAPI = _Api(connection)
    else:
        api = _Passive(_task_metadata())
    if (
        "TORCHELASTIC_RUN_ID" in os.environ
    ):  # each rank is in a group of its own, and its launcher may be killed
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    DataBus().put_data(CLIENT_API_KEY, api)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:  # noqa: BLE001  # scripts raise anything
        if isinstance(api, _Api):
            api.fail(f"{type(error).__name__}: {error}")
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != script:
            trace = trace.tb_next
        traceback.print_exception(error.with_traceback(trace))  # as Python itself tells of a script
        sys.exit(1)


class _Api(InProcessClientAPI):
    """NVFlare's API, which gets each task from the run when the script asks for it, and not before."""

    fl_model: FLModel | None
    stop: bool

    def __init__(self, connection: Connection):
        super().__init__(_task_metadata())
        self._connection = connection
        self._to_answer = False
        self._sent: FLModel | None = None
        self._log = _Log()
        self.data_bus.subscribe([TOPIC_LOCAL_RESULT], self._take)

    @override
    def init(self, rank: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().init(rank, config)
        Message("ready").send(self._connection)

    @override
    def receive(self, timeout: float | None = None) -> FLModel | None:
        self._fetch(timeout)
        return super().receive(0)

    @override
    def is_running(self) -> bool:
        self._fetch(None)
        return bool(super().is_running())

    @override
    def send(self, model: FLModel, clear_cache: bool = True) -> None:
        super().send(model, clear_cache)
        if not self._to_answer:
            _log.warning("a second model for the same task is not sent")
        elif self._sent is not None:
            _answer(self._sent, self._log.take()).send(self._connection)
        self._to_answer, self._sent = False, None

    @override
    def log(self, key: str, value: Any, data_type: AnalyticsDataType, **kwargs: Any) -> None:
        """Keep a metric until the next model is sent; training does not wait for anybody."""
        super().log(key, value, data_type, **kwargs)  # it refuses what it does in NVFlare
        self._log.add(key, value, data_type, kwargs.get(TrackConst.GLOBAL_STEP_KEY))

    def fail(self, why: str) -> None:
        """Tell the run that the script has failed."""
        Message("failed", {"why": why}).send(self._connection)

    def _take(self, topic: str, sent: Shareable, bus: DataBus) -> None:
        """Called within ``send``, with what NVFlare has made of the script's model."""
        self._sent = FLModelUtils.from_shareable(sent)

    def _fetch(self, timeout: float | None) -> None:
        if self.fl_model is not None or self.stop:
            return
        if timeout is not None and not self._connection.poll(timeout):
            return
        message = Message.receive(self._connection)
        if message.kind == "stop":
            self.stop, self.stop_reason = True, "the run is over"
            return
        self.set_meta(self.meta | {ConfigKey.TASK_NAME: _TASKS[message.kind]})
        self._to_answer = True
        meta = {FLMetaKey.SITE_NAME: self.get_site_name(), **message.said["meta"]}
        if CONTROL in message.tensors:
            meta[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL] = dict(message.tensors[CONTROL])
        self.fl_model = FLModel(
            params_type=ParamsType.FULL,
            params=dict(message.tensors[PARAMS]),
            current_round=message.said["round"],
            total_rounds=message.said["rounds"],
            meta=meta,
        )


class _Passive(InProcessClientAPI):
    """That of a rank that has no part in the exchange, as in NVFlare's external processes."""

    @override
    def receive(self, timeout: float | None = None) -> None:
        return None

    @override
    def is_running(self) -> bool:
        return False

    @override
    def send(self, model: FLModel, clear_cache: bool = True) -> None:
        return None


class _Log:
    """What a script logs between two models: numbers, by the step that it names."""

    def __init__(self) -> None:
        self._steps: dict[int | None, dict[str, float]] = {}
        self._left_out: set[str] = set()

    def add(self, key: Any, value: Any, data_type: AnalyticsDataType, step: Any) -> None:
        """Keep what is a metric, and say of anything else, once of each kind, that it is left out."""
        if data_type not in _METRICS:
            self._leave_out(f"{getattr(data_type, 'value', data_type)}: only numbers are kept")
            return
        try:
            step = None if step is None else index(step)
        except TypeError:
            step = -1
        if step is not None and not 0 <= step <= MOST_COUNT:
            self._leave_out("numbers at a step that is no count")
            return
        if step not in self._steps and len(self._steps) == MOST_LOGGED_STEPS:
            self._leave_out(f"all after {MOST_LOGGED_STEPS} steps, until a model is sent")
            return
        kept = self._steps.setdefault(step, {})
        within = f"{key}/" if data_type == AnalyticsDataType.SCALARS else ""
        values = value if isinstance(value, dict) else {key: value}
        for name, number in ((f"{within}{name}", _number(value)) for name, value in values.items()):
            if number is None or len(name) > MOST_CHARACTERS:
                self._leave_out("what is no number, or has a name that is too long")
            elif name in kept or len(kept) < MOST_METRICS:
                kept[name] = number
            else:
                self._leave_out(f"all after {MOST_METRICS} names at one step")

    def take(self) -> list[tuple[int | None, dict[str, float]]]:
        """What was kept since the last call."""
        log = [(step, numbers) for step, numbers in self._steps.items() if numbers]
        self._steps = {}
        return log

    def _leave_out(self, what: str) -> None:
        if what not in self._left_out:
            self._left_out.add(what)
            _log.warning("left out of what is logged: %s", what)


def _answer(model: FLModel, log: list[tuple[int | None, dict[str, float]]]) -> Message:
    """What a script has sent, as the run takes it: of metrics those that are numbers."""
    metrics = {name: _number(value) for name, value in (model.metrics or {}).items()}
    tensors = {PARAMS: _tensors(model.params or {})}
    if changed := model.meta.get(AlgorithmConstants.SCAFFOLD_CTRL_DIFF):
        tensors[CONTROL] = _tensors(changed)
    said = {
        "difference": model.params_type == ParamsType.DIFF,
        "metrics": {str(name): value for name, value in metrics.items() if value is not None},
        LOGGED: log,
    }
    return Message("answer", said, tensors)


def _tensors(values: dict[str, Any]) -> dict[str, Any]:
    return {str(name): as_tensor(value).detach().cpu() for name, value in values.items()}


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _task_metadata() -> dict[str, Any]:
    """What the API knows before the first task."""
    return {
        FLMetaKey.SITE_NAME: os.environ[SITE_VARIABLE],
        FLMetaKey.JOB_ID: Path.cwd().name,
        ConfigKey.TASK_NAME: None,
        ConfigKey.TASK_EXCHANGE: {
            ConfigKey.TRAIN_WITH_EVAL: False,
            ConfigKey.EXCHANGE_FORMAT: ExchangeFormat.PYTORCH,
            ConfigKey.SERVER_EXPECTED_FORMAT: ExchangeFormat.PYTORCH,
            ConfigKey.TRANSFER_TYPE: TransferType.FULL,
            ConfigKey.TRAIN_TASK_NAME: AppConstants.TASK_TRAIN,
            ConfigKey.EVAL_TASK_NAME: AppConstants.TASK_VALIDATION,
            ConfigKey.SUBMIT_MODEL_TASK_NAME: AppConstants.TASK_SUBMIT_MODEL,
        },
    }


def _end_with(connection: Connection) -> None:
    """End this process, and all that it has started, once the run has gone."""
    gone = select.poll()
    gone.register(connection.fileno(), 0)  # no event but the one that is always told: the other end is closed
    gone.poll()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
