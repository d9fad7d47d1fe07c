import argparse
import os
import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from sr_train.config.compose import parse
from sr_train.config.plan import plan
from sr_train.config.sweep import Sweep, run_sweep
from sr_train.console import ConfigError
from sr_train.training.run import Outcome
from sr_train.training.sweep import Row, SweepTable, best_score, check_score, table

pytestmark = pytest.mark.slow

TINY = ("model.blocks=1", "trainer.accelerator=cpu")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Run a sweep whose jobs train nothing; returns what each was given."""

    def run(*arguments, codes=()):
        seen = []

        def job(composed, typed):
            seen.append((composed, list(typed), list(sys.argv), HydraConfig.initialized()))
            os.environ["LOCAL_RANK"] = "0"  # as Lightning does
            code = codes[len(seen) - 1] if len(seen) <= len(codes) else 0
            if isinstance(code, Exception):
                raise code
            return code if isinstance(code, Outcome) else Outcome(code)

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sr-train", *arguments])
        table = SweepTable(job)
        run_sweep(arguments, table.run)
        return table.finish(), seen

    return run


def test_each_job_is_a_separate_run_with_a_name_that_can_be_typed(sweep, tmp_path):
    code, seen = sweep("-m", *TINY, "name=sw", "task.rate=1e-3,3e-3", "main.data.batch=2")
    assert code == 0
    assert [composed.name for composed, *_ in seen] == ["sw/task.rate-0.001", "sw/task.rate-0.003"]
    for (composed, typed, argv, initialized), rate in zip(seen, (0.001, 0.003), strict=True):
        config = composed.stages[0].config
        assert (config["task"]["rate"], config["data"]["batch"]) == (rate, 2)
        assert not initialized  # or Lightning would start the other ranks with Hydra's command line, -m and all
        assert argv == ["/somewhere/bin/sr-train", *typed]
        assert "-m" not in typed
        assert f"task.rate={rate}" in typed
        (override,) = parse([f"weights=[runs/{composed.name}/main,runs/{composed.name}+main.data.batch-2/main]"])
        assert override.value()[1].endswith("+main.data.batch-2/main")
    assert "LOCAL_RANK" not in os.environ
    assert sys.argv[0] == "/somewhere/bin/sr-train"
    assert list(tmp_path.iterdir()) == []  # no multirun.yaml: the folder may be one that cannot be written to


def test_argparse_of_python_3_14_accepts_the_options_of_hydra(sweep, monkeypatch):
    add_argument = argparse.ArgumentParser.add_argument

    def check_help(parser, action):
        try:
            assert not action.help or "%" not in action.help
        except TypeError as error:  # Hydra 1.3 gives an object whose repr is the text
            raise ValueError("badly formed help string") from error

    def add_and_check(parser, *arguments, **options):
        action = add_argument(parser, *arguments, **options)
        parser._check_help(action)
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check_help, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_and_check)
    code, seen = sweep("-m", *TINY, "name=sw", "task.rate=1e-3,3e-3")
    assert (code, len(seen)) == (0, 2)
    assert argparse.ArgumentParser._check_help is check_help


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["seed=1,2"], ["run/seed-1", "run/seed-2"]),
        (["name=1e3"], ["1e3"]),
        (["name=sw", "seed=1,2", "main.data.batch=2,4"], ["sw/seed-1+main.data.batch-2", None, None, None]),
        (["name=a,b"], ["a", "b"]),
        (["name='a,b',写 (1)"], ["a,b", "写 (1)"]),
        (["name=it's", "seed=1,2"], ["it's/seed-1", "it's/seed-2"]),
        (["init.weights=写 (1).pth,b=c.pth"], ["run/init.weights--1-.pth-*", "run/init.weights-b-c.pth-*"]),
        (["model=glob(edsr*)"], ["run/model-edsr", "run/model-edsr_baseline"]),
        (["task.weight=1,2"], r"task.weight=1: no stage has this key"),
        (["trainer.detect_anomaly=true,false"], ["run/trainer.detect_anomaly-True", None]),
        (["sets=[toy],[toy,set5]"], ["run/sets-toy-*", "run/sets-toy-set5-*"]),
        (["sets={mine:{hr:D}}", "seed=1,2"], ["run/seed-1", None]),
        (["seed=1,1"], r"name=run/seed-1: two jobs would have this name"),
        (["task.rate=1e-3,fast"], 'task.rate="fast": expected a number'),
        (["hydra.run.dir=here", "seed=1,2"], "hydra.run.dir: a run is written to paths.runs/name"),
    ],
)
def test_jobs_are_named_and_checked_before_the_first_one_starts(arguments, names):
    if isinstance(names, str):
        with pytest.raises(ConfigError, match=names):
            Sweep("sr-train", ["-m", *TINY, *arguments])
        return
    made = Sweep("sr-train", ["-m", *TINY, *arguments])
    for name, typed in zip(names, _jobs(made), strict=True):
        assert name is None or Path(made.arguments(typed)[-1].removeprefix("name=")).match(name)


def _jobs(sweep):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(parse(sweep.argv[1:], command=None), None)[0]


def test_paths_with_any_characters_are_swept(sweep):
    code, seen = sweep("-m", *TINY, "init.weights=b c.pth,it's.pth,'x,y.pth'", "name=n (1)", "paths.runs=r [2]")
    assert code == 0
    given = ["b c.pth", "it's.pth", "x,y.pth"]
    assert [c.stages[0].config["init"]["weights"] for c, *_ in seen] == given
    assert [f"init.weights={name}" in typed for (_, typed, *_), name in zip(seen, given, strict=True)] == [True] * 3
    assert [c.folder for c, *_ in seen] == [Path("r [2]") / c.name for c, *_ in seen]
    assert seen[0][0].name.startswith("n (1)/init.weights-b-c.pth-")


def test_the_discriminator_is_swept_like_any_other_group(sweep):
    code, seen = sweep("-m", "task=gan", "loss=gan", "discriminator=srgan,vgg")
    assert code == 0
    targets = [c.stages[0].config["task"]["discriminator"]["_target_"].rpartition(".")[2] for c, *_ in seen]
    assert targets == ["SRGANDiscriminator", "VGGStyleDiscriminator"]
    assert seen[0][0].name == "run/discriminator-srgan"


def test_a_failed_job_is_reported_and_a_signal_ends_the_sweep(sweep, capsys):
    code, seen = sweep("-m", *TINY, "seed=1,2", codes=(ValueError("no such folder"), 75))
    assert (code, len(seen)) == (75, 2)
    out, err = capsys.readouterr()
    assert "job run/seed-1: no such folder" in err
    assert "1 of 2 jobs failed: run/seed-1" in out
    with pytest.raises(SystemExit) as stop:
        sweep("-m", *TINY, "seed=1,2", codes=(Outcome(75, by_signal=True),))
    assert stop.value.code == 75


def test_a_sweep_started_with_the_names_of_sr_train_0_1_0_continues(sweep, tmp_path):
    old = tmp_path / "runs" / "run" / "model.blocks=1,seed=2,trainer.accelerator=cpu"
    old.mkdir(parents=True)
    _, seen = sweep("-m", *TINY, "seed=1,2")
    assert [c.name for c, *_ in seen] == ["run/seed-1", f"run/{old.name}"]


def test_a_job_returns_the_score_that_the_best_network_was_chosen_by(tmp_path, monkeypatch):
    import torch
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    composed = plan([*TINY])
    assert best_score(composed) != best_score(composed)  # NaN: nothing was validated
    folder = tmp_path / composed.stages[0].folder
    folder.mkdir(parents=True)
    scores = '{"toy/y/ssim": 0.8, "toy/y/psnr": 30.5, "toy/perceptual/lpips": 0.2}'
    save_file({"x": torch.zeros(1)}, folder / "best.safetensors", metadata={"scores": scores})
    assert best_score(composed) == 30.5
    assert best_score(plan([*TINY, "validate.best=toy/perceptual/lpips"])) == 0.2


@pytest.mark.parametrize(
    ("best", "direction", "message"),
    [
        ("null", "minimize", "psnr is better when higher: give hydra.sweeper.direction=maximize"),
        ("toy/perceptual/lpips", "maximize", "lpips is better when lower: give hydra.sweeper.direction=minimize"),
        ("toy/perceptual/lpips", "minimize", None),
        ("null", "Direction.maximize", None),
    ],
)
def test_a_sweeper_with_the_wrong_direction_is_refused(best, direction, message):
    from sr_train.console import UsageError

    composed = plan([*TINY, f"validate.best={best}"])
    if message is None:
        check_score(composed, {"direction": direction})
    else:
        with pytest.raises(UsageError, match=message):
            check_score(composed, {"direction": direction})
    with pytest.raises(UsageError, match="sets=\\[\\] disables validation"):
        check_score(plan([*TINY, "sets=[]"]), {"direction": direction})


def test_a_sweep_ends_in_a_table_by_score(sweep, capsys, monkeypatch):
    scores = iter([29.5, 31.25])
    monkeypatch.setattr("sr_train.training.sweep.best_score", lambda _: next(scores))
    code, _ = sweep("-m", *TINY, "name=sw", "seed=1,2,3", codes=[0, ValueError("no memory"), 75])
    assert code == 75
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("job "))
    assert lines[start].split() == ["job", "psnr", "time", "state"]
    assert [line.split()[:2] for line in lines[start + 1 : start + 4]] == [
        ["sw/seed-3", "31.2500"], ["sw/seed-1", "29.5000"], ["sw/seed-2", "-"]
    ]  # fmt: skip
    assert [line.split()[-1] for line in lines[start + 1 : start + 4]] == ["up", "finished", "failed"]


def test_lower_scores_come_first_if_they_are_better():
    rows = [Row("a", score=0.3, metric="lpips", lower=True), Row("b"), Row("c", score=0.2, metric="lpips", lower=True)]
    assert [line.split()[0] for line in table(rows).splitlines()] == ["job", "c", "a", "b"]
