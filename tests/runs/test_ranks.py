"""Messages between the processes of a run; here, each process is an object with its own connection."""

import threading
import time

import pytest

from sr_train.runs import ranks as module
from sr_train.runs.launch import Launch
from sr_train.runs.ranks import FailedElsewhereError, LostRankError, Ranks, describe_beats


@pytest.fixture
def two(monkeypatch):
    """Rank 0 and rank 1, with beats every 50 ms."""
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "_LOST", 0.5)
    ended = []
    monkeypatch.setattr(module.os, "_exit", ended.append)
    first = Ranks(Launch(), 2, timeout=20)
    second = Ranks(Launch("sr-train", 1, 2, 1, port=first.port), 2, timeout=20)
    for rank in (first, second):
        rank.start()
    yield first, second
    for rank in (first, second):
        rank._ended.set()


def wait_for(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rank_0_decides_for_all(two):
    first, second = two
    found = []
    thread = threading.Thread(target=lambda: found.append(second.decide("checkpoint", lambda: 1 / 0)))
    thread.start()
    assert first.decide("checkpoint", lambda: {"step": 700}) == {"step": 700}
    thread.join(5)
    assert found == [{"step": 700}]
    first.decide("one", lambda: 1)
    with pytest.raises(
        RuntimeError, match="rank 1 waits for the decision 'other', but rank 0 has sent the decision 'one'"
    ):
        second.decide("other", lambda: 2)


def test_a_rank_that_waits_for_rank_0_ends_when_rank_0_fails(two):
    first, second = two
    assert first.fail("the folder is locked", 1)
    with pytest.raises(FailedElsewhereError) as stop:
        second.decide("begin", lambda: True)
    assert stop.value.code == 1
    assert not second.fail("a later error", 2), "only the first failure is printed"


def test_all_ranks_learn_of_a_failure_and_of_a_signal(two):
    first, second = two
    second.ask_to_stop(15)
    wait_for(lambda: first.signal == 15)
    assert second.fail("disk full", 1)
    wait_for(lambda: first.failure is not None)
    assert first.failure is not None
    assert (first.failure["rank"], first.failure["message"]) == (1, "disk full")


def test_ranks_meet_or_name_those_that_are_missing(two):
    first, second = two
    thread = threading.Thread(target=second.meet, args=("ready",))
    thread.start()
    first.meet("ready")
    thread.join(5)
    assert not thread.is_alive()
    first.timeout = 0.1
    with pytest.raises(LostRankError, match="rank 1 did not begin within 0 s"):
        first.meet("never")


def test_a_rank_that_ends_without_a_message_is_named(two):
    first, second = two
    wait_for(lambda: first._store is not None and first._store.check(["beat/1"]))
    second._ended.set()  # as after kill -9
    assert first.explain_loss() == "rank 1 ended without a message: killed, out of memory, or the node was lost"


def test_a_rank_that_has_told_its_failure_needs_no_explanation(two):
    first, second = two
    second.fail("ImageError", 1)
    assert first.explain_loss() is None


def test_a_process_that_waits_for_a_failed_one_is_ended(two, monkeypatch):
    first, second = two
    ended = []
    monkeypatch.setattr(module, "_GRACE", 0.1)
    monkeypatch.setattr(module.os, "_exit", ended.append)
    second.fail("disk full", 1)
    wait_for(lambda: len(ended) > 0)
    assert set(ended) == {1}
    assert first.failure is not None


def test_an_address_where_nobody_listens_is_named():
    with pytest.raises(
        LostRankError, match=r"rank 1 cannot reach rank 0 at 127\.0\.0\.1:9 .*MASTER_ADDR and MASTER_PORT"
    ):
        Ranks(Launch("srun", 1, 2, 1, port=9), 2, timeout=0.5)


def test_one_process_sends_nothing():
    alone = Ranks(Launch())
    alone.start()
    assert alone.decide("x", lambda: 5) == 5
    alone.meet("ready")
    assert alone.fail("error", 1)
    alone.check()
    alone.finish()


def beat(step, doing="computes a step", age=0.1, host="n1"):
    return {"step": step, "doing": doing, "for": 61.0, "age": age, "host": host}


def test_a_line_after_a_minute_says_who_waits_for_whom(two, monkeypatch, capsys):
    first, second = two
    second.doing("waits for its data", 7)
    wait_for(lambda: b"data" in (first._store.get("beat/1") if first._store.check(["beat/1"]) else b""))
    monkeypatch.setattr(module, "SILENCE", 0.3)
    first.doing("computes a step", 8)
    text = ""
    deadline = time.monotonic() + 8
    while "the other one waits" not in text and time.monotonic() < deadline:
        time.sleep(0.05)
        text += capsys.readouterr().err
    assert "rank 1: waits for its data (after step 7" in text
    assert "the other one waits" in text


@pytest.mark.parametrize(
    ("beats", "text"),
    [
        ({0: beat(5, "waits for its data")}, "waits for its data (after step 5)"),
        ({0: beat(8), 1: beat(7, "waits for its data"), 2: beat(8)},
         "rank 1: waits for its data (after step 7, on n1); the other 2 wait"),
        ({0: beat(8), 1: beat(8, age=90.0, host="n2")},
         "rank 1: has not answered for 90 s on n2 (stopped, or its node is gone); "
         "rank 0: computes a step (after step 8, on n1)"),
        ({0: beat(8), 1: beat(8)}, "ranks 0, 1: computes a step (after step 8, on n1)"),
    ],
)  # fmt: skip
def test_descriptions_name_first_what_the_others_wait_for(beats, text):
    assert describe_beats(beats) == text
