"""A stage goes on from what is in its folder, whatever network it is of, or is refused before anything there is changed."""

import hashlib
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import equal
from safetensors.torch import load_file

from sr_train.losses.adversarial import StandardGAN
from sr_train.losses.gan import GANLoss
from sr_train.models.edsr import EDSR
from sr_train.runs import resume
from sr_train.runs.checkpoints import read_checkpoint
from sr_train.tasks.curves import Constant
from sr_train.tasks.gan import GANTask
from sr_train.tasks.pixel import PixelTask
from sr_train.training.checkpoint_fit import misfits
from sr_train.weights.file import load_weights
from sr_train.weights.open import load

SMALL = (
    "data.workers=0", "data.batch=2", "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32", "curve=constant",
    "validate.pictures=0", "validate.every=100", "checkpoint.every=2", "record.every=2", "logger=csv", "sets=[]",
)  # fmt: skip
X2 = ("experiment=quickstart_edsr", *SMALL, "stage=x2", "model.blocks=1", "model.channels=8")
RUN = Path("runs") / "quickstart_edsr"


def _digests(folder):
    """Every file below a folder and what is in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _equal(a, b):
    return equal(load_file(a / "weights.safetensors"), load_file(b / "weights.safetensors"))


@pytest.fixture
def shallow(tmp_path, monkeypatch):
    """The network of docs/extending.md, in a package of the user's own, and what a command is told to train it."""
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    code = page.partition("In `shallow.py`:\n\n```python\n")[2].partition("```")[0]
    files = {
        "mine/__init__.py": "",
        "mine/shallow.py": code,
        "conf/model/mine.yaml": "_target_: mine.shallow.Shallow\nscale: ${scale}\nchannels: 8\n",
        "conf/experiment/mine.yaml": "# @package _global_\n# Mine\ndefaults: [override /model: mine]\n"
        "stages: {x2: {scale: 2}, x4: {scale: 4, init.stage: x2, init.skip: ['last.*']}}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SR_CONF", str(tmp_path / "conf"))
    _forget()
    yield ["experiment=mine", *SMALL]
    _forget()


def _forget():
    for name in [n for n in sys.modules if n.partition(".")[0] == "mine"]:
        del sys.modules[name]


class KilledError(RuntimeError):
    """A run that is killed: nothing is written on its way out."""


@pytest.fixture
def kill(monkeypatch, invoke):
    """Run a command that is killed when the checkpoint after a step was written: kill(step, "sr-train", ...)."""
    from sr_train.training.checkpointing import Checkpoints

    save = Checkpoints.save

    def run(at, *arguments):
        def saved(self, trainer, step):
            save(self, trainer, step)
            if step == at:
                raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", saved)
            with pytest.raises(KilledError):
                invoke(*arguments)

    return run


def test_the_network_of_a_user_is_skipped_when_finished_continued_and_extended(invoke, kill, shallow, tmp_path):
    command = ("sr-train", *shallow, "trainer.max_steps=4")
    kill(2, *command)  # in x2
    done = invoke(*command)
    assert done.returncode == 0, done.stderr
    assert "from step 2 (step_00000002.ckpt) to step 4" in done.stdout
    longer = ("sr-train", *shallow, "x4.trainer.max_steps=8", "x2.trainer.max_steps=4")
    kill(6, *longer)  # in x4, beyond what was finished
    assert not (tmp_path / "runs" / "mine" / "x4" / "weights.safetensors").exists()
    assert (
        load_weights(tmp_path / "runs" / "mine" / "x4" / "weights_step_00000004.safetensors", allow=["mine"]).origin[
            "step"
        ]
        == 4
    )
    extended = invoke(*longer)
    assert extended.returncode == 0, extended.stderr
    assert "stage x2: already finished" in extended.stdout
    assert "from step 6 (step_00000006.ckpt) to step 8" in extended.stdout
    assert load_weights(tmp_path / "runs" / "mine" / "x4" / "weights.safetensors", allow=["mine"]).origin["step"] == 8
    assert not list((tmp_path / "runs" / "mine" / "x4").glob("weights_step_*"))
    whole = invoke("sr-train", *shallow, "x4.trainer.max_steps=8", "x2.trainer.max_steps=4", "name=whole")
    assert whole.returncode == 0, whole.stderr
    assert _equal(tmp_path / "runs" / "mine" / "x4", tmp_path / "runs" / "whole" / "x4")


def test_a_stage_starts_from_weights_of_any_class(invoke, shallow, tmp_path):
    """They are copied by name: the class may have been renamed since, and nothing of it is imported."""
    assert invoke("sr-train", *shallow, "stage=x2", "trainer.max_steps=2").returncode == 0
    (tmp_path / "mine" / "shallow.py").rename(tmp_path / "mine" / "renamed.py")
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "_target_: mine.renamed.Shallow\nscale: ${scale}\nchannels: 8\n"
    )
    _forget()
    (tmp_path / "runs" / "mine" / "x2" / "weights.safetensors").rename(tmp_path / "shallow.safetensors")
    given = ("stage=x2", "trainer.max_steps=1", "init.weights=shallow.safetensors", "resume=never")
    done = invoke("sr-train", *shallow, *given)
    assert done.returncode == 0, done.stderr
    assert "copied     6 tensors" in done.stdout


@pytest.fixture
def finished(invoke, tmp_path):
    """The folder of a stage that was finished at step 2, with what a killed process left of a file."""
    assert invoke("sr-train", *X2, "trainer.max_steps=2").returncode == 0
    folder = tmp_path / RUN / "x2"
    (folder / ".weights.safetensors.x.part").write_bytes(b"half")
    return folder


def test_an_extension_that_is_refused_or_fails_does_not_change_a_finished_stage(invoke, finished, monkeypatch):
    before = _digests(finished)
    for change, message in [
        ("task.ema=null", r"task\.ema: the checkpoint has an EMA \(13 tensors\), this command has none"),
        (
            "task.trainable=[conv_last.*]",
            r"task\.trainable: 12 tensors .*, 2 in this command \(only in the checkpoint: conv_first\.weight",
        ),
    ]:
        refused = invoke("sr-train", *X2, "trainer.max_steps=4", "resume=force", change)
        assert refused.returncode == 1, refused.stdout
        assert re.search(message, refused.stderr), refused.stderr
        assert "step_00000002.ckpt: does not fit this command; nothing was changed" in refused.stderr
        assert "name=OTHER x2.init.weights=runs/quickstart_edsr/x2" in refused.stderr
        assert "delete" not in refused.stderr
        assert _digests(finished) == before
    with monkeypatch.context() as patch:  # in its first step the device's memory is full
        patch.setattr(PixelTask, "training_step", lambda *_: _raise(torch.OutOfMemoryError("no memory is left")))
        failed = invoke("sr-train", *X2, "trainer.max_steps=4", "task.patience=3")
    assert failed.returncode == 1
    assert "memory is full" in failed.stderr
    after = _digests(finished)
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert changed <= {"metrics.csv", "history.jsonl", ".weights.safetensors.x.part"}
    assert "already finished" in invoke("sr-train", *X2, "trainer.max_steps=2").stdout


def _raise(error):
    raise error


def test_a_finished_stage_without_checkpoints_is_not_trained_from_the_start_again(invoke, finished):
    shutil.rmtree(finished / "checkpoints")
    before = _digests(finished)
    done = invoke("sr-train", *X2, "trainer.max_steps=4")
    assert done.returncode == 1
    assert "is finished at step 2 and contains no checkpoint to continue from to step 4" in done.stderr
    assert "name=OTHER x2.init.weights=runs/quickstart_edsr/x2/weights.safetensors" in done.stderr
    assert _digests(finished) == before


def _task(kind=PixelTask, channels=4, blocks=1, optimizer=torch.optim.Adam, options=None, **given):
    network = EDSR(scale=2, channels=channels, blocks=blocks)
    loss = torch.nn.L1Loss() if kind is PixelTask else GANLoss(adversarial=StandardGAN(), weights={"adversarial": 1.0})
    return kind(
        model=network, loss=loss, optimizer=partial(optimizer, **(options or {})), rate=1e-3, curve=Constant(), **given
    )


def _saved(task):
    """The content of a task's checkpoint after a step."""
    optimizer = task.configure_optimizers()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    content = {"state_dict": task.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    task.on_save_checkpoint(content)
    return content


DISCRIMINATOR = {"kind": GANTask, "discriminator": torch.nn.Conv2d(3, 1, 3)}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"ema": None}, {}, r"task\.ema: this command has an EMA \(13 tensors\), the checkpoint has none"),
        (
            {}, {"channels": 3},
            r"model\.\*: model\.conv_first\.weight: \[4, 3, 3, 3\] in the checkpoint, \[3, 3, 3, 3\] in this command",
        ),
        ({}, {"blocks": 2}, r"model\.\*: model\.body\.1\.conv1\.weight: not in the checkpoint; .*bias: not in the checkpoint$"),
        ({"blocks": 2}, {}, r"model\.\*: model\.body\.1\.conv1\.weight: only in the checkpoint"),
        ({}, DISCRIMINATOR, r"task\.discriminator: this command has a discriminator \(2 tensors\), the checkpoint has none"),
        (DISCRIMINATOR, {}, r"task\.discriminator: the checkpoint has a discriminator \(2 tensors\), this command has none"),
        (
            {"blocks": 2, "trainable": ["body.0.*"]}, {"blocks": 2, "trainable": ["body.1.*"]},
            r"task\.trainable: 4 tensors trained in the checkpoint, 4 in this command "
            r"\(only in the checkpoint: body\.0\.conv1\.weight, .*; only in this command: body\.1",
        ),
        ({}, {"rate_scale": {"body.*": 0.1}}, r"task\.rate_scale: .* groups \(the others\); this command .*_scaled_body"),
        ({}, {"optimizer": torch.optim.NAdam}, r"task\.optimizer: the checkpoint has options .*; .*momentum_decay"),
        ({}, {"options": {"amsgrad": True}}, r"task\.optimizer: the checkpoint has state exp_avg, .*; .*max_exp_avg_sq"),
    ],
)  # fmt: skip
def test_every_difference_between_a_checkpoint_and_a_task_is_one_line_with_its_key(before, after, message):
    (problem,) = misfits(_saved(_task(**before)), _task(**after))
    assert re.match(message, problem), problem
    weights = _task(**after)
    state = {k: v.clone() for k, v in weights.state_dict().items()}
    assert misfits(_saved(weights), weights) == []
    assert all(torch.equal(v, state[k]) for k, v in weights.state_dict().items()), "comparing changes no weight"
    assert all(p.grad is None or not p.grad.any() for p in weights.parameters())


def test_a_checkpoint_of_an_earlier_version_fits_and_a_damaged_one_is_reported_in_one_line():
    task = _task()
    content = _saved(task)
    del content["trained"]  # earlier versions do not name the parameters
    assert misfits(content, task) == []
    (problem,) = misfits(content, _task(trainable=["body.*"]))
    assert problem == "task.trainable: 12 tensors trained in the checkpoint, 4 in this command"
    (problem,) = misfits({**content, "optimizer_states": [{}]}, task)
    assert problem.startswith("task.optimizer: the optimizer's state in the checkpoint cannot be read (KeyError")


def test_a_stage_that_is_being_extended_counts_as_unfinished(invoke, kill, finished):
    whole, folder = [a for a in X2 if a != "stage=x2"], finished
    # The plan asks for more of x2 than there is, and trains x4 alone: that is said.
    noted = invoke("sr-train", *whole, "stage=x4", "trainer.max_steps=3")
    assert "stage x4: starts from stage x2 as finished at step 2 of 3" in noted.stdout
    # Killed between its checkpoint and what follows it, the stage has both.
    kill(4, "sr-train", *X2, "trainer.max_steps=6")
    assert (folder / "weights_step_00000002.safetensors").exists()
    (folder / "weights_step_00000002.safetensors").rename(folder / "weights.safetensors")
    assert load(str(folder))[1].name == "step_00000004.ckpt"
    refused = invoke("sr-train", *whole, "stage=x4", "trainer.max_steps=6", "resume=force")
    assert refused.returncode == 1
    assert "starts from stage x2, which is not finished" in refused.stderr
    done = invoke("sr-train", *X2, "trainer.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert "from step 4" in done.stdout
    assert not list(folder.glob("weights_step_*"))
    assert load(str(folder))[0].origin["step"] == 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"callbacks": {}}, {"callbacks": {"stop": {"_target_": "lightning.pytorch.callbacks.Timer"}}}),
        ({"logger": {"csv": {"folder": "a"}}}, {"logger": {}}),
        ({"sets": {"toy": {"hr": "toy:chelsea"}}}, {"sets": {}}),
        ({"data": {"val": {"toy": {"hr": "toy:chelsea"}}}}, {"data": {"val": {}}}),
        ({"trainer": {"detect_anomaly": False}}, {"trainer": {"detect_anomaly": True}}),
        ({"trainer": {"max_steps": 2}}, {"trainer": {"max_steps": 2, "profiler": "simple"}}),
        ({"trainer": {"profiler": None}}, {"trainer": {"profiler": {"_target_": "lightning.Profiler"}}}),
        ({"trainer": {"devices": 2}}, {"trainer": {"devices": [0, 1]}}),
        ({"trainer": {"timeout": 1800}}, {"trainer": {"timeout": 60.5}}),
        ({"trainer": {"sync_batchnorm": "auto"}}, {"trainer": {"sync_batchnorm": False}}),
        ({"trainer": {"accumulate_grad_batches": 1}}, {"trainer": {"accumulate_grad_batches": 4}}),
        ({"data": {"accumulate": 1, "prefetch_factor": 2}}, {"data": {"accumulate": 4, "prefetch_factor": None}}),
        ({"trainer": {"strategy": "ddp"}}, {"trainer": {"strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy"}}}),
        ({"validate": {"best": None, "metrics": ["psnr"]}}, {"validate": {"best": "toy/y/psnr", "metrics": ["psnr", "ssim"]}}),
        ({"task": {"protocols": ["y"]}}, {"task": {"protocols": []}}),
    ],
)  # fmt: skip
def test_keys_that_do_not_affect_weights_may_change(old, new):
    assert resume.differences(old, new) == []
    assert resume.differences(new, old) == []


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("precision", ("32", "bf16-mixed")), ("gradient_clip_val", (None, 1.0)), ("deterministic", (False, True)),
    ],
)  # fmt: skip
def test_keys_that_affect_weights_may_not_change(key, values):
    assert len(resume.differences({"trainer": {key: values[0]}}, {"trainer": {key: values[1]}})) == 1
    assert len(resume.differences({"setsx": {"a": 1}}, {"setsx": {"a": 2}})) == 1


def test_micro_batches_may_change_between_sittings(invoke, tmp_path):
    """Lightning counts micro-batches in checkpoints: without our count steps would be of two halves."""
    options = [a for a in X2 if a != "data.batch=2"] + ["data.batch=4"]
    assert invoke("sr-train", *options, "name=whole", "trainer.max_steps=9").returncode == 0
    for last, accumulate in ((3, 1), (6, 4), (9, 2)):
        done = invoke("sr-train", *options, "name=parts", f"trainer.max_steps={last}",
                      f"trainer.accumulate_grad_batches={accumulate}")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "BatchNorm" not in done.stdout
    one, other = (load_file(tmp_path / "runs" / name / "x2" / "weights.safetensors") for name in ("whole", "parts"))
    assert max(float((one[k] - other[k]).abs().max()) for k in one) < 1e-6


def test_callbacks_and_loggers_may_be_added_and_removed(invoke, tmp_path):
    """The state of a callback that is no longer there is in the checkpoint."""
    timer = "callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, duration: '01:00:00:00'}"
    assert invoke("sr-train", *X2, timer, "trainer.max_steps=2", "sets=[toy]").returncode == 0
    content = read_checkpoint(tmp_path / RUN / "x2" / "checkpoints" / "step_00000002.ckpt").content
    assert "Timer" in content["callbacks"]
    plain = [a for a in X2 if a != "logger=csv"]
    longer = invoke("sr-train", *plain, "logger=[]", "trainer.max_steps=3", "trainer.detect_anomaly=true")
    assert longer.returncode == 0, longer.stderr
    assert "from step 2" in longer.stdout
