"""A script of PyTorch Lightning for NVFlare's Client API."""

import nvflare.client.lightning as flare
import pytorch_lightning as pl
import torch
from net import Net
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def main() -> None:
    data = load_digits()
    digits = TensorDataset(torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target))
    model = Net()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    flare.patch(trainer)
    while flare.is_running():
        trainer.validate(model, DataLoader(digits, batch_size=256), verbose=False)
        trainer.fit(model, DataLoader(digits, batch_size=32))


if __name__ == "__main__":
    main()
