"""The loss over a dataset."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Module


def compute_loss_over_dataset(
    model: Module | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    dataloader: Iterable[tuple[Tensor, Tensor]] | None = None,
    device: torch.device | str | None = None,
) -> float:
    """The mean loss per sample, in eval mode; the model is left in the mode it was in.

    Args:
        model: the module.
        loss: (outputs, targets) -> mean loss over the batch, or their sum where ``loss.reduction`` says so.
        dataloader: batches of (inputs, targets), first dimension the batch.
        device: where the model is; None takes the batches as they are.

    Raises:
        ValueError: an argument is missing, there are no samples, or the loss is no single number.
    """
    if model is None or loss is None or dataloader is None:
        raise ValueError("model, loss and dataloader must all be given")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, samples = 0.0, 0
    try:
        with torch.no_grad():
            for inputs, targets in dataloader:
                if device is not None:
                    inputs, targets = inputs.to(device), targets.to(device)
                value = loss(model(inputs), targets)
                if value.numel() != 1:
                    raise ValueError(
                        f"the loss must be one number, and it has the shape {tuple(value.shape)}"
                    )
                size = len(inputs)
                total += value.item() * (1 if getattr(loss, "reduction", "mean") == "sum" else size)
                samples += size
    finally:
        for module, training in modes:
            module.training = training
    if not samples:
        raise ValueError("the dataloader has no samples")
    return total / samples
