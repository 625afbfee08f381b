"""What subclasses written for nvflare.app_opt.p2p override or set takes effect, or is refused in words."""

import inspect
import time

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import make_reply
from nvflare.app_opt.p2p import executors as stock
from nvflare.app_opt.p2p.executors.distributed_gradient_descent import DGDExecutor as StockDGD
from nvflare.app_opt.p2p.executors.gradient_tracking import GTExecutor as StockGT
from torch.utils.data import DataLoader, TensorDataset

from flaremesh.p2p import executors
from flaremesh.p2p.executors import (
    ConsensusExecutor,
    DGDExecutor,
    GTADAMExecutor,
    GTExecutor,
    SyncAlgorithmExecutor,
)
from flaremesh.p2p.executors.ported import NameTaken
from flaremesh.p2p.tasks import REASON
from flaremesh.p2p.types import Neighbor, Network, Node
from flaremesh.printable import refused

RING = Network(
    nodes=[
        Node("bonn", [Neighbor("ulm", 0.25), Neighbor("worms", 0.25)]),
        Node("ulm", [Neighbor("bonn", 0.25), Neighbor("worms", 0.25)]),
        Node("worms", [Neighbor("bonn", 0.25), Neighbor("ulm", 0.25)]),
    ]
)
SITES = ("bonn", "ulm", "worms")
VALUES = {"bonn": 1.0, "ulm": 5.0, "worms": 12.0}
RATES = {DGDExecutor: {}, GTExecutor: {}, GTADAMExecutor: {"beta1": 0.8, "beta2": 0.9, "epsilon": 1e-2}}


def parts(site):
    """A model with a frozen layer, and two batches of the site's own."""
    generator = torch.Generator().manual_seed(SITES.index(site))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    model[0].bias.requires_grad_(False)
    batches = [
        (torch.randn(6, 3, generator=generator).double(), torch.randn(6, 1, generator=generator).double())
        for _ in range(2)
    ]
    return model, torch.nn.MSELoss(), batches, batches


def finished(replies):
    for site, reply in replies.items():
        assert reply.get_return_code() == ReturnCode.OK, f"{site}: {reply.get_header(REASON)}"


def failed(replies):
    """The reasons of the sites that failed."""
    return {site: reason for site, reply in replies.items() if (reason := reply.get_header(REASON))}


@pytest.fixture
def train(connect):
    """The models after a run, as vectors, of executors of the classes given by site."""

    def train(classes, iterations=6, network=RING, **extra):
        classes = classes if isinstance(classes, dict) else dict.fromkeys(SITES, classes)
        sites = connect(network, {site: cls(*parts(site)) for site, cls in classes.items()})
        unmasked = {"masked_start": False}  # two runs are compared to the last bits, and have other masks
        finished(sites.run(iterations, stepsize=0.1, privacy=unmasked, **extra))
        train.sites = sites
        return torch.stack(
            [
                torch.nn.utils.parameters_to_vector(executor.model.parameters()).detach()
                for executor in sites.executors.values()
            ]
        )

    return train


@pytest.fixture
def agree(connect):
    """The values of consensus after a run."""

    def agree(classes, iterations=4, network=RING):
        classes = classes if isinstance(classes, dict) else dict.fromkeys(SITES, classes)
        agree.sites = connect(network, {site: cls(VALUES[site]) for site, cls in classes.items()})
        finished(agree.sites.run(iterations))
        return [executor.current_value for executor in agree.sites.executors.values()]

    return agree


def mixed(values, rounds, change=lambda x: x):
    """The ring's consensus where every site tells ``change(x)``."""
    for _ in range(rounds):
        values = [
            0.5 * own + sum(0.25 * change(other) for j, other in enumerate(values) if j != i)
            for i, own in enumerate(values)
        ]
    return values


@pytest.mark.parametrize("base", [DGDExecutor, GTExecutor, GTADAMExecutor])
def test_an_override_that_changes_nothing_changes_nothing(train, base):
    class Ported(base):
        def _to_message(self, x):
            return super()._to_message(x)

        def _exchange_values(self, fl_ctx, value, iteration):
            super()._exchange_values(fl_ctx, value, iteration)

    torch.testing.assert_close(train(Ported, **RATES[base]), train(base, **RATES[base]))


@pytest.mark.parametrize("base", [DGDExecutor, GTExecutor, GTADAMExecutor])
def test_what_to_message_returns_is_all_that_neighbours_get(train, base):
    seen = []

    class Noisy(base):
        def _to_message(self, x):
            message = super()._to_message(x)
            arrays = message if isinstance(message, list) else message["parameters"]
            for array in arrays:
                array[...] = 7.0
            return message

        def _from_message(self, x):
            value = super()._from_message(x)
            seen.extend(value if isinstance(value, list) else value["parameters"])
            return value

    train(Noisy, iterations=1, **RATES[base])
    assert seen
    assert {float(entry) for tensor in seen for entry in tensor.reshape(-1)} == {7.0}


def test_one_site_with_code_of_its_own_is_understood_by_all(train):
    class Negative(DGDExecutor):
        def _to_message(self, x):
            return [-array for array in super()._to_message(x)]

    alone = train({"bonn": Negative, "ulm": DGDExecutor, "worms": DGDExecutor}, iterations=3)
    assert not torch.allclose(alone, train(DGDExecutor, iterations=3))


def test_consensus_sends_and_mixes_what_its_subclass_makes_of_the_values(agree):
    class Shifted(ConsensusExecutor):
        def _to_message(self, x):
            return {"text": str(x + 1)}

        def _from_message(self, x):
            return 2 * float(x["text"])

    assert agree(Shifted) == pytest.approx(mixed(list(VALUES.values()), 4, lambda x: 2 * (x + 1)))
    assert agree.sites.executors["bonn"].value_history[0] == 1.0
    assert len(agree.sites.executors["bonn"].value_history) == 5


def test_a_value_of_the_subclass_is_what_consensus_starts_from(agree):
    class Private(ConsensusExecutor):
        def __init__(self, initial_value):
            super().__init__(initial_value)
            self.current_value = 10 * initial_value

    class Late(ConsensusExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            self.current_value = 10 * self.initial_value

    expected = pytest.approx(mixed([10.0, 50.0, 120.0], 4))
    assert agree(Private) == expected
    assert agree(Late) == expected


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
@pytest.mark.parametrize("base", ["native", "by value"])
def test_consensus_takes_arrays_and_gives_them_back(connect, make, base):
    class Vector(ConsensusExecutor):
        if base == "by value":

            def _to_message(self, x):
                return x

    sites = connect(RING, {site: Vector(make([[value, 1.0]])) for site, value in VALUES.items()})
    finished(sites.run(80))
    for executor in sites.executors.values():
        assert type(executor.current_value) is type(make([0.0]))
        np.testing.assert_allclose(np.asarray(executor.current_value), [[6.0, 1.0]])
        saved = torch.load(executor._flaremesh.member.folder / "value_sequence.pt")
        assert saved.shape == (81, 1, 2)


def test_handle_neighbor_value_sees_and_changes_what_arrives(agree):
    class Halving(ConsensusExecutor):
        def _handle_neighbor_value(self, topic, request, fl_ctx):
            assert topic == "send_value"
            sender = request.get_peer_props()["__identity_name__"]
            assert fl_ctx.get_peer_context().get_identity_name() == sender
            data = from_shareable(request).data
            with self.lock:
                self.neighbors_values[data["iteration"]][sender] = self._from_message(data["value"]) / 2
                if len(self.neighbors_values[data["iteration"]]) >= len(self.neighbors):
                    self.sync_waiter.set()
            return make_reply(ReturnCode.OK)

    assert agree(Halving) == pytest.approx(mixed(list(VALUES.values()), 4, lambda x: x / 2))


def test_a_value_that_is_not_stored_is_missed_by_name(connect):
    class Deaf(ConsensusExecutor):
        def _handle_neighbor_value(self, topic, request, fl_ctx):
            return make_reply(ReturnCode.OK)

    sites = connect(RING, {site: Deaf(value) for site, value in VALUES.items()})
    reasons = failed(sites.run(1))
    assert (
        reasons["bonn"]
        == "bonn: _handle_neighbor_value of Deaf stored no value of ulm, worms for iteration 0"
    )


def test_values_can_be_judged_after_the_exchange(agree):
    class Clipping(ConsensusExecutor):
        def _exchange_values(self, fl_ctx, value, *args, **kwargs):
            super()._exchange_values(fl_ctx, value, *args, **kwargs)
            (received,) = self.neighbors_values.values()
            for sender in received:
                received[sender] = min(received[sender], 4.0)

    assert agree(Clipping) == pytest.approx(mixed(list(VALUES.values()), 4, lambda x: min(x, 4.0)))


def test_what_the_exchange_changes_in_the_own_value_is_mixed(agree):
    class Drifting(ConsensusExecutor):
        def _exchange_values(self, fl_ctx, value, iteration):
            super()._exchange_values(fl_ctx, value, iteration)
            self.current_value += 1

    assert agree(Drifting, iterations=1) == pytest.approx([x + 0.5 for x in mixed(list(VALUES.values()), 1)])


def test_a_value_that_from_message_spoils_is_refused_with_its_sender(connect):
    class Spoilt(DGDExecutor):
        def _from_message(self, x):
            return super()._from_message(x)[:-1]

    sites = connect(RING, {site: Spoilt(*parts(site)) for site in SITES})
    reasons = failed(sites.run(1, stepsize=0.1))
    assert "what _from_message of Spoilt makes of ulm's value does not fit the own one" in reasons["bonn"]


def test_a_local_step_of_the_subclass_replaces_that_of_gradient_tracking(train):
    class Still(GTExecutor):
        def _update_local_state(self, stepsize):
            assert stepsize == 0.1
            assert not torch.is_grad_enabled()

    class Half(GTExecutor):
        def _update_local_state(self, stepsize):
            super()._update_local_state(stepsize / 2)

    class HalfFromTheStart(GTExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
            self._stepsize /= 2

    start = train(GTExecutor, iterations=0)
    torch.testing.assert_close(train(Still), start)
    torch.testing.assert_close(train(Half), train(HalfFromTheStart))
    assert not torch.allclose(train(Half), train(GTExecutor))


@pytest.mark.parametrize("base", [DGDExecutor, GTExecutor, GTADAMExecutor])
def test_a_step_size_may_decay(train, base):
    class Ending(base):
        def _exchange_values(self, fl_ctx, value, iteration):
            super()._exchange_values(fl_ctx, value, iteration)
            if iteration == 2:
                self._stepsize = 1e-12

    ended, two = train(Ending, **RATES[base]), train(base, iterations=2, **RATES[base])
    torch.testing.assert_close(ended.mean(dim=0), two.mean(dim=0))  # which mixing leaves alone


def test_the_number_of_iterations_may_be_changed_before_the_run(train):
    class Short(DGDExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
            self._iterations = 2

    torch.testing.assert_close(train(Short, iterations=9), train(DGDExecutor, iterations=2))


def test_a_tracker_that_the_subclass_sets_is_where_tracking_starts(train):
    class Given(GTExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
            self.tracker = [torch.ones_like(parameter) for parameter in self.model.parameters()]

    start, one = train(GTExecutor, iterations=0), train(Given, iterations=1)
    trainable = torch.cat([torch.full((p.numel(),), p.requires_grad) for p in parts("bonn")[0].parameters()])
    torch.testing.assert_close(one, start - 0.1 * trainable)


@pytest.mark.parametrize("base", [GTExecutor, GTADAMExecutor])
def test_what_tracking_keeps_is_there_when_the_run_is_over(train, base):
    class Reading(base):
        def _post_algorithm_run(self, *args, **kwargs):
            super()._post_algorithm_run(*args, **kwargs)
            self.left = {name: list(getattr(self, name)) for name in kept}

    class ReadingByValue(Reading):
        def _to_message(self, x):
            return super()._to_message(x)

    kept = ["tracker", "old_gradient", *(["m", "v"] if base is GTADAMExecutor else [])]
    train(Reading, **RATES[base])
    native = train.sites.executors["ulm"].left
    train(ReadingByValue, **RATES[base])
    by_value = train.sites.executors["ulm"].left
    assert native["tracker"][0].shape == (4, 3)
    for name in kept:
        torch.testing.assert_close(native[name], by_value[name])


@pytest.mark.parametrize(
    ("base", "loop"), [(DGDExecutor, StockDGD.run_algorithm), (GTExecutor, StockGT.run_algorithm)]
)
def test_the_stock_packages_own_loops_run_on_these_executors(connect, base, loop):
    class Ported(base):
        run_algorithm = loop

        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
            assert self.model.training

    def everything_trains(site):
        model, loss, batches, _ = parts(site)
        data = DataLoader(TensorDataset(*map(torch.cat, zip(*batches, strict=True))), batch_size=6)
        return model.requires_grad_(), loss, data, data

    sites = connect(RING, {site: Ported(*everything_trains(site)) for site in SITES})
    finished(sites.run(60, stepsize=0.1))
    folders = [executor._flaremesh.member.folder for executor in sites.executors.values()]
    losses = sum(torch.load(folder / "train_loss_sequence.pt")[:, 1] for folder in folders)
    assert losses[-1] < 0.95 * losses[0]
    assert [executor.neighbors_values for executor in sites.executors.values()] == [{}, {}, {}]


def test_sites_of_an_own_loop_start_from_the_model_of_the_first(connect):
    class Loop(DGDExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            self.start = self.model[0].weight.detach().clone()

        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            pass

    executors = {site: Loop(*parts(site)) for site in SITES}
    torch.nn.init.ones_(executors["bonn"].model[0].weight)
    finished(connect(RING, executors).run(1, stepsize=0.1))
    for executor in executors.values():
        assert bool((executor.start == 1).all())


def test_a_model_and_data_set_before_the_run_are_those_that_are_trained(train):
    class Late(DGDExecutor):
        def __init__(self, *given):
            super().__init__()
            self.given = given

        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            super()._pre_algorithm_run(fl_ctx, shareable, abort_signal)
            self.model, self.loss, self.train_dataloader, self.test_dataloader = self.given

    class Replaced(DGDExecutor):
        def __init__(self, *given):
            super().__init__(torch.nn.Linear(1, 1), *given[1:])
            self.model = given[0]

    expected = train(DGDExecutor)
    torch.testing.assert_close(train(Late), expected)
    torch.testing.assert_close(train(Replaced), expected)


def test_an_executor_without_a_model_says_so(connect):
    sites = connect(RING, {site: DGDExecutor() for site in SITES})
    reasons = failed(sites.run(1, stepsize=0.1))
    assert reasons["bonn"] == (
        "DGDExecutor of bonn has no model: hand it to super().__init__, or set it in _pre_algorithm_run"
    )


def test_weights_that_a_subclass_changes_are_mixed_with(agree):
    class Lazy(ConsensusExecutor):
        def _pre_algorithm_run(self, fl_ctx, shareable, abort_signal):
            self._weight = 0.8
            for neighbor in self.neighbors:
                neighbor.weight = 0.1

    values = list(VALUES.values())
    assert agree(Lazy, iterations=1) == pytest.approx([0.7 * x + 0.1 * sum(values) for x in values])


class Averaging(SyncAlgorithmExecutor):
    def __init__(self, value):
        super().__init__(0.4)
        self.current_value = value
        self.unlisted = ()

    def run_algorithm(self, fl_ctx, shareable, abort_signal):
        self.neighbors = [neighbor for neighbor in self.neighbors if neighbor.id not in self.unlisted]
        for iteration in range(from_shareable(shareable).data["iterations"]):
            self._exchange_values(fl_ctx, self.current_value, iteration)
            received = self.neighbors_values.pop(iteration)
            self.current_value = 0.5 * self.current_value + sum(received.values()) / 4


def test_an_edge_that_both_ends_take_off_their_lists_carries_nothing(connect):
    executors = {site: Averaging(value) for site, value in VALUES.items()}
    executors["bonn"].unlisted, executors["ulm"].unlisted = ("ulm",), ("bonn",)
    sites = connect(RING, executors)
    finished(sites.run(400))
    carried = [len(data) for sender, peer, data in sites.posts if (sender, peer) == ("bonn", "ulm")]
    assert max(carried) < max(len(data) for sender, peer, data in sites.posts if peer == "worms")
    assert sites.links["bonn"]._edges.inbox._messages.keys() <= {(399, 0, "ulm")}


def test_a_neighbour_that_is_still_listed_is_told_that_nothing_will_come(connect):
    executors = {site: Averaging(value) for site, value in VALUES.items()}
    executors["bonn"].unlisted = ("ulm",)
    reasons = failed(connect(RING, executors).run(3))
    assert reasons["ulm"] == (
        "bonn has taken ulm off its neighbors and sends it nothing; ulm must take bonn off its own"
    )


def test_a_neighbour_without_an_edge_is_refused(connect):
    executors = {site: Averaging(value) for site, value in VALUES.items()}
    network = Network(
        [Node("bonn"), Node("ulm", [Neighbor("worms", 0.5)]), Node("worms", [Neighbor("ulm", 0.5)])]
    )
    sites = connect(network, executors)
    executors["bonn"].neighbors.append(Neighbor("ulm", 0.5))
    assert "bonn lists ulm in neighbors, and this run's network has no edge" in failed(sites.run(1))["bonn"]


def test_the_neighbours_of_a_graph_that_changes_are_those_of_the_iteration(connect):
    phases = [
        [Node("bonn", [Neighbor("ulm", 0.5)]), Node("ulm", [Neighbor("bonn", 0.5)]), Node("worms")],
        [Node("bonn"), Node("ulm", [Neighbor("worms", 0.5)]), Node("worms", [Neighbor("ulm", 0.5)])],
    ]

    class Listening(ConsensusExecutor):
        def _exchange_values(self, fl_ctx, value, iteration):
            super()._exchange_values(fl_ctx, value, iteration)
            assert set(self.neighbors_values[iteration]) == {neighbor.id for neighbor in self.neighbors}

    network = Network(phases=phases)
    sites = connect(network, {site: Listening(value) for site, value in VALUES.items()})
    finished(sites.run(2))
    assert [executor.current_value for executor in sites.executors.values()] == pytest.approx([3, 7.5, 7.5])


@pytest.mark.parametrize("iteration", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_an_iteration_may_be_any_whole_number(connect, iteration):
    executors = {site: Averaging(value) for site, value in VALUES.items()}
    sites = connect(RING, executors)
    for executor in executors.values():
        executor.run_algorithm = lambda fl_ctx, *_, executor=executor: executor._exchange_values(
            fl_ctx, 1.0, iteration
        )
    finished(sites.run(1))
    assert executors["bonn"].neighbors_values == {3: {"ulm": 1.0, "worms": 1.0}}
    assert executors["bonn"]._flaremesh.exchanges.done == 4


def test_an_iteration_that_is_no_whole_number_is_refused(connect):
    executor = Averaging(1.0)
    connect(Network([Node("bonn")]), {"bonn": executor})
    with pytest.raises(
        Exception, match="the iteration of _exchange_values must be a whole number, not 'first'"
    ):
        executor._exchange_values(FLContext(), 1.0, "first")


def test_an_iteration_may_exchange_more_than_once(connect):
    class Twice(SyncAlgorithmExecutor):
        def __init__(self, value, pause):
            super().__init__()
            self.value, self.pause, self.seen = value, pause, []

        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            for sign in (1, -1):
                time.sleep(self.pause)
                self._exchange_values(fl_ctx, sign * self.value, 0)
                self.seen.append(dict(self.neighbors_values[0]))

    executors = {"bonn": Twice(1.0, 0.0), "ulm": Twice(5.0, 0.2), "worms": Twice(12.0, 0.0)}
    finished(connect(RING, executors).run(1))
    assert executors["ulm"].seen == [{"bonn": 1.0, "worms": 12.0}, {"bonn": -1.0, "worms": -12.0}]


def test_the_name_of_a_site_need_not_come_from_an_event(connect):
    class Quiet(Averaging):
        def handle_event(self, event_type, fl_ctx):
            pass

    context = FLContext()
    context.put(ReservedKey.IDENTITY_NAME, "bonn", private=False, sticky=False)
    executor = Quiet(1.0)
    executor.handle_event(EventType.START_RUN, context)
    assert executor.client_name == ""
    executor._learn_name(context)
    assert (executor.client_name, executor.id) == ("bonn", "bonn")


@pytest.mark.parametrize(
    "use",
    [
        lambda id: id == 1,
        lambda id: id - 1,
        lambda id: id % 2,
        lambda id: [0, 1][id],
        lambda id: id in (1, 2),
    ],
)
def test_a_site_name_taken_for_a_number_says_what_it_is(use):
    context = FLContext()
    context.put(ReservedKey.IDENTITY_NAME, "site-1", private=False, sticky=False)
    executor = Averaging(0.0)
    executor.handle_event(EventType.START_RUN, context)
    assert {executor.id: 1}["site-1"] == 1
    with pytest.raises(NameTaken, match="id is the site's name 'site-1' and no number"):
        use(executor.id)


def test_names_that_flaremesh_uses_itself_cannot_be_taken_by_accident(connect):
    with pytest.raises(
        NameTaken, match=r"Ported\._site_result is the name of a method that flaremesh's executors use"
    ):

        class Ported(Averaging):
            def _site_result(self):
                return 3

    executor = Averaging(1.0)
    executor._connect_links = None
    reply = executor.execute("config", _data({"neighbors": []}), FLContext(), None)
    assert "Averaging._connect_links is the name of a method" in reply.get_header(REASON)


@pytest.mark.parametrize(
    "name", ["_build", "_join", "_model", "_perform", "_send", "_step", "_train", "_update"]
)
def test_words_that_anybody_may_call_a_method_are_free(name):
    assert issubclass(type("Ported", (GTADAMExecutor,), {name: lambda self: None}), GTExecutor)


def _data(data):
    return DXO(DataKind.APP_DEFINED, data=data).to_shareable()


def test_attributes_of_any_name_disturb_nothing(train):
    class Ported(GTExecutor):
        def __init__(self, *given):
            super().__init__(*given)
            for name in (
                "iteration",
                "evaluation",
                "norms",
                "algorithm",
                "problem",
                "run",
                "link",
                "metrics",
            ):
                setattr(self, name, 0)
                setattr(self, f"_{name}", 0)

    torch.testing.assert_close(train(Ported), train(GTExecutor))


@pytest.mark.parametrize("iterations", [None, "10", 2.5, -1, True])
def test_iterations_that_are_no_number_of_them_are_refused(connect, iterations):
    sites = connect(RING, {site: ConsensusExecutor(value) for site, value in VALUES.items()})
    reason = f'extra["iterations"] must be a whole number of at least 0, not {refused(iterations)}'
    assert set(failed(sites.run(iterations)).values()) == {reason}


def test_a_loop_of_the_subclasss_own_needs_no_number_of_iterations(connect):
    class Until(ConsensusExecutor):
        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            self.rounds = from_shareable(shareable).data["rounds"]

    executor = Until(1.0)
    executor._pre_algorithm_run(FLContext(), _data({"rounds": 3}), None)
    executor.run_algorithm(FLContext(), _data({"rounds": 3}), None)
    assert executor.rounds == 3


def test_a_subclass_that_leaves_by_sys_exit_is_told_from_a_process_that_died(connect):
    class Leaving(Averaging):
        def run_algorithm(self, fl_ctx, shareable, abort_signal):
            raise SystemExit("no data")

    sites = connect(RING, {site: Leaving(1.0) for site in SITES})
    assert failed(sites.run(1))["bonn"] == "SystemExit: no data"


@pytest.mark.parametrize("name", ["DGDExecutor", "GTExecutor", "GTADAMExecutor", "ConsensusExecutor"])
def test_constructors_take_the_arguments_of_the_stock_package_in_its_order(name):
    def names(cls):
        return list(inspect.signature(cls.__init__).parameters)

    expected = names(getattr(stock, name))
    assert names(getattr(executors, name))[: len(expected)] == expected


class Identity(DGDExecutor):
    def _to_message(self, x):
        return super()._to_message(x)


def with_statistics(site):
    _, loss, batches, _ = parts(site)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1)).double()
    return model, loss, batches, batches


def test_where_a_subclass_makes_the_messages_each_site_keeps_its_statistics(connect):
    sites = connect(RING, {site: Identity(*with_statistics(site)) for site in SITES})
    finished(sites.run(5, stepsize=0.1))
    models = [executor.model for executor in sites.executors.values()]
    assert not torch.allclose(models[0][0].running_mean, models[1][0].running_mean)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"mix_buffers": True}, 'extra["mix_buffers"] is true, and a subclass makes the messages'),
        ({"wire": "bfloat16"}, 'extra["wire"] is bfloat16, and a subclass makes the messages'),
        ({"wire": "narrow"}, 'extra["wire"]: '),
        ({"mixing": {"clip": 1}}, 'extra["mixing"] is given, and a subclass mixes the messages itself'),
        ({"mixing": {"clip": 0}}, 'extra["mixing"]: 0 is no distance'),
        ({"evaluate_every": 0}, 'extra["evaluate_every"] must be a whole number of at least 1, not 0'),
        ({"stop_on_non_finite": "no"}, 'extra["stop_on_non_finite"] must be true or false, not a str'),
        ({"seed": "x"}, 'extra["seed"] must be a whole number'),
        ({"stepsize": "0.1"}, 'extra["stepsize"] must be a number above 0, not a str'),
    ],
)
def test_what_extra_says_in_vain_or_wrongly_is_refused(connect, extra, reason):
    sites = connect(RING, {site: Identity(*with_statistics(site)) for site in SITES})
    reasons = failed(sites.run(1, **{"stepsize": 0.1} | extra))
    assert reason in reasons["bonn"]
