"""Locks where the file system has none: of several starts at once, one wins."""

import contextlib
import errno
import multiprocessing
import os
import threading
import time

import pytest

from sr_train import files
from sr_train.runs import lock
from sr_train.runs.lock import hold, lock_file


@pytest.fixture(autouse=True)
def no_record_locks(monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)


def _claims(folder):
    return sorted(folder.glob(".run.lock.*"))


def _leave(folder, number, content, age=0.0):
    """A claim that another process wrote ``age`` seconds ago."""
    claim = folder / f".run.lock.{number}"
    claim.write_text(content)
    os.utime(claim, (time.time() - age,) * 2)
    return claim


def test_the_holder_is_named_and_releases_its_claim(tmp_path):
    for number in (1, 2):
        with hold(tmp_path / "run"):
            (claim,) = _claims(tmp_path)
            assert claim.name == f".run.lock.{number}"
            assert f'"pid": {os.getpid()}' in claim.read_text()
            holder = f"written by process {os.getpid()} .*last heartbeat 0 s ago"
            with pytest.raises(FileExistsError, match=holder), hold(tmp_path / "run", 0.1):
                pass
        assert claim.read_text() == "free"


@pytest.mark.parametrize("content", ['{"host": "other", "pid": 7}', ""])
def test_a_claim_without_heartbeat_is_taken_over_and_a_recent_one_is_not(tmp_path, content):
    """An empty claim is one that its process has just created."""
    _leave(tmp_path, 4, content)
    holder = "process 7 on other" if content else "another process"
    with pytest.raises(FileExistsError, match=holder), hold(tmp_path / "run", 0.1):
        pass
    _leave(tmp_path, 4, content, age=60)
    with hold(tmp_path / "run", 0.1):
        assert [c.name for c in _claims(tmp_path)] == [".run.lock.5"]


def test_the_age_of_a_claim_uses_only_times_of_the_file_system(tmp_path, monkeypatch):
    _leave(tmp_path, 1, "{}")
    monkeypatch.setattr(time, "time", lambda: 0.0)  # this host's clock is wrong by decades
    with pytest.raises(FileExistsError, match="is being written by another process"), hold(tmp_path / "run", 0.1):
        pass
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with pytest.raises(FileExistsError, match="is being written by another process"), hold(tmp_path / "run", 0.1):
        pass


def test_a_process_with_an_old_list_of_claims_does_not_win(tmp_path, monkeypatch):
    """It found claim 1 without a sign of life and was suspended; others took 2 and 3, and removed what was older."""
    path = lock_file(tmp_path / "run")
    _leave(tmp_path, 3, '{"host": "other", "pid": 7}')
    assert lock._take(path, 2, "mine") is None
    assert lock._take(path, 3, "mine") is None
    assert [c.name for c in _claims(tmp_path)] == [".run.lock.3"]


def _race(folder, barrier, counter):
    lock.fcntl = None
    barrier.wait()
    for _ in range(4):
        with hold(folder / "run", 60):
            owner = folder / "owner"
            handle = os.open(owner, os.O_CREAT | os.O_EXCL)  # fails where another one holds the lock as well
            time.sleep(0.002)
            os.close(handle)
            owner.unlink()
            with counter.get_lock():
                counter.value += 1


@pytest.mark.parametrize("stale", [False, True])
def test_processes_that_start_at_once_hold_the_lock_one_at_a_time(tmp_path, stale):
    if stale:
        _leave(tmp_path, 1, '{"host": "other", "pid": 7}', age=60)
    fork = multiprocessing.get_context("fork")
    barrier, counter = fork.Barrier(6), fork.Value("i", 0)
    racers = [fork.Process(target=_race, args=(tmp_path, barrier, counter)) for _ in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 6
    assert counter.value == 24
    assert len(_claims(tmp_path)) == 1


@pytest.mark.parametrize("round_", range(20))
def test_one_of_several_threads_that_take_over_at_once_wins(tmp_path, round_):
    path = lock_file(tmp_path / "run")
    _leave(tmp_path, 1, "{}", age=60)
    barrier, won = threading.Barrier(8), []

    def start():
        barrier.wait()
        with contextlib.suppress(FileExistsError):
            won.append(lock._win(path, tmp_path / "run", 0, "mine"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [number for number, _ in won] == [2]
    os.close(won[0][1])


def test_a_holder_whose_claim_was_taken_over_is_stopped(tmp_path, monkeypatch, capsys):
    signals = []
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    with hold(tmp_path / "run"):
        (claim,) = _claims(tmp_path)
        written = claim.stat().st_mtime_ns
        time.sleep(0.2)
        assert claim.stat().st_mtime_ns > written, "it writes heartbeats"
        other = _leave(tmp_path, 2, "{}")
        time.sleep(0.2)
    assert signals == [(os.getpid(), 15)]
    assert "another process took over this run" in capsys.readouterr().err
    assert other.read_text() == "{}", "what another process holds is not given back"


def test_a_stale_handle_is_opened_again_only_for_the_own_claim(tmp_path):
    own, other = _leave(tmp_path, 1, "me"), _leave(tmp_path, 2, "you")
    for claim, same in ((other, False), (own, True)):
        handle = os.open(os.devnull, os.O_RDWR)
        lock._reopen(claim, handle, "me")
        assert (os.fstat(handle).st_ino == claim.stat().st_ino) == same
        os.close(handle)


def test_a_heartbeat_goes_on_after_a_stale_handle(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.02)
    real, failed = lock._write, []

    def fails_once(handle, text):
        if text != "now" and threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(handle)
            raise OSError(errno.ESTALE, "Stale file handle")
        real(handle, text)

    monkeypatch.setattr(lock, "_write", fails_once)
    with hold(tmp_path / "run"):
        (claim,) = _claims(tmp_path)
        before = claim.stat().st_mtime_ns
        end = time.monotonic() + 10
        while claim.stat().st_mtime_ns == before and time.monotonic() < end:
            time.sleep(0.01)
        assert failed
        assert claim.stat().st_mtime_ns > before


def test_a_lock_is_taken_when_the_file_system_answers_again(tmp_path, monkeypatch):
    class Stale:
        """fcntl that fails twice."""

        LOCK_EX, LOCK_NB, calls = 1, 2, 0

        @classmethod
        def lockf(cls, *_):
            cls.calls += 1
            if cls.calls <= 2:
                raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(lock, "fcntl", Stale)
    with hold(tmp_path / "run"):
        assert str(os.getpid()) in lock_file(tmp_path / "run").read_text()
    Stale.calls = -9
    text = r"Stale file handle \(3 attempts\); check that its file system.*\.run\.lock"
    with pytest.raises(OSError, match=text), hold(tmp_path / "run"):
        pass
