"""A script of plain torch that takes part in NVFlare's SCAFFOLD: a site has five of the ten digits alone."""

import argparse
import copy

import nvflare.client as flare
import torch
from net import Net
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_opt.pt.scaffold import PTScaffoldHelper
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()

    flare.init()
    data = load_digits()
    chosen = (data.target < 5) == (sum(map(ord, flare.get_site_name())) % 2 == 0)
    inputs = torch.tensor(data.data[chosen] / 16, dtype=torch.float32)
    labels = torch.tensor(data.target[chosen])

    model = Net()
    helper = PTScaffoldHelper()
    helper.init(model)
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict(received.params)
        before = copy.deepcopy(model)
        helper.load_global_controls(received.meta[AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL])
        c_global, c_local = helper.get_params()
        for _ in range(args.steps):
            model.zero_grad()
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= args.lr * parameter.grad
            helper.model_update(model, args.lr, c_global, c_local)
        helper.terms_update(model, args.lr, c_global, c_local, before)
        flare.send(
            flare.FLModel(
                params=model.state_dict(),
                metrics={"train_loss": loss.item()},
                meta={AlgorithmConstants.SCAFFOLD_CTRL_DIFF: helper.get_delta_controls()},
            )
        )


if __name__ == "__main__":
    main()
