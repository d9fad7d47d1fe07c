"""A short round of scripts/kill.py: both stages of a recipe, killed at random and while they write, end as if undisturbed."""

import importlib.util
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kill

TINY = [
    "experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=2", "data.lr_patch=12",
    "trainer.accelerator=cpu", "trainer.max_steps=60", "checkpoint.every=5", "validate.every=60", "record.every=5",
    "logger=csv", "validate.pictures=0",
]  # fmt: skip


CHILD = """
import os, sys
os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 1)
os.dup2(1, 2)
sys.argv = ["sr-train", *{arguments!r}]
from sr_train.cli.train import main
main()
"""


class Launched:
    """The interface of a process for scripts/kill.py, forked from a server that has all imports: seconds faster."""

    def __init__(self, folder, arguments):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        code = CHILD.format(log=str(self.log), arguments=[*arguments, "name=run", f"paths.runs={folder}"])
        self.process = multiprocessing.get_context("forkserver").Process(target=exec, args=(code, {}))
        self.process.start()

    def poll(self):
        return self.process.exitcode

    returncode = property(poll)

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout=None):
        self.process.join(timeout)
        return self.log.read_text(), ""


@pytest.fixture(scope="module")
def kill():
    path = Path(__file__).parents[1] / "scripts" / "kill.py"
    spec = importlib.util.spec_from_file_location("kill_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        spec.loader.exec_module(module)
    preload = ["lightning", "hydra", "safetensors.torch", "skimage.data", "sr_train.cli.train", "sr_train.training.run"]
    multiprocessing.set_forkserver_preload(
        [*preload, "sr_train.data.module", "sr_train.tasks.pixel", "sr_train.weights.file"]
    )
    module.launch = Launched
    return module


def test_a_run_killed_and_stopped_in_both_stages_ends_with_the_same_weights_and_rows(kill, tmp_path):
    """kill -9 while x2 writes a checkpoint, SIGTERM in x2, kill -9 in x4 at a random moment, and the same command again."""
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    undisturbed = kill.launch(calm, TINY)  # beside the others
    assert kill.strike_writing(disturbed, TINY, "x2"), "it was killed before or after it wrote"
    for stage, number in (("x2", signal.SIGTERM), ("x4", signal.SIGKILL)):
        before = kill.newest(disturbed, stage)
        process = kill.launch(disturbed, TINY)
        kill.wait(process, lambda: kill.newest(disturbed, stage) != before)  # noqa: B023 - used at once
        time.sleep(random.Random(stage).uniform(0, 0.2))
        assert kill.strike(process, number), f"{stage} got through before it was struck"
    assert not (disturbed / "run" / "x4" / "weights.safetensors").exists()
    kill.finish(disturbed, TINY)
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    assert kill.compare(calm, disturbed) == []
    assert not list(disturbed.rglob("*.part")), "what was half written is removed by the next run"


def test_a_second_ctrl_c_ends_a_run_at_once(kill, tmp_path):
    process = kill.launch(tmp_path, [*TINY, "data.batch=64", "data.lr_patch=60", "model.channels=64", "record.every=1"])
    kill.wait(process, (tmp_path / "run" / "x2" / "metrics.csv").exists, 60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # a step takes longer
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "sr-train: interrupted" in output
    assert "Traceback" not in output


def test_sigterm_ends_the_whole_sweep(kill, tmp_path):
    command = [
        sys.executable,
        "-c",
        kill.PROGRAM,
        "-m",
        *TINY,
        "stage=x2",
        "task.rate=1e-3,2e-3",
        f"paths.runs={tmp_path}/runs",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    runs = tmp_path / "runs" / "quickstart_edsr"
    kill.wait(process, lambda: any(runs.glob("*/x2/checkpoints/last")), 60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert len(list(runs.glob("*/x2"))) == 1, output
