"""The public names of the package are imported when they are used, and importing the package is fast."""

import subprocess
import sys

import pytest

import sr_train


@pytest.mark.parametrize("name", sr_train.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(sr_train, name).__doc__
    assert name in dir(sr_train)


def test_an_unknown_name_is_refused_with_the_public_names():
    with pytest.raises(AttributeError, match=r"'load_weight'; public names are Upscaler, Weights, build_network"):
        _ = sr_train.load_weight


def test_importing_the_package_imports_no_torch():
    program = "import sys, sr_train; assert sr_train.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
