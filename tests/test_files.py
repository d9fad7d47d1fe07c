"""Writes and reads on a shared file system that does not answer for a moment are repeated; nothing is lost."""

import errno
import os

import pytest

from sr_train import files
from sr_train.files import Lines, Reader, on_network, retried, write_bytes


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def failing(monkeypatch):
    """Let a function of os fail: failing("replace", errno.ESTALE, times=2); returns the list of its calls."""

    def fail(name, number, times):
        real, calls = getattr(os, name), []

        def call(*arguments, **options):
            calls.append(arguments)
            if len(calls) <= times:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)
        return calls

    return fail


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_file_is_written_again_after_a_stale_handle(failing, tmp_path, name):
    calls = failing(name, errno.ESTALE, times=3)
    write_bytes(tmp_path / "a", b"new")
    assert len(calls) >= 4
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_last_error_names_the_file_and_what_to_do(failing, tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    failing("fsync", errno.EIO, times=99)
    with pytest.raises(OSError, match=r"Input/output error \(5 attempts\); check that its file system is mounted.*/a'"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_that_does_not_pass_is_raised_at_once(failing, tmp_path):
    calls = failing("write", errno.ENOSPC, times=99)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(tmp_path / "a", b"new")
    assert caught.value.filename == str(tmp_path / "a")
    assert len(calls) == 1


def test_lines_that_cannot_be_written_are_kept_and_written_later(failing, tmp_path):
    lines = Lines(tmp_path / "a.csv")
    lines.append("1\n")
    failing("open", errno.ESTALE, times=6)
    with pytest.warns(UserWarning, match=r"a\.csv: Stale .*\(3 attempts\); the lines are kept") as warned:
        lines.append("2\n")
    lines.append("3\n")
    assert len(warned) == 1
    assert lines.kept == "2\n3\n"
    lines.append("4\n")
    assert not lines.kept
    assert (tmp_path / "a.csv").read_text() == "1\n2\n3\n4\n"


def test_a_part_of_a_line_is_not_written_twice(monkeypatch, tmp_path):
    real, calls = os.write, []

    def in_part(handle, data):
        calls.append(bytes(data))
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return real(handle, bytes(data)[:3])

    monkeypatch.setattr(os, "write", in_part)
    lines = Lines(tmp_path / "a.csv")
    lines.append("one,two\n")
    assert (tmp_path / "a.csv").read_text() == "one,two\n"


def test_lines_of_a_full_disk_are_an_error(failing, tmp_path):
    failing("write", errno.ENOSPC, times=1)
    with pytest.raises(OSError, match="No space left") as caught:
        Lines(tmp_path / "a.csv").append("1\n")
    assert caught.value.filename == str(tmp_path / "a.csv")


def test_a_read_is_repeated_with_a_new_handle(failing, tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    reader = Reader(tmp_path / "a")
    assert reader.read(10, 5) == bytes(range(10, 15))
    failing("pread", errno.ESTALE, times=2)
    opened = failing("open", 0, times=0)
    assert reader.read(90, 10) == bytes(range(90, 100))
    assert len(opened) == 2
    with pytest.raises(OSError, match="ends at byte 100, but 5 more were expected"):
        reader.read(95, 10)
    reader.close()


def test_a_result_is_returned_and_pauses_are_made_between_attempts(monkeypatch):
    slept, left = [], [1, 2]
    monkeypatch.setattr(files.time, "sleep", slept.append)

    def attempt():
        if left:
            raise OSError(errno.ETIMEDOUT, "timed out", left.pop())
        return 7

    assert retried(attempt, "x", (0.5, 1.0, 2.0)) == 7
    assert slept == [0.5, 1.0]


def test_network_file_systems_are_recognized(monkeypatch, tmp_path):
    table = "\n".join(
        [
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
            "30 22 0:40 / /home rw shared:1 - nfs4 server:/home rw",
            "31 30 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw",
            "32 22 0:42 / /mnt/s rw - fuse.sshfs me@host: rw",
        ]
    )
    real = files.Path.read_text
    monkeypatch.setattr(files.Path, "read_text", lambda self, *a: table if "mountinfo" in str(self) else real(self, *a))
    found = {p: on_network(p) for p in ("/data/x", "/home/me/x.lmdb", "/home/local disk/x", "/homes", "/mnt/s/x")}
    assert list(found.values()) == [False, True, False, False, True]
