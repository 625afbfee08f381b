"""The programs that do what the cluster's API does not: helm and kubectl."""

import os
import shutil
import subprocess
from typing import IO

from flaremesh.deploy.targets.base import DeployError

_SILENCE_SECONDS = 180.0  # helm and kubectl have shorter limits of their own


def call(*command: str, output: IO[bytes] | int) -> subprocess.CompletedProcess[bytes]:
    """Run helm or kubectl, without a limit as long as it prints something.

    Args:
        command: the command.
        output: file for what it prints, or a constant of subprocess.

    Raises:
        DeployError: it is not installed, or prints nothing for _SILENCE_SECONDS.
    """
    require(command[0])
    with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE) as process:
        try:
            before = 0
            while True:
                try:
                    printed, errors = process.communicate(timeout=_SILENCE_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, printed, errors)
                except subprocess.TimeoutExpired as error:
                    size = 0 if isinstance(output, int) else os.fstat(output.fileno()).st_size
                    if size == before:
                        raise DeployError(
                            f"{' '.join(command[:3])} gives no answer within {error.timeout:.0f} s"
                        ) from None
                    before = size
        finally:
            process.kill()


def require(program: str) -> None:
    """Check that a program is installed.

    Raises:
        DeployError: it is not.
    """
    if shutil.which(program) is None:
        raise DeployError(f"{program} is not installed; the Kubernetes target needs helm and kubectl")
