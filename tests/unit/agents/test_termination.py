"""How signals end a process."""

import signal
import subprocess
import sys

import pytest

from flaremesh.p2p.agents import termination

PROCESS = """
import runpy, sys, threading, time

def say(word):
    sys.stdout.write(word + "\\n")
    sys.stdout.flush()

def orderly(): say("stopping")
def failing(): raise RuntimeError("no")
def hanging(): say("stopping"); time.sleep(60)

# by its path: importing the package brings in NVFlare, which takes seconds
on_termination = runpy.run_path({path!r})["on_termination"]
on_termination({stop}, seconds={seconds})
say("up")
threading.Event().wait()
"""


@pytest.fixture
def start():
    started = []

    def start(stop: str, seconds: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS.format(path=termination.__file__, stop=stop, seconds=seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_its_orderly_stop(start, number):
    process = start("orderly", seconds=60)
    process.send_signal(number)
    assert process.stdout.readline() == "stopping\n"
    assert process.wait(timeout=10) == 0


def test_a_second_signal_ends_it_at_once(start):
    process = start("hanging", seconds=60)
    process.terminate()
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 128 + signal.SIGINT


def test_a_stop_that_hangs_is_bounded(start):
    process = start("hanging", seconds=0.2)
    process.terminate()
    assert process.wait(timeout=10) == 1


def test_a_stop_that_fails_ends_the_process(start):
    process = start("failing", seconds=60)
    process.terminate()
    assert process.wait(timeout=10) == 1
