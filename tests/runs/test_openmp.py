"""Waiting threads of OpenMP sleep in every command, unless the user has chosen how they wait."""

import os
import subprocess
import sys

import pytest

from sr_train.runs import openmp

CODE = """
import os, sys
import sr_train.cli.{module}
assert "torch" not in sys.modules  # OpenMP reads the environment when torch is loaded
print(os.environ.get("OMP_WAIT_POLICY"))
"""


def policy(module, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in openmp.OTHERS} | variables
    command = [sys.executable, "-c", CODE.format(module=module)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", ["train", "evaluate", "prepare", "upscale", "interp", "convert", "report"])
def test_a_command_sets_the_policy_before_torch_is_loaded(module):
    assert policy(module) == "PASSIVE"


@pytest.mark.parametrize(
    ("given", "left"),
    [({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "5"}, "None"), ({"KMP_BLOCKTIME": "1"}, "None")],
)
def test_what_a_user_has_set_is_left(given, left):
    assert policy("train", **given) == left


def test_nothing_is_set_in_a_program_that_has_loaded_torch(monkeypatch):
    for name in openmp.OTHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch", sys))
    assert openmp.let_threads_sleep() is False
    assert openmp.POLICY not in os.environ
