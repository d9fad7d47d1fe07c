"""Find the YAML: the installed folder, and folders of a user's own (``SR_CONF``). Imports nothing heavy.

Also a table of keys of other programs, and what they are called here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from importlib.util import find_spec
from pathlib import Path


def conf_folder() -> Path:
    """Where the YAML is installed: beside the package in a wheel, at the top of a checkout."""
    spec = find_spec("sr_train.conf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("sr_train.conf is not installed: run python -m pip install . in the checkout")
    return Path(next(iter(spec.submodule_search_locations)))


def own_folders() -> list[Path]:
    """Folders of ``SR_CONF`` (several are joined as in PATH), each of GROUP/NAME.yaml as in the installed one.

    Raises ValueError for a folder that holds no such file, or one that the installed YAML has already: only one of two files
    of the same name can be meant, and it would not be said which.
    """
    folders = [Path(part).absolute() for part in os.environ.get("SR_CONF", "").split(os.pathsep) if part]
    installed = conf_folder() if folders else None
    for folder in folders:
        names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.yaml"))]
        if not any("/" in name for name in names):
            raise ValueError(
                f"SR_CONF={folder}: expected a folder of GROUP/NAME.yaml, e.g. {folder / 'experiment' / 'mine.yaml'}"
            )
        for name in names:
            if installed is not None and (installed / name).exists():
                raise ValueError(f"{folder / name}: sr-train has {name} already; give yours another name")
    return folders


def conf_folders() -> list[Path]:
    """All folders of YAML, the installed one first."""
    return [conf_folder(), *own_folders()]


def files_of(group: str) -> list[Path]:
    """The YAML files of a config group, in all folders."""
    return [p for folder in conf_folders() for p in sorted((folder / group).rglob("*.yaml"))]


def options_of(group: str) -> list[str]:
    """What may be chosen in a config group, e.g. ``edsr_x2``."""
    groups = [folder / group for folder in conf_folders()]
    return sorted(p.relative_to(g).with_suffix("").as_posix() for g in groups for p in g.rglob("*.yaml"))


def groups() -> list[str]:
    """Names of the config groups."""
    found = {p.name for folder in conf_folders() for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.yaml"))}
    return sorted(found)


def search_path() -> list[str]:
    """What Hydra is told, so that it looks into the user's folders too: overrides, one or none."""
    quoted = ",".join(json.dumps(f"file://{folder}", ensure_ascii=False) for folder in own_folders())
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []


def near(name: str, known: Sequence[str], prefix: str = "") -> str:
    """ "; did you mean ...?" for a name that is not known, or nothing; ``prefix`` stands before each of the names."""
    close = list(dict.fromkeys(get_close_matches(name, known, n=3, cutoff=0.6)))
    ratios = {other: SequenceMatcher(None, other, name).ratio() for other in close}
    close = [other for other in close if ratios[other] > max(ratios.values()) - 0.15]  # much less near ones mislead
    return f"; did you mean {' or '.join(prefix + c for c in close)}?" if close else ""


_ELSEWHERE = (  # keys of Lightning, Hydra, BasicSR and others -> what they are here
    (
        "hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.output_subdir hydra.job.chdir default_root_dir output_dir "
        "out_dir log_dir save_dir work_dir exp_dir results_dir",
        "a run is written to paths.runs/name: give paths.runs=DIR and name=NAME",
    ),
    ("exp_name experiment_name run_name", "a run is named by name=NAME"),
    (
        "ckpt_path resume_from resume_from_checkpoint resume_state checkpoint_path auto_resume",
        "the same command again continues a run (see resume=); other weights: init.weights=FILE",
    ),
    (
        "weights pretrained pretrain pretrain_network_g pretrain_path finetune",
        "weights to start from: init.weights=FILE",
    ),
    (
        "fast_dev_run overfit_batches limit_train_batches limit_val_batches limit_test_batches limit_predict_batches "
        "barebones num_sanity_val_steps dry_run",
        "check=true tries every stage out with a few steps, trainer=debug trains 20",
    ),
    (
        "max_epochs min_epochs min_steps epochs num_epochs total_iter max_iter iters iterations num_steps total_steps",
        "the length is counted in steps: trainer.max_steps=N",
    ),
    (
        "max_time",
        "a Timer of Lightning stops a run: callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, ...}",
    ),
    ("val_check_interval check_val_every_n_epoch val_freq val_interval eval_every", "give validate.every=STEPS"),
    ("log_every_n_steps print_freq log_freq log_interval log_every", "give record.every=STEPS"),
    (
        "enable_checkpointing save_every save_freq save_checkpoint_freq every_n_train_steps save_top_k save_last "
        "modelcheckpoint",
        "give checkpoint.every=STEPS and checkpoint.keep=N; best.safetensors is chosen by validate.best",
    ),
    (
        "enable_progress_bar enable_model_summary tqdmprogressbar richprogressbar",
        "sr-train prints its own progress; numbers are logged every record.every=STEPS",
    ),
    ("trainer.callbacks", "give callbacks.NAME={_target_: PACKAGE.CLASS}"),
    ("trainer.logger", "give logger=[tensorboard,csv]"),
    ("ema_decay", "an average of the weights: task.ema=0.999"),
    ("lr learning_rate", "the rate is task.rate"),
    ("batch_size batch_size_per_gpu train_batch_size", "the batch of a step, over all devices: data.batch"),
    ("num_workers num_worker_per_gpu", "give data.workers"),
    ("gpus num_gpu num_gpus ngpu n_gpus", "give trainer.devices"),
    ("patch_size gt_size lq_size crop_size", "patches are given by their side in LR pixels: data.lr_patch"),
    ("upscale upscale_factor sr_factor", "give scale"),
    ("manual_seed random_seed seed_everything", "give seed"),
    ("amp use_amp fp16 bf16 mixed_precision", "give trainer.precision=bf16-mixed (or 16-mixed, 32)"),
    ("gradient_accumulation_steps grad_accum accum_iter", "give trainer.accumulate_grad_batches"),
    ("grad_clip clip_grad max_grad_norm", "give trainer.gradient_clip_val"),
    ("scheduler lr_scheduler", "choose curve=OPTION"),
    ("criterion", "choose loss=OPTION"),
    ("network_g net_g arch backbone", "choose model=OPTION"),
    ("network_d net_d", "choose discriminator=OPTION of a stage with task=gan"),
    ("dataset datasets dataroot dataroot_gt", "choose data=OPTION, or give data.train=[{hr: DIR}]"),
    ("strict strict_load_g", "list the tensors to re-initialize: init.skip=[GLOB]"),
    ("hydra", "Hydra's own keys are for sweeps: add -m"),
)


def ours(key: str) -> str | None:
    """Return what a key, option or class of another program is called here, by its whole name or its last part."""
    whole = key.lower().replace("-", "_")
    tried = (whole, whole.rpartition(".")[2], whole.replace("/", ".").partition(".")[0])
    names = tried if tried[2] == "hydra" else tried[:2]
    return next((advice for name in names for listed, advice in _ELSEWHERE if name in listed.split()), None)


_MOVED = {  # classes and modules that an earlier version had elsewhere
    "sr_train.tasks.optim.": "sr_train.tasks.curves.",
    "sr_train.losses.weighted.GANLoss": "sr_train.losses.gan.GANLoss",
    "sr_train.data.clip_module.": "sr_train.data.video.module.",
    "sr_train.records.WandB": "sr_train.training.wandb_logger.WandB",
    "sr_train.records.": "sr_train.training.loggers.",
}


def present_path(path: str) -> str:
    """Return the dotted path of a class now, for a path that an earlier version used."""
    old = next((old for old in _MOVED if path.startswith(old)), "")
    return _MOVED.get(old, "") + path.removeprefix(old)
