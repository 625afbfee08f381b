"""``flaremesh model``: what a run has made, as a file that torch or safetensors reads."""

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.p2p.outcome import BEST_MODEL, MODEL
from flaremesh.runtime import tensor_file


def left_by(folder, site, value, batches=3):
    """A site's model in a run's folder: a weight, and the count of a BatchNorm."""
    (folder / site).mkdir()
    model = {"weight": torch.full((2, 2), value, dtype=torch.bfloat16), "batches": torch.tensor(batches)}
    tensor_file.write(folder / site / MODEL, model)


def call(*arguments):
    return CliRunner().invoke(app, ["model", *map(str, arguments)])


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    left_by(folder, "aachen", 1.0)
    left_by(folder, "bonn", 2.0, batches=4)
    return folder


@pytest.mark.parametrize(("name", "read"), [("model.pt", torch.load), ("model.safetensors", load_file)])
def test_the_model_is_the_mean_of_the_sites_models(run, tmp_path, name, read):
    file = tmp_path / "new" / name
    result = call(run, "--output", file)
    assert result.exit_code == 0, result.output
    assert "2 tensors, 5 numbers" in result.stdout
    model = read(file)
    assert torch.equal(model["weight"], torch.full((2, 2), 1.5, dtype=torch.bfloat16))
    assert model["batches"] == 3


def test_with_a_site_it_is_the_sites_own(run, tmp_path):
    file = tmp_path / "model.pt"
    assert call(run, "--output", file, "--site", "bonn").exit_code == 0
    assert torch.load(file)["batches"] == 4


def test_the_best_is_that_of_a_run_which_knows_what_is_better(run, tmp_path):
    file = tmp_path / "model.pt"
    result = call(run, "--output", file, "--best")
    assert result.exit_code == 2
    assert "run.until names the metric" in result.stderr
    for site, value in (("aachen", 3.0), ("bonn", 5.0)):
        tensor_file.write(run / site / BEST_MODEL, {"weight": torch.full((2, 2), value)})
    assert call(run, "--output", file, "--best").exit_code == 0
    assert torch.equal(torch.load(file)["weight"], torch.full((2, 2), 4.0))
    assert call(run, "--output", file).exit_code == 0
    assert torch.equal(torch.load(file)["weight"], torch.full((2, 2), 1.5, dtype=torch.bfloat16))


def test_a_module_takes_it_back(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    (tmp_path / "bonn").mkdir()
    tensor_file.write(tmp_path / "bonn" / MODEL, network.state_dict())
    assert call(tmp_path, "--output", tmp_path / "model.pt").exit_code == 0
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(other[0].weight, network[0].weight)


def test_what_is_no_model_is_refused_with_what_to_do(run, tmp_path):
    def refused(*arguments):
        result = call(*arguments, "--output", tmp_path / "model.pt")
        assert result.exit_code == 2
        assert not (tmp_path / "model.pt").exists()
        return result.stderr

    assert "holds no model" in refused(tmp_path)
    assert "no model of ulm; it has those of aachen, bonn" in refused(run, "--site", "ulm")
    (run / "bonn" / MODEL).write_bytes(b"no model")
    assert "bonn/model.safetensors is no model" in refused(run)
    (run / "bonn" / MODEL).unlink()
    tensor_file.write(run / "bonn" / MODEL, {"weight": torch.ones(3)})
    assert "models of aachen and bonn are not alike" in refused(run)
