"""The programs that do what the cluster's API does not: helm and kubectl."""

import io
import os
import selectors
import shutil
import subprocess
from typing import IO

from flaremesh.deploy.targets.base import DeployError, TooLong

_SILENCE_SECONDS = 180.0  # helm and kubectl have shorter limits of their own
_MOST_BYTES = 64 << 20
_PIECE = 1 << 16


def call(
    *command: str, output: IO[bytes] | int, most: int = _MOST_BYTES
) -> subprocess.CompletedProcess[bytes]:
    """Run helm or kubectl, without a limit of time as long as it prints something.

    Args:
        command: the command.
        output: file for what it prints, or a constant of subprocess.
        most: so many bytes may it print; a pod may print anything.

    Raises:
        TooLong: it prints more.
        DeployError: it is not installed, or prints nothing for _SILENCE_SECONDS.
    """
    require(command[0])
    printed = io.BytesIO() if isinstance(output, int) else output
    errors = io.BytesIO()
    stdout = output if output == subprocess.DEVNULL else subprocess.PIPE
    silence = f"{' '.join(command[:3])} gives no answer within {_SILENCE_SECONDS:.0f} s"
    with (
        subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE) as process,
        selectors.DefaultSelector() as pipes,
    ):
        for pipe, into, limit in ((process.stdout, printed, most), (process.stderr, errors, _MOST_BYTES)):
            if pipe is not None:
                pipes.register(pipe, selectors.EVENT_READ, (into, limit))
        try:
            while pipes.get_map():
                if not (ready := pipes.select(_SILENCE_SECONDS)):
                    raise DeployError(silence)
                for key, _ in ready:
                    into, limit = key.data
                    chunk = os.read(key.fd, _PIECE)
                    if not chunk:
                        pipes.unregister(key.fileobj)
                    elif into.tell() + len(chunk) > limit:
                        raise TooLong(f"{' '.join(command[:3])} prints more than {limit} bytes")
                    into.write(chunk)
            process.wait(_SILENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise DeployError(silence) from None
        finally:
            process.kill()
    told = printed.getvalue() if isinstance(printed, io.BytesIO) else None
    return subprocess.CompletedProcess(command, process.returncode, told, errors.getvalue())


def require(program: str) -> None:
    """Check that a program is installed.

    Raises:
        DeployError: it is not.
    """
    if shutil.which(program) is None:
        raise DeployError(f"{program} is not installed; the Kubernetes target needs helm and kubectl")
