"""A short round of scripts/fuzz.py: no damaged file ends the interpreter, runs code, or raises an error that is not ours."""

import importlib.util
import os
import pickle
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc"),
]


@pytest.mark.parametrize(
    ("kind", "count"), [("checkpoints", 30), ("weights", 40), ("images", 45), ("stores", 60), ("bare_stores", 60)]
)
def test_damaged_files_are_read_or_refused_and_nothing_else(fuzz, kind, count):
    found = fuzz.fuzz(kind, count, seed=5)
    assert len(found) == count
    assert [f for f in found if f[2] not in fuzz.FINE] == []
    assert sum(f[2] == "refused" for f in found) > count / 3


def test_crashes_and_errors_of_readers_are_counted(fuzz, tmp_path, monkeypatch):
    """The harness itself: a reader that does everything that it shall never do."""

    class Payload:
        def __reduce__(self):
            return (print, ("run",))

    def misbehave(path):
        data = path.read_bytes()
        if data == b"well":
            return 1
        acts = [
            lambda: os.kill(os.getpid(), 9), lambda: time.sleep(60), lambda: bytearray(8 << 30), lambda: {}["x"],
            lambda: pickle.loads(pickle.dumps(Payload())), lambda: bytearray(b"x") * ((1 << 30) + (1 << 28)), lambda: 2,
        ]  # fmt: skip
        return acts[data[0]]()

    monkeypatch.setattr(fuzz, "SECONDS", 6)  # a busy machine takes seconds to fill a gigabyte
    monkeypatch.setattr(fuzz, "mutant", lambda kind, number, seed: ("x", "none", bytes([number])))
    kind = fuzz.Kind("x", {"x": b"well"}, lambda folder, name: folder / name, misbehave)
    reader = fuzz.Reader(kind, tmp_path, 0)
    outcomes = [reader.read(n)[2:] for n in range(7)]
    reader.stop()
    expected = ["crash", "time out", "memory", "foreign error", "code run", "memory", "different"]
    assert [outcome for outcome, _ in outcomes] == expected
    assert outcomes[0][1] == "SIGKILL"
    assert "pickle.find_class" in outcomes[4][1]
