"""What the server keeps of a job, fetched so that its answer decides about no file of this machine.

NVFlare's own download makes paths of the names that the server answers, and unpacks without an end. Here a
name only chooses among what is offered, and what it stands for is read up to a limit, into memory.
"""

import tempfile
import zlib
from lzma import LZMAError
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.apis.storage import WORKSPACE_ZIP
from nvflare.fuel.f3.streaming.download_service import Consumer, download_object
from nvflare.fuel.hci.client.file_transfer import FileTransferModule
from nvflare.fuel.hci.file_transfer_defs import PULL_FOLDER_FQN
from nvflare.fuel.hci.proto import MetaKey
from typing_extensions import override

from flaremesh.printable import printable

_MOST_PIECES = 10_000  # NVFlare's have 5 MiB


class Unreadable(Exception):
    """What the server sends is not what it should be, or longer."""


def refuse_pulls(api: Any) -> None:
    """Keep the server from having NVFlare's client write files: it may map any command to that.

    Args:
        api: NVFlare's AdminAPI, before the login.
    """
    for module in api.cmd_modules:
        if isinstance(module, FileTransferModule):
            module.cmd_handlers[PULL_FOLDER_FQN] = _refuse


def workspace_file(api: Any, job_id: str, name: str, most: int) -> bytes | None:
    """A file of the server's run folder of a job that has ended, None if it kept no such file.

    Args:
        api: NVFlare's AdminAPI, logged in.
        job_id: the job.
        name: of the file, relative to the run folder.
        most: bytes that the file, and the whole archive of the folder, may have.

    Raises:
        Unreadable: the answer is not of the right form, or too long.
        ConnectionError: it breaks off.
    """
    meta = api.server_execute(f"{AdminCommandNames.DOWNLOAD_JOB} {job_id}").get("meta")
    offered = meta.get(MetaKey.FILES) if isinstance(meta, dict) else None
    reference = _reference(offered)
    if reference is None:
        return None
    with tempfile.TemporaryFile() as archive:
        pieces = _Pieces(archive, most)
        try:
            download_object(
                from_fqcn=str(meta.get(MetaKey.SOURCE_FQCN)),
                ref_id=reference,
                consumer=pieces,
                per_request_timeout=api.file_download_progress_timeout,
                cell=api.cell,
                abort_signal=api.session_abort_signal,
            )
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            raise Unreadable(f"what comes is no file ({type(error).__name__})") from error
        if pieces.refused:
            raise Unreadable(pieces.refused)
        if pieces.lost:
            raise ConnectionError(pieces.lost)
        return _unzipped(archive, name, most)


def _reference(offered: object) -> str | None:
    """The reference of the run folder's archive among ``[name, reference]``; None if that is not offered."""
    for entry in offered if isinstance(offered, list) else ():
        match entry:
            case [str(name), str(reference)] if name == WORKSPACE_ZIP:
                return reference
    return None


def _unzipped(archive: IO[bytes], name: str, most: int) -> bytes | None:
    try:
        with ZipFile(archive) as files:
            entry = files.getinfo(name)
            if entry.file_size > most:
                raise Unreadable(f"{name} has more than {most} bytes")
            return files.read(entry)
    except KeyError:
        return None
    except (BadZipFile, RuntimeError, EOFError, ValueError, OSError, LZMAError, zlib.error) as error:
        raise Unreadable(f"its archive is damaged: {printable(error, 200)}") from error


class _Pieces(Consumer):
    """Writes what is downloaded into a file.

    Attributes:
        refused: what is wrong with what came.
        lost: why no more came.
    """

    def __init__(self, file: IO[bytes], most: int):
        super().__init__()
        self.refused: str | None = None
        self.lost: str | None = None
        self._file = file
        self._most = most
        self._pieces = 0

    @override
    def consume(self, ref_id: str, state: dict[str, Any], data: Any) -> dict[str, Any]:
        self._pieces += 1
        if not isinstance(data, bytes) or self._pieces > _MOST_PIECES:
            self.refused = "what comes is no file"
        elif self._file.tell() + len(data) > self._most:
            self.refused = f"there are more than {self._most} bytes"
        if self.refused:
            raise Unreadable(self.refused)
        self._file.write(data)
        return state

    @override
    def download_completed(self, ref_id: str) -> None:
        """All is there."""

    @override
    def download_failed(self, ref_id: str, reason: str) -> None:
        self.lost = printable(reason, 300)


def _refuse(args: Any, ctx: Any) -> dict[str, str]:
    return {"status": "error", "details": "flaremesh lets no server have files written"}
