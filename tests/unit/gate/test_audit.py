"""A site's audit log: whatever is done to it is found, and what a crash leaves is told apart."""

import itertools
import shutil
import threading

import pytest

from flaremesh.p2p.gate import audit
from flaremesh.p2p.gate.audit import AuditError, AuditLog, LateNotes
from flaremesh.waiting import wait_while

COUNT = 4


@pytest.fixture
def log(workspace):
    for number in range(COUNT):
        AuditLog(workspace).note("refused", run=f"run-{number}", reason='hours: ", "signature": "x"}')
    return workspace / "gate/audit.jsonl"


def test_a_log_that_nobody_touched_is_verified(workspace, log):
    verified = audit.verify(workspace)

    assert (verified.lines, verified.torn) == (COUNT, ())
    assert [entry["run"] for entry in audit.entries(workspace)] == [f"run-{n}" for n in range(COUNT)]
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", range(COUNT))
def test_a_changed_byte_is_found_wherever_it_is(workspace, log, line):
    lines = log.read_bytes().splitlines(keepends=True)
    for place in range(0, len(lines[line]), 19):
        changed = bytearray(lines[line])
        changed[place] ^= 1
        log.write_bytes(b"".join([*lines[:line], bytes(changed), *lines[line + 1 :]]))
        with pytest.raises(AuditError, match=r"^line "):
            audit.verify(workspace)


def test_another_spelling_of_the_last_signature_is_found(workspace, log):
    text = log.read_text()
    assert text.endswith('=="}\n')
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet[alphabet.index(text[-6]) ^ 1]  # of its six bits, only two count
    log.write_text(f'{text[:-6]}{last}=="}}\n')

    with pytest.raises(AuditError, match=f"line {COUNT} "):
        audit.verify(workspace)


@pytest.mark.parametrize("line", range(COUNT))
def test_a_missing_line_is_found_even_the_last(workspace, log, line):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))

    with pytest.raises(AuditError, match=f"line {line + 1} "):
        audit.verify(workspace)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(range(COUNT), 2)])
def test_two_lines_that_changed_places_are_found(workspace, log, one, other):
    lines = log.read_bytes().splitlines(keepends=True)
    lines[one], lines[other] = lines[other], lines[one]
    log.write_bytes(b"".join(lines))

    with pytest.raises(AuditError, match=f"line {one + 1} "):
        audit.verify(workspace)


@pytest.mark.parametrize("line", range(COUNT + 1))
@pytest.mark.parametrize(
    "added", [b"\n", b"{}\n", b"words\n", None], ids=["nothing", "object", "words", "copy"]
)
def test_a_line_that_somebody_put_in_is_found(workspace, log, line, added):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:line], added or lines[line - 1], *lines[line:]]))

    with pytest.raises(AuditError, match=r"^line \d"):
        audit.verify(workspace)


def test_lines_cut_off_together_with_their_head_are_found_by_a_head_kept_elsewhere(workspace, log):
    before = [(workspace / "gate" / name).read_bytes() for name in ("audit.jsonl", "audit.head")]
    AuditLog(workspace).note("refused", run="the one to hide")
    kept = audit.verify(workspace).head
    for name, content in zip(("audit.jsonl", "audit.head"), before, strict=True):
        (workspace / "gate" / name).write_bytes(content)

    assert audit.verify(workspace).lines == COUNT
    with pytest.raises(AuditError, match=f"line {COUNT + 1} .*cut off at the end"):
        audit.verify(workspace, kept)


def test_a_head_kept_elsewhere_holds_while_the_log_grows(workspace, log):
    kept = audit.verify(workspace).head
    AuditLog(workspace).note("refused", run="later")

    assert audit.verify(workspace, kept).lines == COUNT + 1


def test_nothing_is_added_to_a_log_that_somebody_cut(workspace, log):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))

    with pytest.raises(AuditError, match=f"does not end with line {COUNT}"):
        AuditLog(workspace).note("refused", run="later")


@pytest.mark.parametrize("length", [1, 100, -1])
def test_a_line_that_a_crash_tore_stays_and_the_next_one_goes_on_after_it(workspace, log, length):
    head = (workspace / "gate/audit.head").read_bytes()
    AuditLog(workspace).note("refused", run="torn")
    content = log.read_bytes()
    whole = content.splitlines(keepends=True)
    log.write_bytes(b"".join([*whole[:COUNT], whole[COUNT][:length]]))
    (workspace / "gate/audit.head").write_bytes(head)
    with pytest.raises(AuditError, match=f"line {COUNT + 1} .*torn"):
        audit.verify(workspace)

    AuditLog(workspace).note("refused", run="next")

    verified = audit.verify(workspace)
    complete = length == -1  # all but the line feed was there
    assert verified.torn == (() if complete else (COUNT + 1,))
    assert [entry["event"] for entry in audit.entries(workspace)][COUNT:] == (
        ["refused", "refused"] if complete else ["torn", "refused"]
    )
    assert list(audit.entries(workspace))[-1]["run"] == "next"


def test_a_log_goes_on_with_a_renewed_key(root, workspace, log):
    root.renew(workspace)
    AuditLog(workspace).note("refused", run="after")

    assert audit.verify(workspace).lines == COUNT + 1
    assert len({entry["certificate"] for entry in audit.entries(workspace)}) == 2


def test_a_log_of_another_participant_of_the_mesh_is_not_this_sites(root, workspace, log, tmp_path):
    other = root.equip(tmp_path / "eve", "eve")
    AuditLog(other).note("refused", run="invented")
    shutil.rmtree(workspace / "gate")
    shutil.copytree(other / "gate", workspace / "gate")

    with pytest.raises(AuditError, match=r"line 1 .*not this site's"):
        audit.verify(workspace)


def test_processes_of_a_site_may_write_at_once(workspace):
    writers = [
        threading.Thread(target=lambda: [AuditLog(workspace).note("refused", run="r") for _ in range(5)])
        for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert audit.verify(workspace).lines == 20


def test_the_end_of_a_long_log_is_found(workspace):
    AuditLog(workspace).note("refused", reason="x" * 200_000)
    AuditLog(workspace).note("refused", reason="y")

    assert audit.verify(workspace).lines == 2


def test_what_happens_while_the_volume_is_full_is_noted_once_there_is_room(root, volume, monkeypatch, caplog):
    monkeypatch.setattr(audit, "_AGAIN_SECONDS", 0.05)
    workspace = root.equip(volume.folder / "bonn")
    notes = LateNotes(AuditLog(workspace))
    notes.add("started")
    volume.fill()
    while True:  # the last block of the log may have room for some lines
        notes.add("ended", job="8a5f")
        if "the audit log waits" in caplog.text:
            break
    notes.add("ended", job="9b60")
    assert list(audit.entries(workspace))[-1].get("job") != "9b60"

    volume.clear()

    assert not wait_while(lambda: list(audit.entries(workspace))[-1].get("job") != "9b60", 10, 0.05)
    audit.verify(workspace)
    *earlier, late, last = audit.entries(workspace)
    assert "happened" in late
    assert late["happened"] <= last["happened"] <= late["time"]
    assert "happened" not in earlier[0]
