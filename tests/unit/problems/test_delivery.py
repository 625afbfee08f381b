"""A problem reaches a site as the simulator sees it."""

import datetime
import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from flaremesh.problems.delivery import DeliveredProblem, DeliveryError, deliver, delivered
from flaremesh.problems.protocol import ProblemError, SiteContext
from flaremesh.problems.sources import MOST_BYTES, MOST_FILES
from flaremesh.topology.schema import ProblemReference

SITE = SiteContext("bonn", index=0, sites=1, seed=0)

PROBLEM = """
class P:
    def __init__(self, site, **args): self.args = args
    def initial(self): ...
    def loss_and_gradient(self, x): ...
    def evaluate(self, x): ...
    def buffers(self): ...
    def state(self, x): ...
"""


@pytest.fixture(autouse=True)
def _same_imports():
    """What a test imports is forgotten after it."""
    modules, path = set(sys.modules), sys.path.copy()
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def folder_with(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))
    return folder


def arrived(file: Path, app: Path, **args):
    deliver(ProblemReference(file=file, name="P", args=args), app)
    return DeliveredProblem.of(app)


@pytest.mark.parametrize(
    "args",
    [
        {"class_weights": {0: 1.0, 1: 8.5}},
        {"cutoff": datetime.date(2024, 1, 1)},
        {"pattern": "{}-{seed}-{$HOME}.csv", "empty": {}},
        {"optimizer": {"name": "adam", "path": "torch.optim.Adam", "args": {"lr": 1e-4}}},
        {"text": "1e-4", "number": 1e-4, "none": None, "yes": "yes", "nan": float("inf"), "ä": "ß\n"},
        {"layers": [[1, 2], [3]], "seen": {1, 2}, "raw": b"\0\1"},
    ],
)
def test_arguments_arrive_as_they_were_given(tmp_path: Path, args) -> None:
    file = folder_with(tmp_path / "mine", problem=PROBLEM) / "problem.py"
    assert arrived(file, tmp_path / "app", **args).build(SITE).args == args


def test_an_argument_that_cannot_travel_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"run.problem.args: .*cannot travel to the sites"):
        deliver(ProblemReference(path="our.P", args={"site": SITE}), tmp_path)


def test_the_file_of_the_job_is_imported_whatever_else_has_its_name(tmp_path: Path, monkeypatch) -> None:
    for folder in ("here", "there"):
        folder_with(tmp_path / folder, problem=f"{PROBLEM}    place = {folder!r}\n")
    monkeypatch.syspath_prepend(tmp_path / "there")
    import problem  # noqa: F401  # as a process does that was started there

    assert arrived(tmp_path / "here/problem.py", tmp_path / "app").build(SITE).place == "here"


@pytest.mark.parametrize("name", ["random", "torch", "json", "problem-2", "2024"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    before = sys.modules.get(name)
    file = folder_with(tmp_path / "mine", **{name: PROBLEM}) / f"{name}.py"
    arrived(file, tmp_path / "app").build(SITE)
    assert sys.modules.get(name, before) is before or before is None


def test_python_files_beside_it_that_it_imports_travel_with_it_and_others_stay(tmp_path: Path) -> None:
    mine = folder_with(
        tmp_path / "mine",
        problem=f"import random\nfrom net import Net\nimport layers.wide\n{PROBLEM}    net = Net\n",
        net="import parts\nclass Net: part = parts.PART\n",
        parts="PART = 'mine'\n",
        unrelated="raise RuntimeError\n",
        random="raise RuntimeError\n",
    )
    folder_with(mine / "layers", __init__="", wide="")
    problem = arrived(mine / "problem.py", tmp_path / "app")
    travelled = {
        str(path.relative_to(tmp_path / "app/custom")) for path in tmp_path.glob("app/custom/**/*.py")
    }
    assert travelled == {"problem.py", "net.py", "parts.py", "layers/__init__.py", "layers/wide.py"}
    assert problem.build(SITE).net.part == "mine"


def test_a_second_job_does_not_get_the_modules_of_the_first(tmp_path: Path) -> None:
    parts = []
    for name in ("first", "second"):
        mine = folder_with(
            tmp_path / name,
            problem=f"import part\n{PROBLEM}    part = part.PART\n",
            part=f"PART = {name!r}\n",
        )
        with delivered(ProblemReference(file=mine / "problem.py", name="P")) as build:
            parts.append(build(SITE).part)
    assert parts == ["first", "second"]


def test_a_file_is_executed_once_for_all_sites_of_a_process(tmp_path: Path) -> None:
    file = folder_with(tmp_path / "mine", problem=f"count = []\n{PROBLEM}") / "problem.py"
    with delivered(ProblemReference(file=file, name="P")) as build:
        assert type(build(SITE)) is type(build(SITE))


def test_a_function_of_a_file_may_make_the_problem(tmp_path: Path) -> None:
    text = PROBLEM.replace("class P", "class Own") + "def P(site, size): return Own(site, size=size)\n"
    file = folder_with(tmp_path / "mine", problem=text) / "problem.py"
    assert arrived(file, tmp_path / "app", size=3).build(SITE).args == {"size": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import argparse\nargparse.ArgumentParser().parse_args()", r"at bonn: it called sys.exit\(2\)"),
        ("import sys\nsys.exit('no licence')", r"at bonn: it called sys.exit\(no licence\)"),
        ("class P:\n    def __init__(self, site): quit()", r"cannot build .* at bonn: it called sys.exit"),
        ("class P(:", "at bonn: SyntaxError: "),
        ("import no_such_module", "at bonn: No module named 'no_such_module'"),
        ("", "at bonn: problem.py has no class P"),
        ("P = 3", "at bonn: problem.py has no class P"),
        ("class P:\n    def __init__(self, site): ...", "problem.P is no problem: it has no initial"),
    ],
)
def test_what_a_file_does_wrong_is_said_in_a_sentence(tmp_path: Path, monkeypatch, text, message) -> None:
    monkeypatch.setattr(sys, "argv", ["flaremesh", "simulate", "mesh.yaml"])
    file = folder_with(tmp_path / "mine", problem=text) / "problem.py"
    with pytest.raises(ProblemError, match=message):
        arrived(file, tmp_path / "app").build(SITE)


@pytest.mark.parametrize(
    "text",
    [
        "file: ../config/trojan.py\nname: P\n",
        "file: /etc/trojan.py\nname: P\n",
        "file: trojan.so\nname: P\n",
        "path: P\n",
        "- P\n",
        "!!python/object/apply:os.system [ls]\n",
        "path: a.B\nfile: b.py\nname: P\n",
        "\0",
        "[" * 5000,
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/problem.yaml").write_text(text)
    with pytest.raises(DeliveryError):
        DeliveredProblem.of(tmp_path)


def test_a_file_that_did_not_arrive_is_named(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/problem.yaml").write_text("file: mine.py\nname: P\n")
    with pytest.raises(ProblemError, match=r"mine\.py did not arrive with the job"):
        DeliveredProblem.of(tmp_path).build(SITE)


def test_nothing_travels_that_a_link_brings_in_from_another_folder(tmp_path: Path) -> None:
    secrets = folder_with(tmp_path / "secrets", keys="KEY = 1\n")
    mine = folder_with(
        tmp_path / "mine", problem=f"import keys\n{PROBLEM}", packed=f"import secrets_of\n{PROBLEM}"
    )
    (mine / "keys.py").symlink_to(secrets / "keys.py")
    (mine / "secrets_of").symlink_to(secrets)
    for name in ("problem", "packed"):
        with pytest.raises(DeliveryError, match=r"is a link to .*, outside of .*mine; copy the file there"):
            arrived(mine / f"{name}.py", tmp_path / f"app-{name}")
        assert not list(tmp_path.glob(f"app-{name}/custom"))


def test_a_link_within_the_folder_travels_as_the_file_that_it_leads_to(tmp_path: Path) -> None:
    mine = folder_with(
        tmp_path / "mine", problem=f"import net\n{PROBLEM}    net = net.NET\n", net_2="NET = 2\n"
    )
    (mine / "net.py").symlink_to("net_2.py")
    assert arrived(mine / "problem.py", tmp_path / "app").build(SITE).net == 2


@pytest.mark.parametrize(("count", "size"), [(MOST_FILES, 1), (1, MOST_BYTES)])
def test_no_folder_travels_without_bounds(tmp_path: Path, count: int, size: int) -> None:
    mine = folder_with(tmp_path / "mine", problem=f"import parts\n{PROBLEM}")
    folder_with(mine / "parts", **{f"part_{i}": "#" * size for i in range(count)})
    with pytest.raises(DeliveryError, match="more than 1000 files or 8 MiB; install it as a package"):
        arrived(mine / "problem.py", tmp_path / "app")


def test_nobody_waits_for_a_pipe_beside_a_problem(tmp_path: Path) -> None:
    mine = folder_with(tmp_path / "mine", problem=f"import parts\n{PROBLEM}", unread="")
    (mine / "parts").mkdir()
    os.mkfifo(mine / "parts/pipe.py")
    os.mkfifo(mine / "problem_pipe.py")
    arrived(mine / "problem.py", tmp_path / "app")
    assert [path.name for path in (tmp_path / "app/custom").iterdir()] == ["problem.py"]
