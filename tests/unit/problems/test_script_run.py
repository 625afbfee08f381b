"""A script's process is watched: it answers, or what became of it is said, and nothing of it is left."""

import gc
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from flaremesh.problems import script_run
from flaremesh.problems.script_messages import Message
from flaremesh.problems.script_run import ScriptError, ScriptRun, command_of

ASK = Message("train")
# as NVFlare's Client API does in the real process, in few words: torch takes seconds to be there
CALLS = """
import json, os, sys
from multiprocessing.connection import Client
run = Client(os.environ["FLAREMESH_SCRIPT_CHANNEL"], "AF_UNIX")
def say(kind, **said):
    run.send_bytes(json.dumps([kind, said, []]).encode())
    run.send_bytes(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}")
def hear():
    kind, *_ = json.loads(run.recv_bytes())
    run.recv_bytes()
    return kind
say("ready")
"""
WAITS = "import signal; signal.pause()"


def running(program: str, timeout: float = 30.0) -> ScriptRun:
    return ScriptRun("train.py", "bonn", [sys.executable, "-c", program], timeout)


def answers(program: str) -> str:
    answer = "say('answer', place=os.environ['FLAREMESH_SCRIPT_SITE'])"
    return f"{CALLS}\nwhile hear() == 'train':\n    {answer}\n{program}"


def ended(process: psutil.Process, seconds: float = 10.0) -> bool:
    with suppress(psutil.TimeoutExpired):
        process.wait(seconds)
    return not process.is_running()


def test_it_answers_one_question_after_the_other() -> None:
    run = running(answers(""))
    assert [run.ask(ASK).said["place"] for _ in range(3)] == ["bonn"] * 3


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise ValueError('no data here')", r"exit status 1; it printed last:\n.*ValueError: no data here$"),
        ("", "ended without a call of flare.init.*; it printed nothing"),
        (f"{CALLS}\nhear()", "ended after 0 answers: let it go on while flare.is_running"),
        (f"{CALLS}\nhear()\nos.kill(os.getpid(), 9)", "was ended by signal 9"),
        (f"{CALLS}\nhear()\nsay('failed', why='ValueError: no')", "failed: ValueError: no"),
        (f"{CALLS}\nhear()\nrun.send_bytes(b'?')\n{WAITS}", "sent what is no answer"),
        ("\n".join(f"print('line {i}', 'x' * 200)" for i in range(90)) + "\n1 / 0", r"line 8[0-9].*Zero"),
    ],
)
def test_what_became_of_it_is_said_with_its_last_lines(program: str, message: str) -> None:
    run = running(program)
    with pytest.raises(ScriptError, match=f"(?s)^train.py .*{message}") as raised:
        run.ask(ASK)
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (f"print('waits', flush=True)\n{WAITS}", "does not call flare.init"),
        (f"{CALLS}\nprint('waits', flush=True)\n{WAITS}", "does not answer, for 1 s"),
    ],
)
def test_it_does_not_wait_for_ever_and_leaves_nothing_of_the_process(program: str, message: str) -> None:
    run = running(program, timeout=1.0)
    process = psutil.Process(run._process.running.pid)
    started = time.monotonic()
    with pytest.raises(
        ScriptError, match=f"{message}.*greater timeout in run.problem; it printed last:\nwaits"
    ):
        run.ask(ASK)
    assert time.monotonic() - started < 10
    assert ended(process)


def test_a_process_that_is_stopped_does_not_wait_for_the_end_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(script_run, "_STOPPED_SECONDS", 1.0)
    begins = "open(os.environ['FLAREMESH_SCRIPT_CHANNEL'][:-3] + 'rank-0', 'w').write(str(os.getpid()))"
    run = running(f"{CALLS}\n{begins}\nos.kill(os.getpid(), 19)", timeout=600.0)
    process = psutil.Process(run._process.running.pid)
    with pytest.raises(ScriptError, match=r"rank 0 of train\.py was stopped by a signal, for 1 s"):
        run.ask(ASK)
    assert ended(process)


@pytest.mark.parametrize("program", [f"{CALLS}\n{WAITS}", f"{CALLS}\nrun._send(bytes([0, 0, 9]))\n{WAITS}"])
def test_no_message_waits_for_ever_to_be_taken_or_to_be_whole(program: str) -> None:
    run = running(program, timeout=1.0)
    large = Message("train", {}, {"params": {"weight": torch.zeros(1 << 20)}})
    with pytest.raises(ScriptError, match="does not answer, for 1 s"):
        run.ask(large)


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(ScriptError, match=r"train.py cannot be started: .*no-such-program"):
        ScriptRun("train.py", "bonn", ["no-such-program"], 1.0)


def test_it_may_finish_its_work_when_the_run_is_over(tmp_path: Path) -> None:
    file = tmp_path / "left"
    writing = f"open({str(file)!r}, 'w').close()"
    # to start a process takes longer than to end this one
    run = running(answers(f"import subprocess; subprocess.run([sys.executable, '-c', {writing!r}])"))
    run.ask(ASK)
    del run
    gc.collect()
    assert file.exists()


def test_what_it_has_started_ends_with_it() -> None:
    child = f"import subprocess; child = subprocess.Popen([sys.executable, '-c', '{WAITS}'])"
    run = running(f"{CALLS}\n{child}\nwhile hear() == 'train': say('answer', child=child.pid)")
    process = psutil.Process(int(run.ask(ASK).said["child"]))
    del run
    gc.collect()
    assert ended(process)


def test_ranks_are_started_by_torchs_own_launcher_each_in_its_host() -> None:
    command = command_of("torchrun --nproc-per-node 2", Path("train.py"), ["--lr", "0.1"])
    assert command[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert command[4:6] == ["--nproc-per-node", "2"]
    assert command[-5:] == ["-m", "flaremesh.p2p.nvflare.script_process", "train.py", "--lr", "0.1"]
