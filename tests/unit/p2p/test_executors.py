"""Executors of several sites in one process, on relay links whose transport is a function call."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flaremesh.links import Key, LinkError, PeerTimeout, Refusal, RunAborted, link
from flaremesh.links.edges import Message
from flaremesh.metrics.prometheus import DIRECTORY_VARIABLE, RunMetrics
from flaremesh.p2p.executors import (
    AlgorithmExecutor,
    ConsensusExecutor,
    DGDExecutor,
    GTExecutor,
    SyncAlgorithmExecutor,
)
from flaremesh.p2p.executors.assignment import Preparation
from flaremesh.p2p.executors.native_run import UnsoundWeights, require_sound_weights
from flaremesh.p2p.tasks import REASON
from flaremesh.p2p.types import LocalConfig, Neighbor, Network, Node
from flaremesh.problems.protocol import SiteContext
from flaremesh.runtime.checkpoint import Checkpoints
from flaremesh.runtime.history import HISTORY, History
from flaremesh.topology.neighborhood import Neighborhood

DIRECTED = Network(
    nodes=[
        Node("bonn", [Neighbor("ulm", 0.1)]),
        Node("ulm", [Neighbor("worms", 0.1)]),
        Node("worms", [Neighbor("bonn", 0.1)]),
    ]
)
PAIR = Network(nodes=[Node("bonn", [Neighbor("ulm", 0.5)]), Node("ulm", [Neighbor("bonn", 0.5)])])


class Averaging(SyncAlgorithmExecutor):
    """Written to the walkthrough."""

    def __init__(self, value, **options):
        super().__init__(**options)
        self.value = value

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        for iteration in range(from_shareable(shareable).data["iterations"]):
            self._exchange_values(fl_ctx, value=self.value, iteration=iteration)
            mixed = self.value * self._weight
            for neighbor in self.neighbors:
                mixed = mixed + self.neighbors_values[iteration][neighbor.id] * neighbor.weight
            self.value = mixed
            del self.neighbors_values[iteration]


def averaging(values, **options):
    return {site: Averaging(value, **options) for site, value in values.items()}


def test_a_directed_ring_sends_along_its_edges_and_reaches_the_mean(connect):
    sites = connect(DIRECTED, averaging({"bonn": 1.0, "ulm": 5.0, "worms": 12.0}))
    replies = sites.run(120)
    assert {reply.get_return_code() for reply in replies.values()} == {ReturnCode.OK}
    assert [site.value for site in sites.executors.values()] == pytest.approx([6, 6, 6])


def test_a_value_of_somebody_else_does_not_stand_in_for_the_neighbours(connect):
    sites = connect(DIRECTED, averaging({"bonn": 1.0, "ulm": 5.0, "worms": 12.0}, sync_timeout=0.2))
    ulm, worms = sites.executors["ulm"], sites.executors["worms"]
    with pytest.raises(PeerTimeout, match="no value from bonn"):
        worms._exchange_values(FLContext(), value=12.0, iteration=0)
    stolen = Message(Key(0, 0, "worms"), [b"x"], 1)
    sites.links["worms"]._pairs["bonn"].send(stolen)  # bonn listens to ulm only
    with pytest.raises(PeerTimeout, match="no value from ulm"):
        sites.executors["bonn"]._exchange_values(FLContext(), value=1.0, iteration=0)
    assert sites.executors["bonn"].neighbors_values == {}
    ulm._exchange_values(FLContext(), value=5.0, iteration=0)
    assert ulm.neighbors_values == {0: {"worms": 12.0}}


def test_a_node_without_neighbours_sends_nothing(connect):
    network = Network(nodes=[*PAIR.nodes, Node("alone")])
    sites = connect(network, averaging({"bonn": 0.0, "ulm": 4.0, "alone": 7.0}))
    sites.run(3)
    assert sites.executors["alone"].value == 7
    assert sites.executors["bonn"].value == 2
    assert {end for sender, peer, _ in sites.posts for end in (sender, peer)} == {"bonn", "ulm"}


def test_a_silent_neighbour_is_named_to_the_controller(connect):
    sites = connect(PAIR, averaging({"bonn": 0.0, "ulm": 4.0}, sync_timeout=0.2))
    reply = sites.run(3, sites=["bonn"])["bonn"]
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert reply.get_header(REASON).startswith("no value from ulm (its link is up: ")


def test_a_neighbour_may_take_its_time(connect):
    class Late(Averaging):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            time.sleep(0.5)

    sites = connect(PAIR, {"bonn": Averaging(0.0), "ulm": Late(4.0)})
    sites.run(1)
    assert sites.executors["bonn"].value == 2


@pytest.mark.parametrize(
    ("sync_timeout", "extra", "expected"), [(None, {}, 60), (None, {"peer_timeout": 5}, 5), (7, {}, 7)]
)
def test_the_time_to_wait_for_neighbours_is_the_runs_or_the_executors(connect, sync_timeout, extra, expected):
    executors = averaging({"bonn": 0.0, "ulm": 4.0}, sync_timeout=sync_timeout)
    connect(PAIR, executors, **extra)
    assert executors["bonn"].peer_timeout == expected
    assert GTExecutor(*net(0), sync_timeout=3).peer_timeout == 3


def test_an_aborted_exchange_ends_at_once_and_is_no_failure(connect):
    sites = connect(PAIR, averaging({"bonn": 0.0, "ulm": 4.0}))
    threading.Timer(0.2, sites.signal.trigger, [True]).start()
    started = time.monotonic()
    reply = sites.run(3, sites=["bonn"])["bonn"]
    assert reply.get_return_code() == ReturnCode.TASK_ABORTED
    assert time.monotonic() - started < 5
    with pytest.raises(RunAborted):
        sites.executors["ulm"]._exchange_values(FLContext(), value=4.0, iteration=0)


CHAIN = Network(nodes=[Node("bonn"), Node("ulm", [Neighbor("bonn", 0.5)])])


def test_a_site_that_hears_of_nobody_waits_for_those_that_it_has_left_behind(connect, monkeypatch):
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 2)
    sites = connect(CHAIN, averaging({"bonn": 0.0, "ulm": 4.0}))
    replies = sites.run(6)
    assert {reply.get_return_code() for reply in replies.values()} == {ReturnCode.OK}


def test_an_abort_ends_the_wait_for_a_neighbour_that_is_behind(connect, monkeypatch):
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 0)
    sites = connect(CHAIN, averaging({"bonn": 0.0, "ulm": 4.0}))
    threading.Timer(0.2, sites.signal.trigger, [True]).start()
    started = time.monotonic()
    assert sites.run(3, sites=["bonn"])["bonn"].get_return_code() == ReturnCode.TASK_ABORTED
    assert time.monotonic() - started < 5


def test_a_neighbour_gets_the_value_at_the_time_it_was_sent(connect):
    value = torch.ones(4)
    sites = connect(PAIR, averaging({"bonn": value, "ulm": torch.zeros(4)}, sync_timeout=0.2))
    with pytest.raises(PeerTimeout):
        sites.executors["bonn"]._exchange_values(FLContext(), value=value, iteration=0)
    value.mul_(1000)
    ulm = sites.executors["ulm"]
    ulm._exchange_values(FLContext(), value=ulm.value, iteration=0)
    assert ulm.neighbors_values[0]["bonn"].tolist() == [1, 1, 1, 1]


def test_nothing_is_left_of_iterations_that_are_over_even_if_their_messages_come_again(connect):
    sites = connect(PAIR, averaging({"bonn": 0.0, "ulm": 4.0}))
    sites.run(5)
    for sender, peer, data in list(sites.posts):
        sites.deliver(peer, sender, data)
    for site, executor in sites.executors.items():
        assert executor.neighbors_values == {}
        assert sites.links[site]._edges.inbox._messages == {}


def test_a_value_that_cannot_be_read_names_its_sender(connect):
    sites = connect(PAIR, averaging({"bonn": 0.0, "ulm": 4.0}, sync_timeout=0.2))
    sites.links["ulm"].send("bonn", Key(0, 0, "ulm"), [b"\xc1"])
    with pytest.raises(LinkError, match="ulm sent a value that cannot be read: malformed message"):
        sites.executors["bonn"]._exchange_values(FLContext(), value=0.0, iteration=0)


def test_an_exception_becomes_a_bad_return_code_with_its_reason(connect):
    class Faulty(Averaging):
        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            raise KeyError("batch")

    reply = connect(PAIR, {"bonn": Faulty(0.0), "ulm": Averaging(1.0)}).run(1, sites=["bonn"])["bonn"]
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert reply.get_header(REASON) == "KeyError: 'batch'"


def test_an_exception_of_the_users_own_is_named_by_its_type(connect):
    class NoDataError(Exception):
        pass

    class Faulty(Averaging):
        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            raise NoDataError

    reply = connect(PAIR, {"bonn": Faulty(0.0), "ulm": Averaging(1.0)}).run(1, sites=["bonn"])["bonn"]
    assert "NoDataError" in reply.get_header(REASON)


def test_registered_algorithms_run_under_a_controller_that_only_sends_neighbours(connect):
    values = {"bonn": [0.0], "ulm": [4.0]}
    sites = connect(PAIR, averaging(values), opened=False)
    for site, other in list(sites.executors.items()):
        problem = {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": values}}
        sites.executors[site] = executor = AlgorithmExecutor("consensus", problem)
        executor.client_name, executor.config = site, other.config
        executor._flaremesh.joined = sites.members[site]
    for reply in sites.run(3).values():
        assert reply.get_return_code() == ReturnCode.OK, reply.get_header(REASON)
        assert from_shareable(reply).data["iterations"] == 3


def test_the_end_of_a_run_is_a_checkpoint_from_which_its_result_is_delivered_again(connect, tmp_path):
    values = {"bonn": [0.0], "ulm": [4.0]}

    def run(resume):
        sites = connect(PAIR, averaging(values), opened=False)
        for site, other in list(sites.executors.items()):
            problem = {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": values}}
            sites.executors[site] = executor = AlgorithmExecutor("consensus", problem)
            executor.client_name, executor.config = site, other.config
            executor._flaremesh.joined = replace(
                sites.members[site], checkpoints=Checkpoints(tmp_path / "stores" / site, site)
            )
            executor._flaremesh.preparation = Preparation(resume=resume)
        replies = [from_shareable(reply).data for reply in sites.run(3).values()]
        models = [(tmp_path / site / "flaremesh/model.safetensors").read_bytes() for site in values]
        sent = [reply["sent_bytes"] for reply in replies]
        return sent, [(reply["iterations"], reply["metrics"]) for reply in replies], models

    sent, *first = run(None)
    assert all(sent)
    assert Checkpoints(tmp_path / "stores/bonn", "bonn").iterations() == [3]
    sent, *delivered = run(3)
    assert delivered == first
    assert not any(sent)


@pytest.mark.parametrize("clears_at", [None, 400])
def test_a_run_on_a_full_volume_goes_on_and_fails_only_if_there_is_no_room_in_the_end(
    connect, volume, clears_at
):
    values = {"bonn": [0.0], "ulm": [4.0]}

    class Filling(AlgorithmExecutor):
        def _observe(self, run):
            self.iterations = getattr(self, "iterations", 0) + 1
            if self.iterations == 2 and self.client_name == "bonn":
                volume.fill()
            elif self.iterations == clears_at and self.client_name == "bonn":
                volume.clear()

    sites = connect(PAIR, averaging(values), opened=False)
    for site, other in list(sites.executors.items()):
        problem = {"path": "flaremesh.problems.consensus.Consensus", "args": {"values": values}}
        sites.executors[site] = executor = Filling("consensus", problem)
        executor.client_name, executor.config = site, other.config
        folder = volume.folder if site == "bonn" else sites.members[site].folder
        executor._flaremesh.joined = replace(sites.members[site], folder=folder)
    replies = sites.run(500)
    reasons = {site: reply.get_header(REASON) for site, reply in replies.items()}
    written = History.read(volume.folder / "flaremesh" / HISTORY).last_iteration
    if clears_at:
        assert (reasons, written) == ({"bonn": None, "ulm": None}, 500)
        return
    assert reasons["bonn"].startswith(
        "all iterations are done, and the result cannot be written: No space left on device."
    )
    assert written < 500


def test_an_unknown_task_is_answered_as_such():
    reply = Averaging(0.0).execute("train", Shareable(), FLContext(), Signal())
    assert reply.get_return_code() == ReturnCode.TASK_UNKNOWN


@pytest.mark.parametrize("name", ["hospital-a", "new-york-1", "hospital_b", "heidelberg", "site-1"])
def test_a_site_may_have_any_name(name):
    context = FLContext()
    context.put(ReservedKey.IDENTITY_NAME, name, private=False, sticky=False)
    executor = Averaging(0.0)
    executor.handle_event(EventType.START_RUN, context)
    assert executor.client_name == executor.id == name


def net(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).to(dtype)
    batches = [(torch.randn(4, 3, dtype=dtype), torch.randn(4, 1, dtype=dtype))]
    return model, torch.nn.MSELoss(), batches


def problems(sites):
    def make(index, site):
        return sites.executors[site]._make_problem(SiteContext(site, index, len(sites.executors), 0))

    with ThreadPoolExecutor(len(sites.executors)) as pool:
        futures = [pool.submit(make, index, site) for index, site in enumerate(sites.executors)]
        return [future.result() for future in futures]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_sites_start_from_the_parameters_of_the_first(connect, dtype):
    executors = {site: GTExecutor(*net(seed, dtype)) for seed, site in enumerate(("bonn", "ulm", "worms"))}
    first = torch.nn.utils.parameters_to_vector(executors["bonn"].model.parameters()).detach().clone()
    other = torch.nn.utils.parameters_to_vector(executors["ulm"].model.parameters()).detach().clone()
    assert not torch.equal(first, other)
    for problem in problems(connect(DIRECTED, executors)):
        torch.testing.assert_close(problem.initial(), first, rtol=0, atol=0)


def test_sites_may_start_from_parameters_of_their_own(connect):
    executors = {site: GTExecutor(*net(seed)) for seed, site in enumerate(("bonn", "ulm", "worms"))}
    starts = [problem.initial() for problem in problems(connect(DIRECTED, executors, same_start=False))]
    assert not torch.equal(starts[0], starts[1])


def test_validation_data_are_used_where_there_are_no_test_data(connect):
    model, loss, batches = net(0)
    executor = DGDExecutor(model, loss, batches, val_dataloader=batches)
    (problem,) = problems(connect(Network(nodes=[Node("alone")]), {"alone": executor}))
    assert problem.evaluate(problem.initial())["loss"] > 0


def test_hyperparameters_reach_the_algorithm_and_a_missing_one_is_named():
    executor = GTExecutor(*net(0))
    assert executor._make_algorithm({"stepsize": 0.25, "iterations": 3}).stepsize == 0.25
    with pytest.raises(TypeError, match="gradient-tracking needs a value for stepsize"):
        executor._make_algorithm({"iterations": 3})


ALONE = Neighborhood("ulm", 1.0, {}, ())


@pytest.mark.parametrize(
    ("algorithm", "weights", "refused"),
    [
        ("gradient-tracking", {}, None),
        (
            "gradient-tracking",
            {"column_stochastic": False},
            "a doubly stochastic mixing matrix, and the columns",
        ),
        ("gradient-tracking", {"symmetric": False}, None),
        ("dgd", {"row_stochastic": False}, "a doubly stochastic mixing matrix, and the rows of"),
        ("push-sum", {"row_stochastic": False}, None),
        ("push-sum", {"column_stochastic": False}, "a column stochastic mixing matrix, and the columns of"),
        ("extra", {}, None),
        ("extra", {"symmetric": False}, "and the mixing matrix is not symmetric"),
        ("extra", {"schedule": [ALONE, ALONE]}, "and 2 mixing matrices take turns"),
    ],
)
def test_weights_on_which_the_algorithm_solves_another_problem_are_refused(algorithm, weights, refused):
    config = LocalConfig(neighbors=[], **weights)
    with pytest.raises(UnsoundWeights, match=refused) if refused else nullcontext():
        require_sound_weights(algorithm, config)


def test_consensus_draws_its_value_where_none_is_given():
    values = {ConsensusExecutor().initial_value for _ in range(5)}
    assert len(values) == 5
    assert all(0 <= value < 1 for value in values)


@pytest.mark.parametrize("told", [{"neighbors": 5}, {"addresses": 5}])
def test_what_is_no_step_of_a_configuration_is_counted_though_the_run_never_begins(
    tmp_path, monkeypatch, told
):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    fl_ctx = FLContext()
    fl_ctx.set_prop(ReservedKey.RUN_NUM, "a-run", private=False, sticky=False)
    reply = AlgorithmExecutor("consensus").execute(
        "config", DXO(DataKind.APP_DEFINED, data=told).to_shareable(), fl_ctx, Signal()
    )
    assert reply.get_header(REASON).startswith("what the server sent")
    samples = [sample for family in RunMetrics(tmp_path).collect() for sample in family.samples]
    (refused,) = (sample for sample in samples if sample.name == "flaremesh_exchange_failures_total")
    assert refused.labels.items() >= {"peer": "", "reason": "malformed"}.items()
    assert refused.value == 1


def test_addresses_that_are_none_are_counted_in_the_run(connect):
    sites = connect(PAIR, averaging({"bonn": 1.0, "ulm": 5.0}))
    told = DXO(DataKind.APP_DEFINED, data={"addresses": 5}).to_shareable()
    sites.executors["bonn"].execute("config", told, FLContext(), Signal())
    assert sites.members["bonn"].traffic.refusals == {("", Refusal.MALFORMED): 1}
