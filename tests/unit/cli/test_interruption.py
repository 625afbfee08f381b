"""Ctrl-C and SIGTERM: one line and the exit code that shells expect."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flaremesh.cli import interruption
from flaremesh.cli.interruption import Interrupted, interruptible, stopped_by_signals
from flaremesh.cli.main import app
from flaremesh.runtime.simulate import Simulation

RING = Path(__file__).parents[3] / "provision/ring3-consensus.yaml"

CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_ends_a_command_with_one_line_and_its_code(monkeypatch, number, code):
    monkeypatch.setattr("flaremesh.provision.kits.provision", lambda *_, **__: signal.raise_signal(number))
    result = CliRunner().invoke(app, ["provision", str(RING)])
    assert (result.exit_code, result.stdout) == (code, "")
    assert len(result.stderr.splitlines()) == 1


def test_a_simulation_says_how_far_it_came_and_that_nothing_is_written(monkeypatch, tmp_path):
    steps = Simulation.steps

    def interrupted(self):
        for snapshot in steps(self):
            yield snapshot
            if snapshot.iteration == 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Simulation, "steps", interrupted)
    history = tmp_path / "history.json"
    result = CliRunner().invoke(app, ["simulate", str(RING), "--iterations", "9", "--output", str(history)])
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "Interrupted after 3 of 9 iterations; nothing is written.\n"
    assert not history.exists()


def test_a_second_signal_lets_the_clearing_up_go_on_and_a_third_does_not(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    cleared = False
    with interruptible():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Interrupted:
            signal.raise_signal(signal.SIGINT)
            cleared = True
            assert ended == []
            signal.raise_signal(signal.SIGINT)
    assert cleared
    assert ended == [130]
    assert "once more" in capsys.readouterr().err


def test_what_handled_signals_before_handles_them_again():
    before = {number: signal.getsignal(number) for number, _ in CODES}
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
    assert {number: signal.getsignal(number) for number, _ in CODES} == before


def test_ctrl_c_while_modules_are_imported_shows_no_traceback():
    program = "import flaremesh.cli, signal; signal.raise_signal(signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "Interrupted.\n")


def test_a_command_that_nohup_started_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.interruptible():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_is_a_question_on_a_terminal_and_the_answer_counts():
    with stopped_by_signals(asks=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        assert stop.answers(lambda: True)


def test_a_second_ctrl_c_answers_the_question():
    def ask():
        signal.raise_signal(signal.SIGINT)
        return True

    with stopped_by_signals(asks=True) as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.answers(ask)


@pytest.mark.parametrize(
    ("asks", "numbers"),
    [(False, [signal.SIGINT]), (True, [signal.SIGTERM]), (True, [signal.SIGINT, signal.SIGINT])],
)
def test_nothing_is_asked_without_a_terminal_and_after_what_is_no_question(asks, numbers):
    told = []
    with stopped_by_signals(asks=asks, final=lambda: told.append("aborting")) as stop:
        for number in numbers:
            signal.raise_signal(number)
        assert not stop.answers(pytest.fail)
    assert told == ["aborting"]
