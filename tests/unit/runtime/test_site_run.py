"""The loop of one site, driven with neighbours whose messages the test reads and writes."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from flaremesh.algorithms import create
from flaremesh.gossip import GossipError
from flaremesh.links import Key, LinkError, PeerBehind, PeerTimeout, link
from flaremesh.links.inprocess import InProcessLink, inboxes
from flaremesh.metrics.sink import Logged
from flaremesh.problems.consensus import Consensus
from flaremesh.problems.module import Batches, ModuleProblem
from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.runtime import site_run
from flaremesh.runtime.history import History
from flaremesh.runtime.observation import Observation
from flaremesh.runtime.options import RunOptions
from flaremesh.runtime.site_run import NonFiniteValue, SiteRun
from flaremesh.topology.neighborhood import Neighborhood
from flaremesh.topology.schema import Run, Wire

BONN = SiteContext("bonn", index=0, sites=2, seed=0)
HOOD = Neighborhood("bonn", self_weight=0.75, in_weights={"kiel": 0.25}, out=("kiel",))


class Heard(History):
    """A history that keeps the norms too."""

    def __init__(self):
        super().__init__()
        self.looks = []

    def norms(self, record):
        self.looks.append(record)


class Pair:
    """Bonn runs; the test is Kiel."""

    def __init__(self, problem, algorithm, hood=HOOD, **options):
        boxes = inboxes(["bonn", "kiel"])
        self._kiel = InProcessLink("kiel", boxes)
        self.history = Heard()
        options = {"iterations": 10, "peer_timeout": 0.0} | options
        link = InProcessLink("bonn", boxes)
        self.bonn = SiteRun(algorithm, problem, [hood], link, self.history, RunOptions(**options))

    def answer(self, iteration, values, dtype=np.float64, stage=0):
        self._kiel.send("bonn", Key(iteration, stage, "kiel"), [np.asarray(values, dtype=dtype).tobytes()])

    def got(self, iteration, dtype=np.float64, stage=0, timeout=0):
        key = Key(iteration, stage, "bonn")
        return np.frombuffer(self._kiel.receive([key], timeout)[key], dtype=dtype)

    def send(self, iteration):
        """Bonn sends, and pauses before it waits."""
        self.turn = self.bonn.turns(iteration)
        next(self.turn)

    def advance(self):
        """Bonn goes on to the end of the iteration."""
        assert [*self.turn] == []

    def iterate(self, iteration, values, dtype=np.float64):
        self.send(iteration)
        self.answer(iteration, values, dtype)
        self.advance()


def consensus_pair(**options):
    return Pair(Consensus(BONN, {"bonn": [4.0, 8.0]}), create("consensus"), **options)


def normalised(site=BONN):
    """One input feature behind a BatchNorm: buffers are its mean and variance."""
    inputs = torch.tensor([[1.0], [3.0]])
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1, bias=False))
    return ModuleProblem(site, model, mse_loss, Batches(inputs, inputs), device="cpu")


class Logging(Consensus):
    """Logs at each evaluation, at a step of its own counting or none."""

    entries = ((None, {"seen": 1.0}), (40, {"lr": 0.5}))

    def take_log(self):
        entries, self.entries = self.entries, ()
        return entries


def test_what_a_problem_logs_is_told_with_the_iteration_in_which_it_came():
    problem = Logging(BONN, {"bonn": [4.0, 8.0]})
    pair = Pair(problem, create("consensus"))
    problem.entries = [(None, {"seen": 2.0})]
    pair.iterate(0, [0.0, 4.0])
    pair.send(1)
    assert pair.history.log == [
        Logged(0, 0, {"seen": 1.0}),
        Logged(0, 40, {"lr": 0.5}),
        Logged(1, 1, {"seen": 2.0}),
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(-1, {})], "a step of its log that is -1"),
        ([(1, 2.0)], "metrics that are a float"),
        ([(1, {"lr": "fast"})], "a metric lr that is a str"),
        ([3], "failed"),
    ],
)
def test_what_a_problem_logs_is_checked(entries, message):
    problem = Logging(BONN, {"bonn": [4.0, 8.0]})
    problem.entries = entries
    with pytest.raises(ProblemError, match=f"problem of bonn .*{message}"):
        Pair(problem, create("consensus"))


def test_an_iteration_sends_the_value_and_mixes_with_the_rows_weights():
    pair = consensus_pair()
    pair.iterate(0, [0.0, 4.0])
    assert pair.got(0).tolist() == [4.0, 8.0]
    assert pair.bonn.estimate.tolist() == [3.0, 7.0]
    (record,) = pair.history.iterations
    assert record.iteration == 1
    assert record.loss is None
    assert record.consensus_distance == pytest.approx(2**0.5)
    assert record.wait_seconds <= record.seconds


def test_the_phases_of_an_iteration_fit_into_it():
    pair = consensus_pair()
    pair.iterate(0, [0.0, 4.0])
    pair.send(1)  # which tells of the first
    (record,) = pair.history.iterations
    phases = (record.send_seconds, record.wait_seconds, record.mix_seconds)
    assert min(phases) > 0
    assert sum(phases) <= record.seconds


def test_the_norms_of_gradient_and_innovation_are_those_of_the_equations():
    problem = normalised()
    pair = Pair(problem, create("dgd", stepsize=0.5), mix_buffers=False)
    _, gradient = normalised().loss_and_gradient(problem.initial())
    pair.iterate(0, [0.0] * len(gradient), np.float32)
    pair.send(1)
    (look,) = pair.history.looks
    assert look.iteration == 1
    assert look.gradient == pytest.approx(float(gradient.norm()))
    assert look.innovation == pytest.approx(0.5 * float(gradient.norm()))


def test_of_a_long_vector_a_sample_tells_the_norm_of_the_innovation():
    generator = torch.Generator().manual_seed(1)
    mixture, innovation = torch.randn(2, 3_000_000, generator=generator)
    observed = Observation(0, 0.0, [0.0], look=True)
    message = mixture + innovation
    observed.keep(mixture)
    mixture.zero_()  # an algorithm works in its memory
    assert observed.mixture.numel() < 600_000
    assert observed.norms((message,)).innovation == pytest.approx(float(innovation.norm()), rel=0.01)


def test_consensus_adds_nothing_to_the_mix():
    pair = consensus_pair()
    pair.iterate(0, [0.0, 4.0])
    pair.send(1)
    (look,) = pair.history.looks
    assert (look.gradient, look.innovation) == (None, 0.0)


def test_norms_are_looked_at_no_more_than_once_a_second(monkeypatch):
    pair = consensus_pair()
    for iteration in range(3):
        pair.iterate(iteration, [0.0, 4.0])
    pair.send(3)
    assert [look.iteration for look in pair.history.looks] == [1]
    monkeypatch.setattr(site_run, "_LOOK_SECONDS", 0.0)
    pair.send(4)
    pair.answer(4, [0.0, 4.0])
    pair.advance()
    pair.send(5)
    assert [look.iteration for look in pair.history.looks] == [1, 5]


def test_what_was_sent_does_not_change_when_the_model_does():
    problem = normalised()
    pair = Pair(problem, create("dgd", stepsize=0.5))
    before = [*problem.initial().tolist(), *problem.buffers().tolist()]
    pair.send(0)
    problem.loss_and_gradient(torch.full_like(problem.initial(), 9.0))
    problem.buffers().fill_(9.0)
    pair.answer(0, [0.0] * 5, np.float32)
    pair.advance()
    assert pair.got(0, np.float32).tolist() == pytest.approx(before)


def learnt(statistics):
    """What BatchNorm makes of its statistics on a batch of mean 2 and variance 2, momentum 0.1."""
    return 0.9 * statistics + 0.1 * 2.0


@pytest.mark.parametrize("name", ["dgd", "dgd-cta", "dgd-atc", "gradient-tracking", "gtadam"])
def test_batch_statistics_are_mixed_and_what_an_iteration_learns_is_kept(name):
    problem = normalised()
    pair = Pair(problem, create(name, stepsize=0.1))
    problem.loss_and_gradient(problem.initial())  # from now on they are statistics: training has changed them
    sent = problem.buffers().clone()
    pair.send(0)
    pair.answer(0, [*pair.got(0, np.float32)[:-2], 100.0, 100.0], np.float32)
    pair.advance()
    mixed = 0.75 * sent + 0.25 * 100.0
    gradient_came_first = name == "dgd"
    expected = mixed + learnt(sent) - sent if gradient_came_first else learnt(mixed)
    torch.testing.assert_close(problem.buffers(), expected)


def test_buffers_travel_and_are_mixed_with_the_first_exchange_alone():
    problem = normalised()
    pair = Pair(problem, create("gradient-tracking-atc", stepsize=0.1))
    problem.buffers().fill_(3.0)
    pair.send(0)
    first = pair.got(0, np.float32)
    pair.answer(0, [*first[:-2], 7.0, 7.0], np.float32)
    assert next(pair.turn) is None
    assert problem.buffers().tolist() == pytest.approx([learnt(4.0)] * 2)
    second = pair.got(0, np.float32, stage=1)
    assert len(second) == len(first) - 2
    pair.answer(0, second, np.float32, stage=1)
    pair.advance()
    assert problem.buffers().tolist() == pytest.approx([learnt(4.0)] * 2)


def test_buffers_are_left_alone_when_mixing_them_is_off():
    problem = normalised()
    pair = Pair(problem, create("dgd", stepsize=0.1), mix_buffers=False)
    pair.send(0)
    message = pair.got(0, np.float32)
    assert len(message) == len(problem.initial())


def test_buffers_are_averaged_even_where_the_rows_do_not_sum_to_one():
    problem = normalised()
    hood = Neighborhood("bonn", self_weight=0.5, in_weights={"kiel": 1.0}, out=("kiel",))
    pair = Pair(problem, create("push-sum"), hood=hood)
    problem.buffers().fill_(3.0)
    pair.send(0)
    pair.answer(0, [*pair.got(0, np.float32)[:-2], 6.0, 6.0], np.float32)
    pair.advance()
    assert problem.buffers().tolist() == pytest.approx([5.0, 5.0])


class Witness(Consensus):
    """Notes when its gradient is asked for, and is the run's link, which notes when a site waits."""

    def __init__(self, link):
        super().__init__(BONN, {"bonn": 1.0})
        self.link, self.events = link, []

    def loss_and_gradient(self, x):
        self.events.append("gradient")
        return super().loss_and_gradient(x)

    def send(self, peer, key, buffers):
        self.events.append("send")
        self.link.send(peer, key, buffers)

    def expect(self, length):
        pass

    def receive(self, keys, timeout):
        self.events.append("wait")
        return self.link.receive(keys, timeout)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("dgd", ["send", "gradient", "wait"]),
        ("dgd-cta", ["send", "wait", "gradient"]),
        ("dgd-atc", ["send", "wait", "gradient"]),
        ("gradient-tracking", ["send", "wait", "gradient"]),
        ("gtadam", ["send", "wait", "gradient"]),
        ("gradient-tracking-atc", ["send", "wait", "gradient", "send", "wait"]),
    ],
)
def test_the_gradient_is_computed_while_messages_travel_where_the_equations_allow_it(name, order):
    boxes = inboxes(["bonn", "kiel"])
    witness, history = Witness(InProcessLink("bonn", boxes)), History()
    run = SiteRun(create(name, stepsize=0.1), witness, [HOOD], witness, history, RunOptions(iterations=1))
    del witness.events[:]
    for stage, _ in enumerate(run.turns(0)):
        key = Key(0, stage, "bonn")
        boxes["bonn"].put(Key(0, stage, "kiel"), boxes["kiel"].take([key], 0)[key])
    assert witness.events == order
    (record,) = history.iterations
    hidden = record.gradient_seconds if order == ["send", "gradient", "wait"] else 0.0
    assert record.overlap_seconds >= hidden


def test_phases_take_turns():
    alone = Neighborhood("bonn", self_weight=1.0, in_weights={}, out=())
    boxes = inboxes(["bonn", "kiel"])
    kiel = InProcessLink("kiel", boxes)
    run = SiteRun(
        create("consensus"),
        Consensus(BONN, {"bonn": 4.0}),
        [alone, HOOD],
        InProcessLink("bonn", boxes),
        History(),
        RunOptions(iterations=4, peer_timeout=0.0),
    )
    for iteration in (1, 3):
        kiel.send("bonn", Key(iteration, 0, "kiel"), [np.zeros(1).tobytes()])
    run.run()
    assert run.estimate.tolist() == [4.0 * 0.75**2]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"iterations": 7, "evaluate_every": 3}, [0, 3, 6, 7]),
        ({"iterations": 6, "evaluate_every": 3}, [0, 3, 6]),
        ({"iterations": 3}, [0, 1, 2, 3]),
        ({"iterations": 60}, list(range(0, 61, 3))),
    ],
)
def test_the_first_every_nth_and_the_last_iterate_are_evaluated(options, expected):
    pair = consensus_pair(**options)
    for iteration in range(options["iterations"]):
        pair.iterate(iteration, [0.0, 0.0])
    assert [evaluation.iteration for evaluation in pair.history.evaluations] == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_stops_the_run_and_names_the_site_that_sent_it(value):
    pair = consensus_pair()
    with pytest.raises(
        NonFiniteValue,
        match=r"^kiel sent bonn a value that is not finite in iteration 1.*diverges.*means harm",
    ):
        pair.iterate(0, [0.0, value])
    assert not pair.history.iterations[0].finite


@pytest.mark.parametrize("stage", [0, 1])
def test_poison_in_any_exchange_is_that_of_its_sender(stage):
    pair = Pair(Consensus(BONN, {"bonn": [4.0, 8.0]}), create("gradient-tracking-atc", stepsize=0.1))
    pair.send(0)
    for number in range(stage + 1):
        pair.answer(0, [0.0, math.nan if number == stage else 0.0], stage=number)
    with pytest.raises(NonFiniteValue, match=r"^kiel sent bonn a value that is not finite in iteration 1"):
        pair.advance()


def test_a_diverging_site_stops_before_it_sends_the_value_that_overflowed():
    pair = Pair(Consensus(BONN, {"bonn": 1.0}), create("dgd", stepsize=1e308))
    pair.iterate(0, [2.0])
    pair.iterate(1, [2.0])
    with pytest.raises(NonFiniteValue, match="bonn has a non-finite value at iteration 3"):
        pair.iterate(2, [2.0])
    assert np.isfinite([pair.got(iteration) for iteration in range(3)]).all()


def test_a_run_may_go_on_with_non_finite_values():
    pair = consensus_pair(stop_on_non_finite=False)
    pair.iterate(0, [0.0, float("nan")])
    pair.iterate(1, [0.0, 0.0])
    assert pair.history.last_iteration == 2


class Failing(Consensus):
    """Raises where it is told to."""

    def __init__(self, where):
        super().__init__(BONN, {"bonn": 1.0})
        self._where = where

    def _fail(self, where):
        if where == self._where:
            raise KeyError("no such column")

    def initial(self):
        self._fail("initial")
        return super().initial()

    def loss_and_gradient(self, x):
        self._fail("loss_and_gradient")
        return super().loss_and_gradient(x)

    def evaluate(self, x):
        self._fail("evaluate")
        return super().evaluate(x)


@pytest.mark.parametrize("where", ["initial", "loss_and_gradient", "evaluate"])
def test_a_failing_problem_is_reported_with_site_and_cause(where):
    with pytest.raises(ProblemError, match="the problem of bonn failed: KeyError: 'no such column'"):
        Pair(Failing(where), create("gradient-tracking", stepsize=0.1))


def test_a_message_of_another_length_names_the_sender():
    pair = consensus_pair()
    with pytest.raises(LinkError, match="kiel sent 24 bytes, expected 16"):
        pair.iterate(0, [1.0, 2.0, 3.0])


def test_a_silent_neighbour_is_named():
    pair = consensus_pair()
    pair.send(0)
    with pytest.raises(PeerTimeout, match="kiel"):
        pair.advance()


SOURCE = Neighborhood("bonn", self_weight=1.0, in_weights={}, out=("kiel",))


def test_a_site_that_hears_of_nobody_waits_for_those_that_it_has_left_behind(monkeypatch):
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 2)
    pair = consensus_pair(hood=SOURCE, peer_timeout=10.0)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(pair.bonn.run)
        with pytest.raises(TimeoutError):
            run.result(0.2)
        for iteration in range(pair.bonn.iterations):
            assert pair.got(iteration, timeout=10).tolist() == [4, 8]
        run.result(10)


def test_a_neighbour_that_takes_nothing_in_the_whole_time_is_named(monkeypatch):
    monkeypatch.setattr(link, "MAX_UNTAKEN_MESSAGES", 2)
    pair = consensus_pair(hood=SOURCE, peer_timeout=0.1)
    with pytest.raises(PeerBehind, match="kiel has not taken the last 2 messages"):
        pair.bonn.run()


@pytest.mark.parametrize("wire", ["int8", {"encoding": "int8"}, Wire(encoding="int8")])
def test_the_wire_may_come_from_a_job_as_a_word_or_a_mapping(wire):
    options = RunOptions(iterations=1, wire=wire)
    assert options.wire == Wire(encoding="int8")
    assert options == RunOptions.of(Run(algorithm="dgd", iterations=1, wire="int8", problem={"path": "a.B"}))


def test_a_wire_that_needs_the_same_neighbours_all_the_time_is_refused_before_the_first_message():
    boxes = inboxes(["bonn", "kiel"])
    with pytest.raises(GossipError, match="int8 keeps copies"):
        SiteRun(
            create("consensus"),
            Consensus(BONN, {"bonn": 4.0}),
            [HOOD, HOOD],
            InProcessLink("bonn", boxes),
            History(),
            RunOptions(iterations=4, wire="int8"),
        )


def test_a_narrow_wire_sends_the_iterate_narrow_and_the_statistics_as_they_are():
    problem = normalised()
    pair = Pair(problem, create("dgd", stepsize=0.1), wire="bfloat16")
    iterate, statistics = problem.initial(), problem.buffers().clone()
    pair.send(0)
    message = pair.got(0, np.uint8).tobytes()
    assert message[:6] == iterate.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert message[8:] == statistics.numpy().tobytes()


class Reusing(Consensus):
    """Goes on working in the memory of its initial point."""

    def __init__(self):
        super().__init__(BONN, {"bonn": [4.0, 8.0]})
        self._x = super().initial()

    def initial(self):
        return self._x

    def evaluate(self, x):
        self._x.fill_(9.0)
        return {}


def test_a_problem_may_go_on_working_in_the_memory_of_its_initial_point():
    pair = Pair(Reusing(), create("consensus"))
    pair.iterate(0, [0.0, 4.0])
    assert pair.got(0).tolist() == [4.0, 8.0]
    assert pair.bonn.estimate.tolist() == [3.0, 7.0]


def test_only_a_gradient_can_make_a_finite_mixture_infinite_and_then_it_is_noticed():
    pair = Pair(Consensus(BONN, {"bonn": [1.0, 1.0]}), create("dgd", stepsize=1.0))
    pair.iterate(0, [1.0, 1.0])
    pair.bonn.problem.loss_and_gradient = lambda x: (torch.tensor(1.0), torch.tensor([0.0, -math.inf]))
    with pytest.raises(NonFiniteValue, match=r"bonn has a non-finite value at iteration 2 \(loss 1.0\)"):
        pair.iterate(1, [1.0, 1.0])
    assert not pair.history.iterations[1].finite
