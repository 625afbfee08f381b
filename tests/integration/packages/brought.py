"""Models as people of the field bring them: nothing but a model, a loss and data."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import SiteContext

CLASSES, WORDS, TIME = 3, 11, 6


class Transformer(nn.Module):
    """Reads words and guesses the next; its causal mask is a buffer with -inf."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.attend = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, WORDS)
        self.register_buffer("mask", torch.triu(torch.full((TIME, TIME), float("-inf")), 1))

    def forward(self, words: Tensor) -> Tensor:
        embedded = self.embed(words)
        attended, _ = self.attend(embedded, embedded, embedded, attn_mask=self.mask, need_weights=False)
        return self.head(embedded + attended)


class Recurrent(nn.Module):
    """A GRU language model."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        self.gru.flatten_parameters()
        return self.head(self.gru(self.embed(words))[0])


class Autoencoder(nn.Module):
    """Gives the reconstruction and the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 3), nn.Linear(3, 12)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        code = self.encode(inputs).tanh()
        return {"reconstruction": self.decode(code), "code": code}


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def segmentation() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, CLASSES, 1))


def frozen() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
    )
    model[0].requires_grad_(False)
    model[1].eval()
    return model


def halves() -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)).bfloat16()
    model[1].float()
    return model


def next_word(outputs: Tensor, words: Tensor) -> Tensor:
    return cross_entropy(outputs.flatten(0, 1), words.flatten())


def reconstruction(outputs: dict[str, Tensor], inputs: Tensor) -> Tensor:
    return mse_loss(outputs["reconstruction"], inputs) + 0.01 * outputs["code"].square().mean()


class Brought(ModuleProblem):
    """One of the models, on data of the site's own."""

    def __init__(self, site: SiteContext, model: str):
        own = site.generator()
        points = torch.randn(24, 12, generator=own)
        images = torch.randn(24, 3, 8, 8, generator=own)
        words = torch.randint(0, WORDS, (24, TIME), generator=own)
        labels = points[:, :CLASSES].argmax(1)
        pixels = images.argmax(1)
        pixels[:, :2] = -100
        build, loss, inputs, targets = {
            "channels-last": (convolutional, cross_entropy, images, images.mean((2, 3)).argmax(1)),
            "transformer": (Transformer, next_word, words, words.roll(-1, dims=1)),
            "gru": (Recurrent, next_word, words, words.roll(-1, dims=1)),
            "segmentation": (segmentation, nn.CrossEntropyLoss(), images, pixels),
            "autoencoder": (Autoencoder, reconstruction, points, points),
            "frozen": (frozen, cross_entropy, points, labels),
            "bfloat16": (halves, cross_entropy, points.bfloat16(), labels),
        }[model]
        super().__init__(site, build, loss, Batches(inputs, targets, 8, own), Batches(inputs, targets))
