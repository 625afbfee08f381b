"""A small file system of its own, which can be full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from programs import lacking


class Volume:
    """A mounted file system in memory.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take all room there is."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Give it back."""
        self._ballast.unlink()


@contextmanager
def volume(folder: Path, kibibytes: int) -> Iterator[Volume]:
    """A file system of so many KiB at an empty folder; the test is skipped where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        lacking(f"no file system can be mounted: {mounted.stderr.strip()}", "sudo make test", ci_has_it=False)
    try:
        yield Volume(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
