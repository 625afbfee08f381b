"""The targets that the command line offers."""

from importlib import import_module

import pytest

from flaremesh.deploy import targets
from flaremesh.deploy.targets import TargetKind
from flaremesh.deploy.targets.base import Target


@pytest.mark.parametrize("kind", TargetKind)
def test_behind_every_word_is_a_target(kind: TargetKind):
    module, _, name = kind.class_path.rpartition(".")
    assert Target in getattr(import_module(f"{targets.__name__}.{module}"), name).__mro__
    assert TargetKind(str(kind)) is kind
