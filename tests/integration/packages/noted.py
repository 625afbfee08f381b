"""A receiver of metrics of a site's admin, without what TensorBoard or MLflow need."""

import json
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver


class Noted(AnalyticsReceiver):
    """Writes what it receives as lines of JSON, in the run's folder."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file_name = file

    def initialize(self, fl_ctx: FLContext) -> None:
        """Begin the file."""
        folder = fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())
        self._file = Path(folder, self._file_name)
        self._file.touch()

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Write a line."""
        data: Any = AnalyticsData.from_dxo(from_shareable(shareable))
        self._write([record_origin, data.tag, data.value, data.step])

    def finalize(self, fl_ctx: FLContext) -> None:
        """End it."""
        self._write("end")

    def _write(self, what: object) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(what) + "\n")
