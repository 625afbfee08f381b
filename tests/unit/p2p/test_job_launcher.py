"""The command of a job's process."""

import shlex
import sys

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher

from flaremesh.p2p.job_launcher import ServerJobLauncher, SiteJobLauncher

LAUNCHERS = [(SiteJobLauncher, ClientProcessJobLauncher), (ServerJobLauncher, ServerProcessJobLauncher)]


def words(launcher, workspace):
    fl_ctx = FLContext()
    arguments = {
        JobProcessArgs.EXE_MODULE: ("-m", "nvflare.module"),
        JobProcessArgs.WORKSPACE: ("-m", workspace),
        JobProcessArgs.JOB_ID: ("-n", "run-1"),
        JobProcessArgs.AUTH_TOKEN: ("-t", "secret"),
        JobProcessArgs.SERVICE_PORT: ("--port", 8002),
        JobProcessArgs.OPTIONS: ("--set", " secure_train=true uid=bonn print_conf=True"),
    }
    fl_ctx.set_prop(FLContextKey.JOB_PROCESS_ARGS, arguments, private=True, sticky=False)
    return shlex.split(launcher().get_command({}, fl_ctx))


@pytest.mark.parametrize(("ours", "nvflares"), LAUNCHERS)
def test_a_plain_path_gives_the_words_of_nvflares_own_launcher(ours, nvflares):
    assert words(ours, "/plain/path") == words(nvflares, "/plain/path")


@pytest.mark.parametrize(("ours", "nvflares"), LAUNCHERS)
@pytest.mark.parametrize("character", list(" #'\"\\\n\t$%{}&;*~ü"))
def test_a_path_stays_one_word_whatever_is_in_it(ours, nvflares, character):
    workspace = f"/My{character}Project/{character}x"
    expected = [workspace if word == "/plain/path" else word for word in words(nvflares, "/plain/path")]
    assert words(ours, workspace) == expected


def test_the_path_of_the_interpreter_stays_one_word_too(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/My Project's/.venv/bin/python")
    assert words(SiteJobLauncher, "/plain")[0] == "/My Project's/.venv/bin/python"
