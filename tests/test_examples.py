"""The notebooks in examples/ run from top to bottom, as in Jupyter, in an empty folder; their trainings are shortened."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))
SHORT = (
    '"trainer.accelerator=cpu", "trainer.precision=32", "data.workers=0", "data.batch=2", "data.lr_patch=16", "sets=[]", '
    '"name='
)

CHECKS = {  # what must hold afterwards, on the variables of the notebook
    "upscale_and_compare": (
        "assert sr.size == (2 * lr.size[0], 2 * lr.size[1]); assert PIL.Image.open('chelsea_x2.png').size == sr.size;"
        "assert 30 < scores['bicubic']['psnr'] < 45"
    ),
    "interpolate": "assert len(set(scores.values())) == 3; assert results[0.5].shape == hr.shape",
    "score_like_the_paper": (
        "assert arithmetics['float'] != arithmetics['uint8_replicate']; assert abs(ensemble) < 0.01;"
        "assert colors['y']['psnr'] > colors['rgb']['psnr']; assert borders['rgb_full'] < borders['rgb'] + 1"
    ),
}


def test_every_notebook_is_checked():
    assert {book.stem for book in BOOKS} == set(CHECKS)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs(book, tmp_path):
    content = json.loads(book.read_text())
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in content["cells"] if cell["cell_type"] == "code"), (
        "outputs are not stored"
    )
    program = "\n".join([*cells, CHECKS[book.stem]])
    program, trained = re.subn(r'"name=', SHORT, re.sub(r"^STEPS = \d+", "STEPS = 2", program, flags=re.MULTILINE))
    assert trained == program.count("sr_train.train(")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
