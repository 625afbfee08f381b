"""The model that a run has made, out of what its sites have left in the run's folder."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from flaremesh.errors import FlaremeshError
from flaremesh.p2p.outcome import BEST_MODEL, MODEL
from flaremesh.printable import printable
from flaremesh.runtime import tensor_file


class ModelError(FlaremeshError):
    """There is no such model."""

    exit_code = 2


def model_of(folder: Path, site: str | None = None, *, best: bool = False) -> dict[str, Tensor]:
    """The model of one site, or the mean of those of all sites that were fetched, on the CPU.

    What is no floating point number, such as a count of batches, is the first site's.

    Args:
        folder: of the run, ``<mesh>/runs/<run id>``.
        site: its name; None for all.
        best: as it was when the run was best, instead of at the end.

    Raises:
        ModelError: no model was fetched, or one is damaged or of another shape than the others.
    """
    name = BEST_MODEL if best else MODEL
    files = {path.parent.name: path for path in sorted(folder.glob(f"*/{name}"))}
    if best and not files and any(folder.glob(f"*/{MODEL}")):
        raise ModelError(
            f"{folder} holds the models of the end alone: a run keeps its best where run.until names the "
            "metric by which that is known."
        )
    if site is not None:
        if site not in files:
            raise ModelError(
                f"{folder} has no model of {site}; it has those of {', '.join(files) or 'nobody'}."
            )
        return _read(files[site])
    if not files:
        raise ModelError(
            f"{folder} holds no model: a site leaves one when it has finished, and `flaremesh run` and "
            "`attach` fetch it where they can reach it. Name the folder of a run, build/<mesh>/runs/<run id>."
        )
    models = {name: _read(path) for name, path in files.items()}
    first, *others = models
    for other in others:
        if _form(models[first]) != _form(models[other]):
            raise ModelError(f"The models of {first} and {other} are not alike; name one with --site.")
    return {key: _mean([model[key] for model in models.values()]) for key in models[first]}


def write_model(model: dict[str, Tensor], path: Path) -> None:
    """Write what torch.load reads where the path ends in ``.pt`` or ``.pth``, else safetensors.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix in (".pt", ".pth"):
        torch.save(model, path)
    else:
        tensor_file.write(path, model)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is no model: {printable(str(error), 200)}") from None


def _form(model: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {key: (tensor.shape, tensor.dtype) for key, tensor in model.items()}


def _mean(tensors: list[Tensor]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(first.dtype)
