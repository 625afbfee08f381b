"""The helpers under the stock package's names."""

import networkx as nx
import numpy as np
import pytest
import torch
from nvflare.app_opt.p2p.utils import topology as stock_topology
from torch.nn import BatchNorm1d, CrossEntropyLoss, Linear, MSELoss, Sequential
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.p2p import networks
from flaremesh.p2p.types import NetworkError, Node
from flaremesh.p2p.utils.config_generator import generate_random_network
from flaremesh.p2p.utils.metrics import compute_loss_over_dataset
from flaremesh.p2p.utils.topology import doubly_stochastic_adjacency, get_matrix_steady_state
from flaremesh.p2p.utils.utils import get_device


def test_a_random_network_comes_with_its_matrix_as_a_float32_tensor():
    network, matrix = generate_random_network(6, 1)
    expected = networks.generate_random_network(6, 1)[1]
    torch.testing.assert_close(matrix, torch.from_numpy(expected).float(), rtol=0, atol=0)
    np.testing.assert_allclose(network.matrices()[0], expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(get_matrix_steady_state(matrix), torch.full((6,), 1 / 6))


def test_a_site_of_a_random_network_keeps_what_neighbours_leave_that_are_taken_out():
    network, _ = generate_random_network(4, connection_probability=1.0)
    network.nodes[0].neighbors.pop()
    assert network.schedules()["site-1"][0].self_weight == 0.5
    assert vars(Node("site-9")).keys() == vars(network.nodes[0]).keys()


@pytest.mark.parametrize(
    "graph", [nx.path_graph(4), nx.star_graph(3), nx.complete_graph(3), nx.empty_graph(2)]
)
def test_metropolis_weights_are_those_of_the_stock_package(graph):
    weights = doubly_stochastic_adjacency(graph)
    torch.testing.assert_close(weights, stock_topology.doubly_stochastic_adjacency(graph))


def test_weights_and_loops_of_a_graph_do_not_change_its_metropolis_weights():
    plain, odd = nx.path_graph(4), nx.path_graph(4)
    nx.set_edge_attributes(odd, 7.0, "weight")
    odd.add_edge(2, 2)
    torch.testing.assert_close(doubly_stochastic_adjacency(odd), doubly_stochastic_adjacency(plain))


def test_a_graph_with_one_way_edges_has_no_metropolis_weights():
    with pytest.raises(NetworkError, match="one-way edges"):
        doubly_stochastic_adjacency(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))


def test_the_steady_state_is_what_mixing_tends_to():
    rows = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.1, 0.9]])
    state = get_matrix_steady_state(rows)
    torch.testing.assert_close(torch.linalg.matrix_power(rows.double(), 500)[0].float(), state)
    torch.testing.assert_close(
        get_matrix_steady_state(rows.T), state
    )  # columns sum to one: shares of the sum


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (torch.eye(3), "more than one steady state"),
        (torch.ones(2, 3), r"is square, and this one has the shape \(2, 3\)"),
        (torch.ones(3, 3), "has no steady state"),
        (torch.tensor([[1.5, -0.5], [0.0, 1.0]]), "must not be negative"),
        (torch.full((2, 2), torch.nan), "has no steady state"),
    ],
)
def test_a_matrix_without_a_steady_state_is_refused(matrix, sentence):
    with pytest.raises(NetworkError, match=sentence):
        get_matrix_steady_state(matrix)


INPUTS, TARGETS = torch.arange(10.0).reshape(10, 1), torch.zeros(10, 1)


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_loss_is_the_mean_over_the_samples_that_were_seen(drop_last):
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4, drop_last=drop_last)
    seen = 8 if drop_last else 10
    model = Linear(1, 1)
    with torch.no_grad():
        expected = float((model(INPUTS[:seen]) ** 2).mean())
    for loss in (MSELoss(), MSELoss(reduction="sum")):
        found = compute_loss_over_dataset(model, loss, loader, torch.device("cpu"))
        assert type(found) is float
        assert found == pytest.approx(expected)


def test_the_loss_is_taken_in_eval_mode_and_every_module_keeps_its_own():
    model = Sequential(Linear(1, 2), BatchNorm1d(2), BatchNorm1d(2)).train()
    model[2].eval()
    compute_loss_over_dataset(model, CrossEntropyLoss(), [(INPUTS, torch.zeros(10, dtype=torch.long))])
    assert [module.training for module in model] == [True, True, False]
    assert not model[1].num_batches_tracked


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((None, MSELoss(), []), "must all be given"),
        ((Linear(1, 1), None, []), "must all be given"),
        ((Linear(1, 1), MSELoss(), None), "must all be given"),
        ((Linear(1, 1), MSELoss(), []), "has no samples"),
        ((Linear(1, 1), MSELoss(reduction="none"), [(INPUTS, TARGETS)]), r"one number.* shape \(10, 1\)"),
    ],
)
def test_what_has_no_loss_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        compute_loss_over_dataset(*arguments)


def test_the_device_is_one_that_computes():
    assert torch.ones(1, device=get_device()).sum() == 1
