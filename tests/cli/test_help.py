import re
import subprocess
import sys

import pytest

COMMANDS = {
    "sr-train": "train", "sr-eval": "evaluate", "sr-prepare": "prepare", "sr-upscale": "upscale", "sr-interp": "interp",
    "sr-convert": "convert",
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
def test_help_imports_nothing_heavy_and_shows_keys_and_two_examples(command):
    text = _loaded_by(COMMANDS[command], "--help")
    assert text.rstrip().endswith("LOADED []")
    assert f"usage: {command} KEY=VALUE" in text
    assert text.count(f"\n  {command} ") >= 2


def test_bare_sr_train_lists_the_experiments_and_imports_nothing_heavy():
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
