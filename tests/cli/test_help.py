import re
import subprocess
import sys

import pytest

from sr_train.cli.main import PACKAGES

pytestmark = pytest.mark.slow

COMMANDS = {
    "sr-train": "train", "sr-eval": "evaluate", "sr-prepare": "prepare", "sr-upscale": "upscale", "sr-interp": "interp",
    "sr-convert": "convert",
    "sr-report": "report",
}  # fmt: skip
HEAVY = ("torch", "lightning", "hydra", "omegaconf", "numpy", "cv2", "lmdb", "skimage")


def _loaded_by(module, *arguments):
    program = (
        f"import sys; sys.argv = ['x', *{list(arguments)!r}]\n"
        f"from sr_train.cli.{module} import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_slow_and_shows_keys_and_two_examples(command):
    text = _loaded_by(COMMANDS[command], "--help")
    assert text.rstrip().endswith("LOADED []")
    assert f"usage: {command} KEY=VALUE" in text
    assert text.count(f"\n  {command} ") >= 2


def test_sr_train_without_arguments_lists_the_experiments_and_imports_nothing_slow():
    text = _loaded_by("train")
    assert text.rstrip().endswith("LOADED []")
    assert re.search(r"\n  quickstart_edsr +A small EDSR on five", text)
    assert re.search(r"\n  edsr_x4 +EDSR x4 on DIV2K", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_help_has_a_comment(command):
    text = _loaded_by(COMMANDS[command], "-h").partition("Keys (KEY=default):")[2].partition("Groups")[0]
    keys = [line for line in text.splitlines() if "=" in line]
    assert len(keys) >= 5
    assert all(len(line.split()) > 2 for line in keys), keys


def test_version_prints_what_a_bug_report_needs(invoke):
    import sr_train

    for command in COMMANDS:
        lines = invoke(command, "--version").stdout.splitlines()
        assert lines[0] == f"{command} {sr_train.__version__}"
        assert [line.split()[0] for line in lines[1:6]] == [
            "torch",
            "torchvision",
            "lightning",
            "hydra-core",
            "omegaconf",
        ]
        assert all(line.split()[1][0].isdigit() for line in lines[:6])
        python, torch, cpu, *gpus = lines[len(PACKAGES) + 1 :]
        assert python.startswith(f"Python {sys.version.split()[0]} on ")
        assert torch.startswith("torch is built for C")
        assert re.fullmatch(
            r"CPU .+, \d+ cores.*; torch uses \w+ and \d+ threads( \(OMP_.+\))?; [\d.]+ GiB of memory free", cpu
        )
        assert gpus
        assert all(line.startswith("GPU ") for line in gpus)


def test_version_is_printed_where_torch_does_not_work(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "sr_train.devices", None)
    done = invoke("sr-train", "--version")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("torch does not work: import of sr_train.devices halted")


def test_help_of_a_group_shows_its_options_and_keys_and_imports_nothing_slow(invoke):
    text = _loaded_by("train", "--help", "trainer")
    assert text.rstrip().endswith("LOADED []")
    assert re.search(r"\ntrainer=ddp  All GPUs of this machine", text)
    assert re.search(r"\n  trainer\.max_steps=300_000 +integer", text)
    assert re.search(r"\n  trainer\.precision=auto +string +auto \(bf16-mixed", text)
    text = invoke("sr-train", "--help", "discriminator").stdout
    assert re.search(r"\n  task\.discriminator\.size=128 +integer +side of the HR patch", text)
    assert "task.discriminator.KEY=VALUE" in text
    text = invoke("sr-train", "--help", "validate").stdout
    assert re.search(r"\n  validate\.every=5000 +integer +steps between validations", text)
    assert "checkpoint" not in text
    text = invoke("sr-eval", "--help", "sets").stdout
    assert "sets.set5.lr=${paths.data}/Set5.lmdb" in text
    done = invoke("sr-train", "--help", "trainr")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such group or key; did you mean trainer?" in done.stderr


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        (
            "sr-train",
            "--anything",
            "unknown option '--anything'; keys are typed without dashes, KEY=VALUE; options are -h",
        ),
        ("sr-train", "--hlep", "unknown option '--hlep'; did you mean --help?"),
        ("sr-train", "--experiment", "did you mean experiment?"),
        (
            "sr-train",
            "--epochs=3",
            "unknown option '--epochs'; the length of a stage is given in steps: trainer.max_steps=N",
        ),
        ("sr-eval", "--wieghts=a", "did you mean weights?"),
        ("sr-prepare", "-m", "unknown option '-m'"),
    ],
)
def test_an_unknown_option_is_refused_with_the_key_to_type(invoke, command, option, message):
    done = invoke(command, option)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_package_runs_each_command_by_name(monkeypatch, capsys):
    import runpy

    from sr_train.__main__ import COMMANDS as NAMES

    for name, module in NAMES.items():
        for program in ([f"sr_train.cli.{module}"], ["sr_train", name]):
            monkeypatch.setattr(sys, "argv", ["python", *program[1:], "--unknown"])
            monkeypatch.delitem(sys.modules, f"sr_train.cli.{module}", raising=False)
            with pytest.raises(SystemExit) as stop:
                runpy.run_module(program[0], run_name="__main__", alter_sys=True)
            assert stop.value.code == 2
            assert f"sr-{name}: error: unknown option '--unknown'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["python", "trian"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("sr_train", run_name="__main__", alter_sys=True)
    assert stop.value.code == 2
    assert "'trian' is not a command; did you mean train? Choose from train, eval," in capsys.readouterr().err


def test_several_values_need_a_list_or_a_sweep(invoke):
    done = invoke("sr-eval", "weights=bicubic", "sets=toy,set5", "ensemble=true,false")
    assert done.returncode == 2
    assert "sets=toy,set5: give a list, sets=[toy,set5]" in done.stderr
    assert "ensemble=true,false: expected one value" in done.stderr


def test_null_is_no_option_of_a_group(invoke):
    done = invoke("sr-eval", "weights=bicubic", "sets=null")
    assert done.returncode == 2
    assert "sets=null: for none, give sets=[]; or choose from b100, " in done.stderr
    done = invoke("sr-train", "experiment=quickstart", "model=null", "trainer=null")
    assert "model=null: choose from edsr, " in done.stderr
    assert "trainer=null: choose from cpu, " in done.stderr
