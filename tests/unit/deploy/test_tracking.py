"""Histories for TensorBoard and MLflow."""

import struct
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from typer.testing import CliRunner

from flaremesh.cli.main import app
from flaremesh.deploy.reports.event_file import crc32c
from flaremesh.metrics.sink import Evaluation, Iteration, Logged
from flaremesh.p2p.outcome import RESULT, RUN_RESULT, RunResult
from flaremesh.runtime.history import HISTORY, History

FIELDS = descriptor_pb2.FieldDescriptorProto


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "0badcafe"
    for site in ("bonn", "ulm"):
        (folder / site).mkdir(parents=True)
        with History(folder / site / HISTORY) as history:
            history.add(Evaluation(0, {"accuracy": 0.125}, 0.5))
            history.add(Iteration(1, 0.5, 0.25, 2.0, 0.1, 0.1))
            history.add(Iteration(2, None, float("nan"), 2.0, 0.1, 0.1))
            history.add(Logged(2, 40, {"train/loss": 0.375, "lr": float("inf")}))
            history.add(Evaluation(300, {"accuracy": 1e60, "größe": 0.75}, 0.5))
    result = RunResult("0badcafe", "finished", name="a run", topology="mesh", iterations=2)
    (folder / RESULT).write_text(RUN_RESULT.json(result))
    return folder


def add_message(file, name, **fields):
    """A type of messages, with a number and a type for each field."""
    made = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        label = FIELDS.LABEL_REPEATED if field == "value" else FIELDS.LABEL_OPTIONAL
        typed = {"type_name": kind, "type": FIELDS.TYPE_MESSAGE} if isinstance(kind, str) else {"type": kind}
        made.field.add(name=field, number=number, label=label, **typed)


def events_of(data):
    """The events in a file, as the library of protocol buffers reads them."""
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto2")
    add_message(file, "Value", tag=(1, FIELDS.TYPE_STRING), simple_value=(2, FIELDS.TYPE_FLOAT))
    add_message(file, "Summary", value=(1, ".t.Value"))
    add_message(
        file,
        "Event",
        wall_time=(1, FIELDS.TYPE_DOUBLE),
        step=(2, FIELDS.TYPE_INT64),
        file_version=(3, FIELDS.TYPE_STRING),
        summary=(5, ".t.Summary"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    event = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))
    while data:
        (length,) = struct.unpack_from("<Q", data)
        for start, end in ((0, 8), (12, 12 + length)):
            crc = crc32c(data[start:end])
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)
            assert data[end : end + 4] == struct.pack("<I", masked)
        yield event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_tensorboard_gets_a_folder_for_each_site_with_all_that_is_finite(run, tmp_path):
    board = tmp_path / "board"
    for _ in range(2):  # the second replaces the first
        result = CliRunner().invoke(app, ["report", str(run), "--tensorboard", str(board)])
        assert result.exit_code == 0, result.output
    assert "2 sites" in result.output
    files = sorted(board.rglob("*tfevents*"))
    assert [file.parent.relative_to(board).as_posix() for file in files] == ["0badcafe/bonn", "0badcafe/ulm"]
    first, *events = events_of(files[0].read_bytes())
    assert first.file_version == "brain.Event:2"
    values = [
        (value.tag, event.step, value.simple_value) for event in events for value in event.summary.value
    ]
    assert values == [
        ("accuracy", 0, 0.125),
        ("training loss", 1, 0.5),
        ("consensus distance", 1, 0.25),
        ("train/loss", 40, 0.375),
        ("accuracy", 300, float("inf")),
        ("größe", 300, 0.75),
    ]
    times = [event.wall_time - events[0].wall_time for event in events]
    assert times == pytest.approx([0.0, 2.0, 2.0, 4.0, 4.5, 4.5])


def test_without_mlflow_the_command_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    result = CliRunner().invoke(app, ["report", str(run), "--mlflow", "sqlite:///x.db"])
    assert result.exit_code == 1
    assert "pip install mlflow" in result.stderr
