"""Find the YAML files of the installation and of the user (environment variable ``SR_CONF``). Imports nothing slow.

Also contains a table of keys of other programs and the keys of sr-train for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from difflib import SequenceMatcher, get_close_matches
from importlib.util import find_spec
from pathlib import Path


def conf_folder() -> Path:
    """Return the folder of the installed YAML files: next to the package in a wheel, at the top of a checkout."""
    spec = find_spec("sr_train.conf")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("sr_train.conf is not installed: run python -m pip install . in the checkout")
    return Path(next(iter(spec.submodule_search_locations)))


def own_folders() -> list[Path]:
    """Return the folders in the environment variable ``SR_CONF`` (separated as in PATH).

    Each folder contains files GROUP/NAME.yaml. Raise ValueError for a folder without a file GROUP/NAME.yaml, or with a
    file that has the name of an installed file: the name would be ambiguous.
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
                raise ValueError(f"{folder / name}: sr-train already has {name}; rename this file")
    return folders


def conf_folders() -> list[Path]:
    """Return all folders of YAML files, the installed one first."""
    return [conf_folder(), *own_folders()]


def files_of(group: str) -> list[Path]:
    """Return the YAML files of a config group, in all folders."""
    return [p for folder in conf_folders() for p in sorted((folder / group).rglob("*.yaml"))]


def options_of(group: str) -> list[str]:
    """Return the options of a config group, e.g. ``edsr_x2``."""
    groups = [folder / group for folder in conf_folders()]
    return sorted(p.relative_to(g).with_suffix("").as_posix() for g in groups for p in g.rglob("*.yaml"))


def groups() -> list[str]:
    """Return the names of the config groups."""
    found = {p.name for folder in conf_folders() for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.yaml"))}
    return sorted(found)


def search_path() -> list[str]:
    """Return the Hydra override that adds the user's folders to Hydra's search path; an empty list without such folders."""
    quoted = ",".join(json.dumps(f"file://{folder}", ensure_ascii=False) for folder in own_folders())
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []


def near(name: str, known: Sequence[str], prefix: str = "") -> str:
    """Return "; did you mean ...?" with the most similar names, or an empty string. ``prefix`` is put before each name."""
    close = list(dict.fromkeys(get_close_matches(name, known, n=3, cutoff=0.6)))
    ratios = {other: SequenceMatcher(None, other, name).ratio() for other in close}
    # less similar names would mislead
    close = [other for other in close if ratios[other] > max(ratios.values()) - 0.15]
    return f"; did you mean {' or '.join(prefix + c for c in close)}?" if close else ""


def then(hint: str, text: str) -> str:
    """Join a hint from :func:`near` and a clause.

    Return "; CLAUSE", or "; did you mean a? CLAUSE" with a capital letter.
    """
    return f"{hint} {text[:1].upper()}{text[1:]}" if hint.endswith("?") else f"{hint}; {text}"


def none_chosen(group: str) -> str:
    """Return the message for ``GROUP=null`` where an option is needed."""
    none = "for none, give sets=[]; or choose" if group == "sets" else "choose"
    return f"{group}=null: {none} from {', '.join(options_of(group))}"


def check_choice(group: str, names: Sequence[str]) -> list[str]:
    """Return a problem for each name that is no option of a config group, with similar names."""
    options, noun = (
        options_of(group),
        {"sets": "set", "data": "data set", "adversarial": "adversarial loss"}.get(group, group),
    )
    known = f"there are {', '.join(options)}"
    return [f"{group}={n}: there is no such {noun}{then(near(n, options), known)}" for n in names if n not in options]


_ELSEWHERE = (  # keys of Lightning, Hydra, BasicSR and others -> what to type in sr-train
    (
        "hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.output_subdir hydra.job.chdir default_root_dir output_dir "
        "out_dir log_dir save_dir work_dir exp_dir results_dir",
        "a run is written to paths.runs/name: give paths.runs=DIR and name=NAME",
    ),
    ("exp_name experiment_name run_name", "a run is named by name=NAME"),
    (
        "ckpt_path resume_from resume_from_checkpoint resume_state checkpoint_path auto_resume",
        "to continue a run, run the same command again (see resume=); to start from other weights, give init.weights=FILE",
    ),
    (
        "weights pretrained pretrain pretrain_network_g pretrain_path finetune",
        "to start from weights, give init.weights=FILE",
    ),
    (
        "fast_dev_run overfit_batches limit_train_batches limit_val_batches limit_test_batches limit_predict_batches "
        "barebones num_sanity_val_steps dry_run",
        "check=true tests every stage with a few steps, trainer=debug trains 20 steps",
    ),
    (
        "max_epochs min_epochs min_steps epochs num_epochs total_iter max_iter iters iterations num_steps total_steps",
        "the length of a stage is given in steps: trainer.max_steps=N",
    ),
    (
        "max_time",
        "to stop a run after a time, add Lightning's Timer: callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, ...}",
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
        "sr-train prints its own progress; numbers are logged every record.every=STEPS steps",
    ),
    ("trainer.callbacks", "give callbacks.NAME={_target_: PACKAGE.CLASS}"),
    ("trainer.logger", "give logger=[tensorboard,csv]"),
    ("ema_decay", "for an average of the weights, give task.ema=0.999"),
    ("lr learning_rate", "the learning rate is task.rate"),
    ("batch_size batch_size_per_gpu train_batch_size", "give data.batch, the batch size of a step over all devices"),
    ("num_workers num_worker_per_gpu", "give data.workers"),
    ("gpus num_gpu num_gpus ngpu n_gpus", "give trainer.devices"),
    ("patch_size gt_size lq_size crop_size", "give data.lr_patch, the side of a patch in LR pixels"),
    ("upscale upscale_factor sr_factor", "give scale"),
    ("manual_seed random_seed seed_everything", "give seed"),
    ("amp use_amp fp16 bf16 mixed_precision", "give trainer.precision=bf16-mixed (or 16-mixed, 32)"),
    ("gradient_accumulation_steps grad_accum accum_iter", "give trainer.accumulate_grad_batches"),
    ("grad_clip clip_grad max_grad_norm", "give trainer.gradient_clip_val"),
    ("scheduler lr_scheduler", "choose curve=OPTION"),
    ("criterion", "choose loss=OPTION"),
    ("network_g net_g arch backbone", "choose model=OPTION"),
    ("net_d_iters n_critic d_steps", "give task.discriminator_steps, the updates of the discriminator per step"),
    ("net_d_init_iters", "give task.discriminator_first, the steps in which the discriminator alone is trained"),
    ("gp_opt r1_reg_weight gradient_penalty", "give task.penalty, e.g. {_target_: sr_train.losses.penalties.R1}"),
    ("network_d net_d", "choose discriminator=OPTION, for a stage with task=gan"),
    ("dataset datasets dataroot dataroot_gt", "choose data=OPTION, or give data.train=[{hr: DIR}]"),
    ("strict strict_load_g", "list the tensors to re-initialize: init.skip=[GLOB]"),
    ("hydra", "keys of Hydra are allowed in sweeps only: add -m"),
)


def foreign_hint(key: str) -> str | None:
    """Return a hint for a key, option or class of another program; None for an unknown name.

    The name is looked up as a whole and by its last part after a dot.
    """
    whole = key.lower().replace("-", "_")
    tried = (whole, whole.rpartition(".")[2], whole.replace("/", ".").partition(".")[0])
    names = tried if tried[2] == "hydra" else tried[:2]
    return next((advice for name in names for listed, advice in _ELSEWHERE if name in listed.split()), None)


_MOVED = {  # classes and modules that an earlier version had in other places
    "sr_train.tasks.optim.": "sr_train.tasks.curves.",
    "sr_train.losses.weighted.GANLoss": "sr_train.losses.gan.GANLoss",
    "sr_train.data.clip_module.": "sr_train.data.video.module.",
    "sr_train.models.discriminator.": "sr_train.models.discriminators.",
    "sr_train.records.WandB": "sr_train.training.wandb_logger.WandB",
    "sr_train.records.": "sr_train.training.loggers.",
}


def present_path(path: str) -> str:
    """Return the current dotted path of a class for its path in an earlier version of sr-train."""
    old = next((old for old in _MOVED if path.startswith(old)), "")
    return _MOVED.get(old, "") + path.removeprefix(old)
