"""The installed wheel works from an empty folder, with no checkout in reach."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = folder / "source"  # building writes build/ and egg-info beside pyproject.toml
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "sr_train", "conf"):
        subprocess.run(["cp", "-r", str(CHECKOUT / name), str(source)], check=True)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    return wheel, site


def _run(site, tmp_path, command, *arguments):
    program = f"import sys, sr_train; assert sr_train.__file__.startswith({str(site)!r}); sys.argv[0] = {command!r}; "
    module = {"sr-eval": "evaluate"}.get(command, command.removeprefix("sr-"))
    program += f"from sr_train.cli.{module} import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_yaml_travels_in_the_wheel(installed):
    names = set(zipfile.ZipFile(installed[0]).namelist())
    yaml = {f"sr_train/{p.relative_to(CHECKOUT)}" for p in (CHECKOUT / "conf").rglob("*.yaml")}
    python = {str(p.relative_to(CHECKOUT)) for p in (CHECKOUT / "sr_train").rglob("*.py")}
    assert len(yaml) > 15
    assert yaml | python | {"sr_train/py.typed", "sr_train/metrics/niqe_pristine.safetensors"} <= names
    assert any(name.endswith("/licenses/NOTICE") for name in names)


@pytest.mark.parametrize(
    "command", ["sr-train", "sr-eval", "sr-prepare", "sr-upscale", "sr-interp", "sr-convert", "sr-report"]
)
def test_commands_help_from_an_empty_folder(installed, tmp_path, command):
    done = _run(installed[1], tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"\n  {command} ") >= 2, "two examples"


def test_the_installed_bicubic_scores_the_toy_set(installed, tmp_path):
    done = _run(installed[1], tmp_path, "sr-eval", "weights=bicubic", "sets=[toy]", "scale=2", "protocols=[y]")
    assert done.returncode == 0, done.stderr
    assert "Y of BT.601, not rounded" in done.stdout


def test_the_installed_wheel_composes_an_experiment(installed, tmp_path):
    done = _run(installed[1], tmp_path, "sr-train", "experiment=quickstart_edsr", "trainer.max_stesp=1")
    assert done.returncode == 2
    assert "did you mean max_steps" in done.stderr
