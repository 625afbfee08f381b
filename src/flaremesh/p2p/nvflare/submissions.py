"""What the server's own process reads of a job that somebody submits, and whom it asks about it.

NVFlare takes a job's meta and configuration in several formats, of which HOCON includes files and addresses
and fills in variables of the environment, and shows the meta to who submitted it. It takes an app that any
certificate of the root's has signed, and looks into it before.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any, NoReturn

from nvflare.apis.app_validation import AppValidator
from nvflare.fuel.utils.config import ConfigFormat, ConfigLoader
from nvflare.fuel.utils.config_factory import ConfigFactory
from typing_extensions import override


class Submissions(AppValidator):
    """Decides on the server's app of a job; a component of the server's process."""

    def __init__(self) -> None:
        super().__init__()
        for other in set(ConfigFormat) - {ConfigFormat.JSON}:
            ConfigFactory._fmt2Loader[other] = _Unread(other)

    @abstractmethod
    def refusal(self, workspace: Path, app: Path) -> str | None:
        """Why an app is refused, in words for the submitter; None if it is not.

        Args:
            workspace: of the server.
            app: its folder.
        """

    @override
    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Called by NVFlare when it has unpacked the app, before anything is started."""
        app = Path(app_folder).resolve()
        return self.refusal(app.parents[1], app) or "", {}


class _Unread(ConfigLoader):
    """Stands for the loader of a format that is not read."""

    def _refuse(self) -> NoReturn:
        raise ValueError("the files of a job that say what it is must be JSON, as FedJob and flaremesh write")

    @override
    def load_config(self, file_path: str) -> NoReturn:
        self._refuse()

    @override
    def load_config_from_str(self, config_str: str) -> NoReturn:
        self._refuse()

    @override
    def load_config_from_dict(self, config_dict: dict[str, Any]) -> NoReturn:
        self._refuse()
