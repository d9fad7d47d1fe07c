"""A run survives: killed, stopped, torn, changed or started twice, and the weights are those of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sr_train.data.store.builder import StoreBuilder
from sr_train.data.store.reader import Store
from sr_train.runs import resume
from sr_train.runs.checkpoints import CheckpointError, list_checkpoints, newest_checkpoint, read_checkpoint
from sr_train.runs.lock import hold
from sr_train.runs.metrics import read_rows

SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model.blocks=1", "model.channels=8", "data.workers=0", "data.batch=4",
    "data.lr_patch=12", "trainer.accelerator=cpu", "checkpoint.every=3", "validate.every=8", "record.every=2", "logger=csv",
)  # fmt: skip
LONG = ("name=run", "trainer.max_steps=200", "checkpoint.every=10", "validate.every=80")


def _rows(folder):
    return [row for row in read_rows(folder / "metrics.csv") if not row[1].startswith("speed/")]


def _same(a: Path, b: Path):
    for name in ("weights.safetensors", "best.safetensors"):
        one, two = load_file(a / name), load_file(b / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one), name
    assert _rows(a) == _rows(b)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, train_in):
    folder = tmp_path_factory.mktemp("undisturbed")
    train_in(folder, *SMALL, *LONG)
    return folder / "runs" / "run" / "x2"


def _start(tmp_path, *arguments):
    command = [str(Path(sys.executable).with_name("sr-train")), *SMALL, *LONG, *arguments]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        ended = process.poll() is not None
        assert condition() or not ended, process.communicate()[0]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.mark.kill
def test_a_killed_stopped_and_damaged_run_ends_with_the_same_weights_and_rows(tmp_path, undisturbed):
    folder = tmp_path / "runs" / "run" / "x2"
    saved = folder / "checkpoints"
    # kill -9 after the second checkpoint, whose file is then torn in half
    process = _start(tmp_path)
    _wait_for(lambda: len(list_checkpoints(saved)) >= 2, process)
    process.kill()
    process.wait()
    newest = list_checkpoints(saved)[0][1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    # the same command falls back to the one before, says so, and is then stopped by SIGTERM
    process = _start(tmp_path)
    step = list_checkpoints(saved)[0][0]
    _wait_for(lambda: list_checkpoints(saved)[0][0] > step, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 75, output
    assert "stopped by SIGTERM at step" in output
    assert "continue with: sr-train experiment=quickstart_edsr" in output
    assert f"{newest.name}: damaged" in output
    assert "the checkpoint before this one is tried" in output
    # a run begun by an earlier version, whose classes had other paths, goes on to the end
    begun = (folder / "config.yaml").read_text()
    earlier = begun.replace("sr_train.tasks.curves.", "sr_train.tasks.optim.").replace("training.loggers.", "records.")
    assert earlier.count("sr_train.tasks.optim.") == 1
    (folder / "config.yaml").write_text(earlier)
    process = _start(tmp_path)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    _same(undisturbed, folder)
    assert not list(saved.glob(".*.part"))
    assert len(list_checkpoints(saved)) <= 3
    assert (saved / "last").read_text().strip() == list_checkpoints(saved)[0][1].name


@pytest.mark.kill
def test_sigterm_to_all_processes_of_a_run_writes_a_checkpoint(tmp_path):
    """As timeout, systemd and scancel send it: to the loader's workers too."""
    command = [
        str(Path(sys.executable).with_name("sr-train")),
        *SMALL,
        *LONG,
        "data.workers=2",
        "trainer.max_steps=100000",
    ]
    process = subprocess.Popen(
        [*command, "checkpoint.every=100000", "validate.every=100000"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "runs" / "run" / "x2"
    _wait_for(lambda: len(read_rows(folder / "metrics.csv")) > 10, process)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert "continue with: sr-train" in output
    assert "Traceback" not in output
    assert len(list_checkpoints(folder / "checkpoints")) == 1
    assert not (folder / "weights.safetensors").exists()


def test_a_command_that_failed_before_its_first_checkpoint_may_be_corrected(invoke):
    assert invoke("sr-train", *SMALL, "trainer.accumulate_grad_batches=3", "trainer.max_steps=1").returncode == 2
    assert invoke("sr-train", *SMALL, "task.rate=1e30", "task.patience=1", "trainer.max_steps=9").returncode == 1
    done = invoke("sr-train", *SMALL, "trainer.accumulate_grad_batches=2", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr


def test_a_run_in_progress_is_not_shortened_below_its_checkpoint(invoke, tmp_path):
    assert invoke("sr-train", *SMALL, "curve=constant", "trainer.max_steps=6").returncode == 0
    (tmp_path / "runs" / "quickstart_edsr" / "x2" / "weights.safetensors").unlink()
    done = invoke("sr-train", *SMALL, "curve=constant", "trainer.max_steps=4")
    assert done.returncode == 1
    assert "is after trainer.max_steps=4; a run can be extended, not shortened" in done.stderr


def test_a_run_without_its_config_is_refused(invoke, tmp_path):
    assert invoke("sr-train", *SMALL, "trainer.max_steps=2").returncode == 0
    (tmp_path / "runs" / "quickstart_edsr" / "x2" / "config.yaml").write_text("")
    done = invoke("sr-train", *SMALL, "trainer.max_steps=2")
    assert done.returncode == 1
    assert "config.yaml: is missing or empty" in done.stderr


def test_an_extended_stage_equals_one_long_run(invoke, tmp_path):
    short = ("sr-train", *SMALL, "name=run", "curve=constant")
    assert invoke(*short, "trainer.max_steps=9").returncode == 0
    longer = invoke(*short, "trainer.max_steps=14")
    assert longer.returncode == 0, longer.stderr
    assert "from step 9" in longer.stdout
    whole = invoke("sr-train", *SMALL, "name=whole", "curve=constant", "trainer.max_steps=14")
    assert whole.returncode == 0
    a, b = (load_file(tmp_path / "runs" / n / "x2" / "weights.safetensors") for n in ("run", "whole"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    shorter = invoke(*short, "trainer.max_steps=5")
    assert shorter.returncode == 1
    assert "can be extended, not shortened" in shorter.stderr


def test_the_value_never_of_resume_renames_the_run_folder(invoke, tmp_path):
    (tmp_path / "runs" / "quickstart_edsr" / "x2").mkdir(parents=True)
    whole = [a for a in SMALL if a != "stage=x2"]
    done = invoke("sr-train", *whole, "trainer.max_steps=1", "resume=never")
    assert done.returncode == 0, done.stderr
    assert "renamed to runs/quickstart_edsr.old-1" in done.stdout
    assert (tmp_path / "runs" / "quickstart_edsr.old-1" / "x2").is_dir()
    assert (tmp_path / "runs" / "quickstart_edsr" / "x4" / "weights.safetensors").exists()


def test_a_changed_config_is_refused_with_the_differences_and_the_remedies(invoke, tmp_path):
    assert invoke("sr-train", *SMALL, "trainer.max_steps=2").returncode == 0
    changed = invoke("sr-train", *SMALL, "trainer.max_steps=2", "task.rate=1e-3", "data.batch=2")
    assert changed.returncode == 1
    assert "data.batch: 4 -> 2" in changed.stderr
    assert "task.rate: 0.003 -> 0.001" in changed.stderr
    for remedy in ("name=OTHER", "resume=force", "resume=never"):
        assert remedy in changed.stderr
    free = ("data.workers=1", "validate.every=1", "record.every=1", "logger=none", "checkpoint.keep=5", "sets=[toy]")
    assert "already finished" in invoke("sr-train", *SMALL, "trainer.max_steps=2", *free).stdout
    forced = invoke("sr-train", *SMALL, "trainer.max_steps=3", "task.rate=1e-3", "resume=force")
    assert forced.returncode == 0, forced.stderr
    assert "continues with a difference: task.rate: 0.003 -> 0.001" in forced.stdout
    never = invoke("sr-train", *SMALL, "trainer.max_steps=2", "task.rate=2e-3", "resume=never")
    assert never.returncode == 0, never.stderr
    assert "renamed to runs/quickstart_edsr/x2.old-1" in never.stdout
    assert (tmp_path / "runs" / "quickstart_edsr" / "x2.old-1" / "weights.safetensors").exists()
    assert invoke("sr-train", *SMALL, "resume=sometimes").returncode == 2


def test_changed_data_is_refused_though_its_path_is_the_same(invoke, photographs):
    mine = (*SMALL, "data.train=[{hr: photographs}]", "data.batch=2", "trainer.max_steps=1")
    assert invoke("sr-train", *mine).returncode == 0
    (photographs / "0003.png").unlink()
    changed = invoke("sr-train", *mine)
    assert changed.returncode == 1
    assert 'fingerprint.sources[0]: "4 images' in changed.stderr


def test_a_run_folder_is_locked_by_one_process(tmp_path, monkeypatch):
    holder = subprocess.Popen(
        [sys.executable, "-c", "from sr_train.runs.lock import hold; from pathlib import Path; import sys, time\n"
         f"with hold(Path({str(tmp_path / 'run')!r})): print('held', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FileExistsError, match=f"is being written by process {holder.pid}"), hold(tmp_path / "run", 0.3):
        pass
    holder.kill()
    holder.wait()
    with hold(tmp_path / "run", 5):
        pass


def test_a_damaged_checkpoint_is_reported_and_a_hostile_one_is_not_executed(tmp_path):
    good = {"state_dict": {}, "optimizer_states": [], "loops": {}, "callbacks": {}, "global_step": 3}
    torch.save(good, tmp_path / "step_00000003.ckpt")
    (tmp_path / "step_00000006.ckpt").write_bytes(b"not a zip")
    said = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 3
    assert len(said) == 1
    assert "step_00000006.ckpt: damaged" in said[0]

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({**good, "callbacks": Bomb()}, tmp_path / "step_00000009.ckpt")
    with pytest.raises(CheckpointError, match="contains more than tensors and plain values"):
        read_checkpoint(tmp_path / "step_00000009.ckpt")
    assert not (tmp_path / "executed").exists()
    torch.save({**good, "state_dict": {"w": torch.arange(4000.0)}}, tmp_path / "step_00000010.ckpt")
    data = bytearray((tmp_path / "step_00000010.ckpt").read_bytes())
    at = data.index(torch.arange(1000.0, 1010.0).numpy().tobytes())
    data[at] ^= 1  # one bit of one weight
    (tmp_path / "step_00000010.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step_00000010\.ckpt: damaged: the checksum"):
        read_checkpoint(tmp_path / "step_00000010.ckpt")
    torch.save([1, 2], tmp_path / "step_00000012.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint of sr-train"):
        read_checkpoint(tmp_path / "step_00000012.ckpt")
    (tmp_path / "step_00000003.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read \(5 tried\); resume=never"):
        newest_checkpoint(tmp_path, said.append)


def test_differences_are_found_at_any_depth():
    old = {"a": {"b": [1, 2], "c": {}}, "data": {"workers": 2}, "environment": {"threads": 1}}
    new = {"a": {"b": [1, 3, 4], "c": {}}, "data": {"workers": 4}, "environment": {"threads": 2}}
    assert resume.differences(old, new) == ["a.b[1]: 2 -> 3", "a.b[2]: (missing) -> 4"]


def test_a_run_of_an_earlier_version_without_channels_is_for_rgb():
    old = {"scale": 2, "data": {"scale": 2}, "model": {"scale": 2}, "task": {"discriminator": {"size": 32}}}
    new = {
        "channels": 3,
        "data": {"channels": 3},
        "model": {"image_channels": 3},
        "task": {"discriminator": {"image_channels": 3}},
    }
    same = {k: {**old[k], **v} if isinstance(v, dict) and k != "task" else v for k, v in new.items()} | {"scale": 2}
    same["task"] = {"discriminator": {"size": 32, "image_channels": 3}}
    assert resume.differences(old, same) == []
    assert resume.differences(old, {**same, "channels": 1}) == ["channels: 3 -> 1"]


def test_classes_that_were_moved_are_no_difference(tmp_path):
    old = {
        "logger": {"w": {"_target_": "sr_train.records.WandB"}},
        "loss": {"_target_": "sr_train.losses.weighted.GANLoss"},
        "task": {"discriminator": {"_target_": "sr_train.models.discriminator.VGGStyleDiscriminator"}},
    }
    new = {
        "logger": {"w": {"_target_": "sr_train.training.wandb_logger.WandB"}},
        "loss": {"_target_": "sr_train.losses.gan.GANLoss"},
        "task": {"discriminator": {"_target_": "sr_train.models.discriminators.VGGStyleDiscriminator"}},
    }
    resume.write_config(tmp_path, old)
    assert resume.read_config(tmp_path) == new


def test_a_step_that_is_not_finite_is_refused_and_its_image_named(invoke, photographs, tmp_path):
    StoreBuilder(photographs, tmp_path / "x.lmdb").build()
    _plant(tmp_path, photographs)
    done = invoke(
        "sr-train", *SMALL, "data.train=[{hr: nan.lmdb}]", "data.batch=1", "trainer.max_steps=12", "record.every=4",
        "sets=[toy]", "task.patience=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart_edsr" / "x2"
    events = (folder / "events.csv").read_text().splitlines()
    assert len(events) == 3  # 12 steps over four images: three epochs
    assert all(line.endswith("refused: loss not finite,0002") for line in events)
    assert dict((s, v) for s, n, v in _rows(folder) if n == "train/refused")[12] == "3.0"
    assert all(torch.isfinite(v).all() for v in load_file(folder / "weights.safetensors").values())


def test_too_many_bad_steps_in_a_row_end_the_run_with_the_weights_before_them(invoke, tmp_path):
    done = invoke("sr-train", *SMALL, "trainer.max_steps=30", "task.rate=1e30", "task.patience=3", "task.ema=null")
    assert done.returncode == 1
    assert "not finite in 3 steps in a row" in done.stderr
    assert "trainer.gradient_clip_val=1" in done.stderr
    assert "Traceback" not in done.stderr


def _plant(tmp_path, photographs):
    """A store of float pixels in which one image holds a NaN, as a store that another program filled may."""
    plain = StoreBuilder(photographs, tmp_path / "nan.lmdb")
    load = plain.inputs._item

    def spoiled(item):
        result = load(item)
        image, file = result.images[1]
        pixels = image.astype(np.float32) / 255
        if result.key == "0002":
            pixels[:] = np.nan
        return result._replace(images={1: (pixels, file)})

    plain.inputs._item = spoiled
    plain.build()
    store = Store(tmp_path / "nan.lmdb")
    assert store.view(1, "0002").dtype == np.float32
    assert np.isnan(store.view(1, "0002")).all()


def test_the_stages_name_of_an_earlier_version_is_found_under_its_present_key(tmp_path):
    """``data.stage`` was the stage's name; now it is the folder of local copies, which may change."""
    old = {"data": {"seed": 0, "stage": "x2"}, "environment": {}}
    (tmp_path / "weights.safetensors").touch()
    resume.write_config(tmp_path, old)
    new = {"data": {"seed": 0, "stage_name": "x2", "stage": "/local"}, "environment": {}}
    assert resume.check(tmp_path, new, force=False) == []
    other = {"data": {"seed": 0, "stage_name": "x4", "stage": None}, "environment": {}}
    with pytest.raises(resume.ChangedError, match=r'data\.stage_name: "x2" -> "x4"'):
        resume.check(tmp_path, other, force=False)


def test_a_run_of_an_earlier_version_without_degradations_has_none():
    old = {"data": {"arithmetic": "float"}}
    new = {"degrade": {}, "data": {"arithmetic": "float", "degrade": {}, "usm": False}}
    assert resume.differences(old, new) == []
    blind = {"_target_": "pkg.Blind", "margin": 3, "operators": {"blur": {"sigma": [1, 2]}}}
    degraded = {**new, "degrade": blind, "data": {**new["data"], "degrade": blind}}
    assert resume.differences(old, degraded) == ["degrade: bicubic -> pkg.Blind"]
    other = {**degraded, "degrade": {**blind, "margin": 4}}
    assert resume.differences(degraded, other) == ["degrade.margin: 3 -> 4"]
    many = {**degraded, "degrade": {**blind, **{f"k{i}": i for i in range(9)}}}
    lines = resume.differences(degraded, many)
    assert (len(lines), lines[-1]) == (6, "degrade: 4 more keys differ")
    assert resume.differences(new, {**new, "data": {**new["data"], "usm": True}}) == ["data.usm: false -> true"]


def test_the_degradation_of_a_source_is_a_part_of_the_fingerprint():
    def described(*sources):
        config = {"data": {"train": list(sources)}}
        return resume.describe(config, [], [])

    plain = described({"hr": "a"}, {"hr": "b"})
    assert resume.differences(plain, described({"hr": "moved"}, {"hr": "b"})) == []
    own = described({"hr": "a", "degrade": {"_target_": "X", "margin": 3}}, {"hr": "b"})
    assert any("fingerprint.degrade" in line for line in resume.differences(plain, own))
    other = described({"hr": "a", "degrade": {"_target_": "X", "margin": 4}}, {"hr": "b"})
    assert resume.differences(own, other) == ["fingerprint.degrade[0].margin: 3 -> 4"]
