"""A site's process from inside, as its agent sees and steers it.

This hides NVFlare's client engine and its federated client.
"""

import threading
import time

from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.private.fed.client.client_status import ClientStatus

from flaremesh.p2p.nvflare.cells import ParticipantCell
from flaremesh.p2p.nvflare.door import Door

_POLL_SECONDS = 0.1


class SiteProcess:
    """NVFlare's client engine.

    Args:
        fl_ctx: context of the agent's first event.
    """

    def __init__(self, fl_ctx: FLContext):
        self._engine = fl_ctx.get_engine()
        self._client = fl_ctx.get_prop(FLContextKey.SITE_OBJ)

    @property
    def name(self) -> str:
        """The site's name."""
        return str(self._client.client_name)

    @property
    def is_registered(self) -> bool:
        """The server has let the site in."""
        return bool(self._client.token)

    @property
    def cell(self) -> ParticipantCell:
        """The process's cell; NVFlare makes it before it registers the site."""
        return ParticipantCell(self._client.cell)

    @property
    def refused_jobs(self) -> int:
        """How many jobs the site's door has refused."""
        door = self._engine.get_component(SystemComponents.APP_DEPLOYER)
        return door.refused if isinstance(door, Door) else 0

    def running_jobs(self) -> list[str]:
        """Ids of the jobs whose process runs here."""
        return list(self._engine.get_all_job_ids())

    def abort_jobs(self) -> None:
        """Abort all jobs at once and wait until their processes have ended; NVFlare kills them after 10 s."""
        aborts = [threading.Thread(target=self._engine.abort_app, args=[job]) for job in self.running_jobs()]
        for abort in aborts:
            abort.start()
        for abort in aborts:
            abort.join()

    def log_out(self) -> None:
        """Leave the mesh; NVFlare's main thread goes on for 5 s after this."""
        self._engine.shutdown()
        while self._client.status != ClientStatus.STOPPED:
            time.sleep(_POLL_SECONDS)
