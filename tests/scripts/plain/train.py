"""A script of plain torch for NVFlare's Client API: a site has a half of the handwritten digits."""

import argparse

import nvflare.client as flare
import torch
from net import Net
from nvflare.client.tracking import SummaryWriter
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    flare.init()
    board = SummaryWriter()
    site = flare.get_site_name()
    data = load_digits()
    part = sum(map(ord, site)) % 2
    inputs = torch.tensor(data.data / 16, dtype=torch.float32)[part::2]
    labels = torch.tensor(data.target)[part::2]

    model = Net()
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict(received.params)
        model.eval()
        with torch.no_grad():
            accuracy = float((model(inputs).argmax(dim=1) == labels).float().mean())
        model.train()
        torch.manual_seed(received.current_round)
        optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
        for step in range(received.current_round * args.steps, (received.current_round + 1) * args.steps):
            chosen = torch.randint(len(labels), (128,))
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            board.add_scalar("train/loss", loss.item(), global_step=step)
        print(f"{site}: round {received.current_round} of {received.total_rounds}, {loss:.3f}")
        flare.send(
            flare.FLModel(
                params=model.state_dict(),
                metrics={"accuracy": accuracy, "train_loss": loss.item()},
                meta={"NUM_STEPS_CURRENT_ROUND": args.steps},
            )
        )


if __name__ == "__main__":
    main()
