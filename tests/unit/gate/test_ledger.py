"""What all runs together may spend of a site's data, and what a run that ends, or does not, has spent."""

import threading
from datetime import UTC, datetime

import pytest

from flaremesh.p2p.gate import consent, policy
from flaremesh.p2p.gate.ledger import LEDGER, Ledger
from flaremesh.p2p.gate.request import Refused
from flaremesh.privacy.accounting import epsilon, most_rdp
from flaremesh.topology.schema import Privacy

NOW = datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
DELTA = 1e-5
RDP = most_rdp(4, DELTA)


@pytest.fixture
def run_of(request_of):
    def make(number, spends=4.0, **fields):
        privacy = Privacy.model_validate({"epsilon": spends, "delta": DELTA, "clip": 1.0})
        return request_of(**{"run": f"run-{number}", "job": f"job-{number}", "privacy": privacy} | fields)

    return make


@pytest.fixture
def rules(workspace):
    def read(text="privacy: {budget: {epsilon: 8}}"):
        (workspace / "policy.yaml").write_text(text)
        return policy.read(workspace)

    return read


def test_the_divergences_of_runs_add_up_until_the_budget_of_the_data_is_spent(workspace, run_of, rules):
    allowed = rules()
    fit = 0
    while epsilon((fit + 1) * RDP, DELTA) <= 8:
        Ledger(workspace).check(run_of(fit), allowed)
        Ledger(workspace).book(run_of(fit), allowed, NOW)
        fit += 1
    assert fit == 3  # less than a sum of ε, of which 2 would fit
    assert Ledger(workspace).spent("data", DELTA) == pytest.approx(epsilon(3 * RDP, DELTA))
    refused = (
        r"privacy\.budget: 3 runs have spent ε 7\.\d+ of this site's data, and with this one it would be 8\."
    )
    with pytest.raises(Refused, match=refused):
        Ledger(workspace).check(run_of(fit), allowed)
    with pytest.raises(Refused, match=refused):
        Ledger(workspace).book(run_of(fit), allowed, NOW)
    Ledger(workspace).check(run_of(fit, spends=0.3), allowed)


def test_what_a_run_has_not_spent_is_given_back_once_and_no_more_than_was_booked(workspace, run_of, rules):
    ledger = Ledger(workspace)
    for number in range(3):
        ledger.book(run_of(number), rules(), NOW)
    ledger.settle("job-0", RDP / 4)
    ledger.settle("job-0", 0.0)
    ledger.settle("job-1", 100 * RDP)
    ledger.settle("job-of-no-run", 0.0)
    # the third was killed, and has told nothing
    assert ledger.spent("data", DELTA) == pytest.approx(epsilon(2.25 * RDP, DELTA))


def test_other_data_have_a_ledger_of_their_own(workspace, run_of, rules):
    ledger = Ledger(workspace)
    ledger.book(run_of(1, spends=8.0), rules(), NOW)
    with pytest.raises(Refused, match=r"privacy\.budget"):
        ledger.check(run_of(2), rules())
    renamed = rules("privacy: {budget: {epsilon: 8}, data: cohort-2027}")
    ledger.check(run_of(2), renamed)
    assert ledger.spent("cohort-2027", DELTA) == 0


def test_a_run_is_booked_also_where_no_budget_limits_it_yet(workspace, run_of, rules):
    Ledger(workspace).book(run_of(1, spends=8.0), policy.read(workspace), NOW)
    with pytest.raises(Refused, match=r"privacy\.budget: 1 runs have spent ε 8 "):
        Ledger(workspace).check(run_of(2), rules())


def test_of_two_runs_that_begin_at_once_the_budget_lets_one_in(workspace, run_of, rules):
    allowed, outcomes = rules(), []

    def begin(number):
        try:
            Ledger(workspace).book(run_of(number, spends=8.0), allowed, NOW)
            outcomes.append("in")
        except Refused:
            outcomes.append("out")

    begins = [threading.Thread(target=begin, args=(number,)) for number in range(4)]
    for one in begins:
        one.start()
    for one in begins:
        one.join()
    assert sorted(outcomes) == ["in", "out", "out", "out"]


def test_a_run_without_a_budget_is_none_of_the_ledgers_business_but_the_policys(workspace, request_of, rules):
    Ledger(workspace).book(request_of(), policy.read(workspace), NOW)
    assert not (workspace / LEDGER).exists()
    rules()
    with pytest.raises(Refused, match="privacy: the run has no privacy budget"):
        consent.check(workspace, request_of())


def test_consent_asks_the_ledger(workspace, run_of, rules):
    rules()
    assert consent.check(workspace, run_of(1)) is None
    Ledger(workspace).book(run_of(1, spends=8.0), policy.read(workspace), NOW)
    with pytest.raises(Refused, match=r"privacy\.budget"):
        consent.check(workspace, run_of(2))


def test_a_run_that_goes_on_after_a_loss_cannot_have_a_budget(workspace, run_of, rules):
    with pytest.raises(Refused, match=r"privacy: .* write on_loss: fail"):
        Ledger(workspace).check(run_of(1, on_loss="wait"), rules())


def test_a_damaged_ledger_lets_no_run_with_a_budget_in(workspace, run_of, rules):
    (workspace / "gate").mkdir(exist_ok=True)
    (workspace / LEDGER).write_text("{")
    with pytest.raises(Refused, match=r"gate/ledger\.json in the site's workspace is damaged"):
        Ledger(workspace).check(run_of(1), rules())
