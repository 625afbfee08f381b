"""A script of Hugging Face for NVFlare's Client API."""

import tempfile

import nvflare.client.hf as flare
import torch
from net import Net
from sklearn.datasets import load_digits
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments


class Digits(Dataset[dict[str, torch.Tensor]]):
    """Images as sequences of 64 words, which are their shades."""

    def __init__(self) -> None:
        data = load_digits()
        self.words = torch.tensor(data.data, dtype=torch.long)
        self.labels = torch.tensor(data.target)

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of images that are right."""
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=256,
            learning_rate=5e-3,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        digits = Digits()
        trainer = Trainer(
            Net(), arguments, train_dataset=digits, eval_dataset=digits, compute_metrics=accuracy
        )
        flare.patch(trainer)
        while flare.is_running():
            trainer.evaluate()
            trainer.train()


if __name__ == "__main__":
    main()
