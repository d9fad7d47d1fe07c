"""The packages that are installed with the project, and what its pages tell users to install."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def requirements():
    return [
        Requirement(r)
        for r in re.findall(r'"([a-z][\w.-]*(?:\[[\w,]+\])?[<>=!][^"]*)"', (ROOT / "pyproject.toml").read_text())
    ]


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_compromised_releases_of_lightning_are_excluded(version):
    (lightning,) = [r for r in requirements() if r.name == "lightning"]
    assert version not in lightning.specifier
    assert {"2.6.1", "2.6.4"} == {v for v in ("2.5.9", "2.6.1", "2.6.4", "3.0") if v in lightning.specifier}


def test_no_package_is_installed_that_is_licensed_for_noncommercial_use():
    assert "pyiqa" not in {r.name for r in requirements()}


def test_nothing_tells_to_install_sr_train_from_an_index():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    for path in [*pages, *(ROOT / "sr_train").rglob("*.py")]:
        assert "sr-train[" not in path.read_text(), path
