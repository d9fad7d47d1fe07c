import json

import pytest

from sr_train.config.plan import plan
from sr_train.training.dry_run import multiply_adds

SMALL = (
    "model.blocks=1",
    "model.channels=8",
    "data.workers=0",
    "data.batch=4",
    "data.lr_patch=12",
    "trainer.accelerator=cpu",
)


def _tree(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.mark.parametrize(("scale", "published"), [(2, 316.3e9), (3, 160.2e9), (4, 114.0e9)])
def test_multiply_adds_equal_those_of_papers(scale, published):
    # EDSR-baseline, output of 1280x720: CARN (Ahn et al. 2018), Table 1, and most tables since
    counted = multiply_adds(plan([f"experiment=edsr_baseline_x{scale}"]).stages[-1].config["model"])
    assert counted == pytest.approx(published, rel=3e-3)


def test_check_tests_every_stage_and_changes_nothing(invoke, tmp_path):
    (tmp_path / "runs").mkdir()
    before = _tree(tmp_path)
    done = invoke("sr-train", "experiment=quickstart_edsr", "check=true", *SMALL)
    assert done.returncode == 0, done.stderr
    assert _tree(tmp_path) == before
    for text in ("stage x2: EDSR x2", "stage x4: EDSR x4", "because stage x2 is not finished",
                 "copied", "G multiply-adds", "all sizes match", "toy/chelsea", " in training, ", "are free",
                 "2 stages", "nothing was changed"):  # fmt: skip
        assert text in done.stdout, text


def test_check_of_a_run_in_progress_changes_nothing_and_starts_from_the_trained_stage(invoke, tmp_path):
    assert invoke("sr-train", "experiment=quickstart_edsr", "stage=x2", "trainer.max_steps=3", *SMALL).returncode == 0
    before = _tree(tmp_path)
    done = invoke("sr-train", "experiment=quickstart_edsr", "check=true", "trainer.max_steps=3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert _tree(tmp_path) == before
    assert "from runs/quickstart_edsr/x2/weights.safetensors" in done.stdout


def test_problems_found_by_check_are_errors(invoke, tmp_path, monkeypatch):
    done = invoke("sr-train", "experiment=quickstart_edsr", "check=true", "x4.data.lr_patch=400", *SMALL[:3])
    assert done.returncode == 1
    assert "smaller than the patch of 400x400" in done.stderr
    done = invoke("sr-train", "experiment=quickstart_edsr", "check=true", "x4.init.skip=[]", *SMALL)
    assert done.returncode == 1
    assert "upsample" in done.stderr
    assert invoke("sr-train", "experiment=quickstart_edsr", "check=1", *SMALL).returncode == 2
    monkeypatch.setattr("sr_train.training.dry_run._free", lambda _: 1000)
    done = invoke("sr-train", "experiment=quickstart_edsr", "stage=x2", "check=true", *SMALL)
    assert done.returncode == 1
    assert "free some disk space or set paths.runs" in done.stderr


def test_the_predicted_disk_space_covers_a_run(invoke, tmp_path):
    from sr_train.training.cluster import one_process
    from sr_train.training.dry_run import check_stage
    from sr_train.training.preflight import preflight

    composed = plan(["experiment=quickstart_edsr", "stage=x2", "trainer.max_steps=8", "checkpoint.every=2", *SMALL,
                     f"paths.runs={tmp_path / 'runs'}", "trainer.precision=32-true"])  # fmt: skip
    foretold = check_stage(composed, preflight(composed)[0], one_process()).bytes
    done = invoke(
        "sr-train", "experiment=quickstart_edsr", "stage=x2", "trainer.max_steps=8", "checkpoint.every=2", *SMALL
    )
    assert done.returncode == 0, done.stderr
    taken = sum(p.stat().st_size for p in (tmp_path / "runs").rglob("*") if p.is_file())
    assert taken / 4 < foretold < taken * 8
    assert json.dumps(foretold)
