"""Faults of a later stage's objects are reported before the first stage is trained, all at once."""

import copy
import dataclasses
import io
import os
import sys
from contextlib import redirect_stdout

import pytest
import torch

from sr_train.config.plan import plan
from sr_train.console import ProblemsError, UsageError
from sr_train.training.preflight import preflight, prepare
from sr_train.training.trainer import unchanged_flags

pytestmark = pytest.mark.slow

SMALL = (
    "experiment=quickstart_edsr", "model.blocks=1", "model.channels=8", "data.workers=0", "data.lr_patch=8", "data.batch=2",
    "trainer.max_steps=6", "trainer.accelerator=cpu", "trainer.precision=32",
)  # fmt: skip
CALLBACKS = "lightning.pytorch.callbacks"
DDP = "lightning.pytorch.strategies.DDPStrategy"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("API_KEY", "MODE", "IDENTITY_TOKEN_FILE", "BASE_URL", "CONFIG_DIR", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def composed():
    return plan(SMALL)


def change(composed, keys):
    """The plan with other values, {STAGE.KEY: value}, of all stages where none is named; composing anew is slow."""
    stages = copy.deepcopy(composed.stages)
    for key, value in keys.items():
        name, _, rest = key.partition(".")
        for stage in stages:
            if name in ("", stage.name):
                node = stage.config
                *parents, last = rest.split(".")
                for parent in parents:
                    node = node[parent]
                node[last] = value
    return dataclasses.replace(composed, stages=stages)


def problems_of(stage):
    problems = []
    ready = prepare(stage, problems)
    assert (ready is None) == bool(problems)
    return problems


def refused(composed, keys):
    with pytest.raises(ValueError, match=r".") as caught:
        preflight(change(composed, keys))
    return caught.value


BAD_VALUES = [
    ({"x4.trainer.accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches=0: expected an integer of at least 1"),
    ({"x4.trainer.gradient_clip_algorithm": "foo"}, "trainer: `gradient_clip_algorithm` foo is invalid. Allowed algorithms"),
    ({"x4.trainer.strategy": "foo"}, "trainer.strategy=foo: choose from auto, ddp, ddp_find_unused_parameters_true"),
    ({"x4.trainer.strategy": "ddp_spawn"}, "trainer.strategy=ddp_spawn: choose from auto, ddp"),
    ({"x4.trainer.strategy": "ddp_notebook"}, "trainer.strategy=ddp_notebook: choose from auto, ddp"),
    ({"x4.trainer.strategy": "deepspeed"}, "trainer.strategy=deepspeed: choose from auto, ddp"),
    ({"x4.trainer.strategy": {"_target_": DDP, "start_method": "spawn"}}, "trainer.strategy=.*: choose from auto, ddp"),
    ({"x4.trainer.accelerator": "foo"}, "trainer.accelerator=foo: choose from auto, cpu, gpu, cuda, mps"),
    ({"x4.trainer.devices": 0}, "trainer.devices=0: expected an integer of at least 1, or -1"),
    ({"x4.trainer.devices": "foo"}, "`devices` selected with `CPUAccelerator` should be an int > 0"),
    ({"x4.trainer.num_nodes": 0}, "trainer.num_nodes=0: expected an integer of at least 1"),
    ({"x4.trainer.profiler": "foo"}, "trainer.profiler=foo: choose from simple, advanced, pytorch, or null"),
    ({"x4.trainer.precision": "fp8"}, "trainer.precision=fp8: choose from"),
    ({"x4.data.accumulate": 4}, r"data.batch=2 cannot be divided by 1 x 4 \(devices x micro-batches\)"),
    ({"x4.task.optimizer.betas": [0.9, 1.5]}, "task.optimizer: Invalid beta parameter at index 1: 1.5"),
    ({"x4.task.optimizer.weight_decay": -1}, "task.optimizer: Invalid weight_decay value: -1"),
    ({"x4.task.optimizer.fused": True, "x4.task.optimizer.foreach": True}, "`fused` and `foreach` cannot be `True` together"),
    (  # by its first step
        {"x4.task.optimizer.capturable": True, "x4.task.optimizer.fused": False},
        "task.optimizer: AssertionError: If capturable=True",
    ),
    ({"x4.callbacks.a": {"_target_": f"{CALLBACKS}.EarlyStopping", "monitor": "a", "mode": "best"}}, "callbacks.a: `mode` can"),
    ({"x4.callbacks.a": {"_target_": f"{CALLBACKS}.LearningRateMonitor"}, "x4.logger": {}}, "callbacks.a: .* needs a logger"),
    ({"x4.callbacks.a": {"_target_": "torch.nn.ReLU"}}, "callbacks.a: torch.nn.ReLU is not a lightning.pytorch.callbacks.Call"),
    ({"x4.callbacks.a": {"_target_": f"{CALLBACKS}.ModelCheckpoint"}}, "trainer: Trainer was configured with"),
    ({"x4.curve.periods": [2, 3]}, r"sum to 5, trainer.max_steps=6: the rate .* last 1 steps; give curve.periods=\[2,3,1\]"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "message"), BAD_VALUES, ids=lambda x: next(iter(x)) if isinstance(x, dict) else "")
def test_a_wrong_value_of_a_later_stage_is_refused_at_the_start(keys, message, composed, tmp_path):
    error = refused(composed, keys)
    assert isinstance(error, UsageError)
    assert str(error).startswith("stage x4: ")
    assert "\n" not in str(error)
    with pytest.raises(UsageError, match=message):
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"x4.trainer.accelerator": "cuda"},
            "trainer.accelerator=cuda: this machine has no such device; give trainer.accelerator",
        ),
        ({"x4.trainer.devices": -1}, "trainer.devices=-1: selects GPUs, but no GPU is used here"),
        ({"x4.trainer.devices": [0, 1]}, "trainer.devices=.*: selects GPUs"),
        ({"x4.trainer.precision": "16-mixed"}, "trainer.precision=16-mixed needs a GPU"),
        ({"x4.data.train": [{"hr": "nothing"}]}, "nothing: there is no such folder"),
    ],
)
def test_missing_hardware_is_not_a_usage_error(keys, message, composed, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    error = refused(composed, keys)
    assert not isinstance(error, UsageError)
    with pytest.raises(ValueError, match=f"^stage x4: {message}"):
        raise error


def test_all_problems_of_all_stages_are_listed_once_and_nothing_is_trained(invoke, tmp_path):
    done = invoke(
        "sr-train", *SMALL, "task.optimizer.eps=-1", "x2.trainer.strategy=foo", "x4.data.train=[{hr: nothing}]",
        "x4.validate.best=a/y/psnr", "x4.init.skip=[]", "x4.record.every=0",
    )  # fmt: skip
    assert done.returncode == 2
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert lines[0] == "sr-train: error:"
    for line in (
        "stage x2: trainer.strategy=foo: choose from auto, ddp, ddp_find_unused_parameters_true, "
        "ddp_find_unused_parameters_false, single_device",
        "task.optimizer: Invalid epsilon value: -1",
        "stage x4: record.every=0: expected an integer of at least 1",
        "stage x4: validate.best=a/y/psnr is not measured; choose from toy/y/psnr, toy/y/ssim, toy/rgb/psnr, toy/rgb/ssim",
        "stage x4: nothing: there is no such folder",
    ):
        assert lines.count(line) == 1, done.stderr
    assert "stage x4 from stage x2: 2 tensors do not match" in done.stderr
    assert "copied" not in done.stdout
    assert not (tmp_path / "runs" / "quickstart_edsr").exists()


def test_check_reports_the_same_problems(invoke):
    done = invoke("sr-train", *SMALL, "check=true", "x4.task.optimizer.weight_decay=-1")
    assert done.returncode == 2
    assert done.stderr == "sr-train: error: stage x4: task.optimizer: Invalid weight_decay value: -1\n"


def test_a_missing_wandb_and_a_missing_login_are_reported_before_any_stage(composed, monkeypatch, tmp_path):
    wandb = pytest.importorskip("wandb")
    spec = {
        "_target_": "lightning.pytorch.loggers.WandbLogger",
        "project": "sr-train",
        "save_dir": "runs/quickstart_edsr/x4",
    }
    composed = change(composed, {"x4.logger": {"wandb": spec}})
    with pytest.raises(
        ValueError, match=r"^stage x4: logger.wandb: no login for api.wandb.ai: run wandb login, set WANDB_"
    ):
        preflight(composed)
    for name, value in (("MODE", "offline"), ("API_KEY", 40 * "a")):
        with monkeypatch.context() as patch:
            patch.setenv(f"WANDB_{name}", value)
            preflight(composed)
    assert wandb.run is None
    assert not list(tmp_path.iterdir())
    netrc = "machine api.wandb.ai login user password " + 40 * "a"
    for file, text in ((".netrc", netrc), (".config/wandb/settings", "[default]\nmode = offline")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{text}\n")
        preflight(composed)
        (tmp_path / file).unlink()
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(ValueError, match=r"^stage x4: logger.wandb: ") as caught:
        preflight(composed)
    assert not isinstance(caught.value, UsageError)


def test_the_preflight_changes_no_files_and_no_global_state(composed, tmp_path):
    flags = (torch.are_deterministic_algorithms_enabled, lambda: torch.backends.cudnn.benchmark, torch.is_anomaly_enabled,
             lambda: torch.backends.cudnn.deterministic, torch.is_deterministic_algorithms_warn_only_enabled)  # fmt: skip
    before, environment, random = [f() for f in flags], dict(os.environ), torch.get_rng_state()
    keys = {"deterministic": True, "benchmark": True, "detect_anomaly": True, "devices": 2, "strategy": "ddp"}
    monitor = {"_target_": f"{CALLBACKS}.DeviceStatsMonitor"}
    changed = change(composed, {"x4.callbacks.a": monitor, **{f".trainer.{k}": v for k, v in keys.items()}})
    typed = copy.deepcopy(changed)
    ready = preflight(changed)
    assert changed == typed  # what was resolved stands in what is returned
    assert [r.stage.config["trainer"]["precision"] for r in ready] == ["32-true", "32-true"]
    assert [f() for f in flags] == before
    assert dict(os.environ) == environment
    assert torch.equal(torch.get_rng_state(), random)
    assert not torch.distributed.is_initialized()
    assert not list(tmp_path.iterdir())


def test_files_that_a_constructor_writes_are_not_in_the_stage_folder(composed, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\nimport lightning as L\n"
        "class Writes(L.Callback):\n"
        "    def __init__(self, folder: str) -> None:\n"
        "        Path(folder).mkdir(parents=True)\n"
        "        print('made', folder)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = {"_target_": "mine.Writes", "folder": "runs/quickstart_edsr/x4/mine"}
    with redirect_stdout(io.StringIO()) as printed:
        preflight(change(composed, {"x4.callbacks.a": spec}))
    assert "made" in printed.getvalue()
    assert not (tmp_path / "runs").exists()
    sys.modules.pop("mine")


def test_global_flags_of_a_stage_do_not_affect_the_next():
    with unchanged_flags():
        torch.backends.cudnn.benchmark = True
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "keys",
    [
        {".task.optimizer.fused": True},
        {".task.optimizer.foreach": True, ".task.optimizer.fused": False},
        {".task.optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_decay": 0.1}},
        {".task.rate_scale": {"body*": 0.1}},
        {".trainer.strategy": "ddp", ".trainer.devices": 2},
        {".trainer.strategy": {"_target_": DDP, "process_group_backend": "gloo"}, ".trainer.devices": 2},
        {".trainer.profiler": "simple", ".callbacks.a": {"_target_": f"{CALLBACKS}.ModelSummary"}},
    ],
)
def test_valid_values_are_accepted(keys, composed):
    for stage in change(composed, keys).stages:
        assert not problems_of(stage)


def test_the_curve_of_the_discriminator_is_checked():
    curve = "x4.task.discriminator_curve={_target_: sr_train.tasks.curves.CosineRestarts, periods: [4]}"
    first, second = plan(
        [*SMALL, "task=gan", "loss=gan", "x2.data.lr_patch=16", "task.discriminator.size=32", curve]
    ).stages
    assert not problems_of(first)
    assert [str(p)[:69] for p in problems_of(second)] == [
        "task.discriminator_curve.periods=[4]: periods sum to 4, trainer.max_s"
    ]


def test_one_problem_keeps_its_type_and_several_become_one_error(composed):
    assert type(refused(composed, {".data.batch": 0})) is UsageError
    error = refused(composed, {".data.batch": 0, ".record.every": 0})
    assert isinstance(error, ProblemsError)
    assert (error.code, len(error.problems)) == (2, 2)
    lacks = refused(composed, {"x2.data.train": [{"hr": "nobody"}], "x4.data.train": [{"hr": "nothing"}]})
    assert isinstance(lacks, ProblemsError)
    assert lacks.code == 1


def test_the_output_of_a_profiler_and_of_a_model_summary_is_shown(invoke, caplog):
    done = invoke("sr-train", *SMALL, "stage=x2", "sets=[]", "logger=csv", "trainer.profiler=simple",
                  f"callbacks.s={{_target_: {CALLBACKS}.ModelSummary}}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "FIT Profiler Report" in caplog.text
    assert "Trainable params" in caplog.text
