"""Checkpoints of a site: all that it needs to go on as if nothing had happened, in files on its own volume.

A checkpoint after iteration k is ``k.safetensors`` with its tensors and ``k.json`` with everything else, the
SHA-256 of the former among it. All share ``history.jsonl``, of which each covers a beginning. A file is in
its place when it is complete; checksums tell what a crash, a full volume or somebody's hand has made of it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load
from torch import Tensor

from flaremesh import atomic
from flaremesh.errors import FlaremeshError
from flaremesh.printable import printable
from flaremesh.runtime import tensor_file
from flaremesh.runtime.history import HISTORY, HistoryFile, Record
from flaremesh.runtime.tree import Tree, divided, joined

_FORMAT: Final = 2
_KEPT: Final = 2
"""Sites write the same checkpoints, but one may have written the next when another is still at the last."""

_log = logging.getLogger(__name__)


class CheckpointError(FlaremeshError):
    """A checkpoint is damaged, or does not fit the run; the message names its iteration and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A site after a number of iterations, before anything of the next one is computed.

    Attributes:
        iteration: iterations that are done, at least 1.
        parts: what SiteRun needs to go on.
        history: all records of the run so far; that of the last iteration is yet to come.
    """

    iteration: int
    parts: Mapping[str, Tree]
    history: Sequence[Record]


class Checkpoints:
    """The checkpoints of a run at a site, of which the last two are kept.

    Args:
        folder: where they are; it is made with the first of them.
        owner: whose they are, such as the site's name; others' that turn up in the folder are not used.
    """

    def __init__(self, folder: Path, owner: str = ""):
        self._folder = folder
        self._owner = owner
        self._history = HistoryFile(folder / HISTORY)

    def iterations(self) -> list[int]:
        """The iterations of those that are whole, the newest last; the log says why others are not."""
        whole = []
        for iteration in self._present():
            try:
                self.read(iteration)
            except CheckpointError as error:
                _log.warning("%s", error)
            else:
                whole.append(iteration)
        return whole

    def read(self, iteration: int) -> Checkpoint:
        """The checkpoint after an iteration, with its tensors on the CPU.

        Raises:
            CheckpointError: there is none, or it is not whole.
        """
        try:
            return self._read(iteration)
        except Exception as error:  # a damaged file may say anything, and nothing of it may end the run
            raise CheckpointError(
                f"the checkpoint of iteration {iteration} is not used: {printable(str(error), 300)}"
            ) from error

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and remove those that are older than the one before it.

        Newer ones are of an attempt that did not go on from here, and are removed too.

        Raises:
            TreeError, TypeError: it has something in it that cannot be written.
            OSError: the volume does not take it; those before it stay.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        outline, tensors = divided(checkpoint.parts)
        place = self._path(checkpoint.iteration, "safetensors")
        try:
            content = {
                "format": _FORMAT,
                "owner": self._owner,
                "iteration": checkpoint.iteration,
                "history": self._history.extend_to(checkpoint.history),
                "tensors": self._write_tensors(place, tensors),
                "parts": outline,
            }
            text = json.dumps(content)
            signed = f"{_digest(text.encode())}\n{text}\n"
            atomic.write(self._path(checkpoint.iteration, "json"), signed, durable=True)
        finally:
            self._remove_partial()
        older = [iteration for iteration in self._present() if iteration <= checkpoint.iteration]
        self._remove_all_but(older[-_KEPT:])

    def discard(self, iteration: int) -> None:
        """Give up a checkpoint that is whole and does not fit."""
        with suppress(OSError):
            self._path(iteration, "json").unlink()

    def discard_after(self, iteration: int) -> None:
        """Give up those of later iterations: of an attempt of other sites, with which no cut is consistent.

        Raises:
            OSError: the volume does not let them go.
        """
        for later in self._present():
            if later > iteration:
                self._path(later, "json").unlink()

    def _read(self, iteration: int) -> Checkpoint:
        manifest = self._path(iteration, "json")
        if not manifest.is_file():
            raise ValueError(f"there is no {manifest.name}")
        digest, _, text = manifest.read_bytes().partition(b"\n")
        if digest.decode() != _digest(text.removesuffix(b"\n")):
            raise ValueError(f"{manifest.name} is torn")
        content: dict[str, Any] = json.loads(text)
        if content["format"] != _FORMAT:
            raise ValueError(f"it is of format {content['format']}, and this version reads {_FORMAT}")
        if (content["owner"], content["iteration"]) != (self._owner, iteration):
            raise ValueError(f"it is that of {content['owner']!r}, iteration {content['iteration']}")
        tensors = self._path(iteration, "safetensors").read_bytes()
        if _digest(tensors) != content["tensors"]:
            raise ValueError("its tensors are torn")
        parts = joined(content["parts"], load(tensors))
        return Checkpoint(iteration, dict(parts), self._history.beginning(**content["history"]))

    def _write_tensors(self, place: Path, tensors: Mapping[str, Tensor]) -> str:
        partial = place.with_name(f"{place.name}.partial")
        digest = tensor_file.write(partial, tensors)
        atomic.move(partial, place, durable=True)
        return digest

    def _path(self, iteration: int, ending: str) -> Path:
        return self._folder / f"{iteration}.{ending}"

    def _present(self) -> list[int]:
        names = (path.stem for path in self._folder.glob("*.json"))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _remove_all_but(self, kept: Sequence[int]) -> None:
        for ending in ("json", "safetensors"):
            for path in self._folder.glob(f"*.{ending}"):
                if path.stem not in map(str, kept):
                    path.unlink()

    def _remove_partial(self) -> None:
        for path in self._folder.glob("*.partial"):
            path.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
