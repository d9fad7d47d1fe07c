"""The packages that are installed with the project, and what its pages tell users to install."""

import re
from pathlib import Path

import pytest
import yaml
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
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    for path in [*pages, *(ROOT / "sr_train").rglob("*.py")]:
        assert "sr-train[" not in path.read_text(), path


def test_each_python_of_the_classifiers_is_tested():
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named == [f"3.{minor}" for minor in range(10, 15)]
    assert f'requires-python = ">={named[0]}"' in text
    assert {"lint", "test", "lowest", "wheel", "docs"} <= {
        name for name in jobs if not jobs[name].get("continue-on-error")
    }


def test_a_bug_report_has_to_contain_versions_and_the_config():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    required = [f["attributes"]["label"] for f in form["body"] if f.get("validations", {}).get("required")]
    assert {"Output of `sr-train --version`", "The run's `config.yaml`"} <= set(required)


def test_the_version_is_in_one_place():
    for name in ("pyproject.toml", "CITATION.cff"):
        assert not re.search(r"^version\s*[=:]\s*[\"'\d]", (ROOT / name).read_text(), re.MULTILINE), name
