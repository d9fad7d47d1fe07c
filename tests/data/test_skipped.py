"""Files that cannot be read while a run is trained: other images are drawn, and errors of loader processes are one message."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import photograph, write_all

from sr_train.data.draws import Draws, PositionSampler
from sr_train.data.images import BadFilesError, write_image
from sr_train.data.loading import LoaderError, explaining_lost_processes
from sr_train.data.module import SRData
from sr_train.data.pairs import Pairs

pytestmark = pytest.mark.slow  # loader processes that failed are waited for

BAD = ("02", "05")


@pytest.fixture
def folder(tmp_path):
    return write_all(tmp_path / "HR", {f"{k:02d}": photograph()[9 * k :, 11 * k :][:60, :70] for k in range(8)})


def halve(folder, *keys):
    for key in keys:
        path = Path(folder, f"{key}.png")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def opened(folder, workers=0, **options):
    """Return the data; files may be damaged afterwards."""
    return SRData(train=[{"hr": folder}], scale=2, lr_patch=12, batch=8, workers=workers, seed=5, **options)


def batches(data, count, first_step=0, rank=0, world=1):
    return list(
        itertools.islice(data.loader(PositionSampler(8 // world, first_step=first_step, rank=rank, world=world)), count)
    )


def same(a, b):
    return (
        torch.equal(a["lr"], b["lr"])
        and torch.equal(a["hr"], b["hr"])
        and a["key"] == b["key"]
        and [tuple(s) for s in a.get("skipped", ())] == [tuple(s) for s in b.get("skipped", ())]
    )


def test_other_images_are_drawn_for_damaged_files_and_all_else_stays(folder):
    before = batches(opened(folder), 10)
    data = opened(folder)
    halve(folder, *BAD)
    after = batches(data, 10)
    skipped = [entry for batch in after for entry in batch.get("skipped", ())]
    assert {name for name, _ in skipped} == set(BAD)
    assert all(reason.startswith(f"{folder}/{name}.png: ") for name, reason in skipped)
    for old, new in zip(before, after, strict=True):
        for slot, (was, now) in enumerate(zip(old["key"], new["key"], strict=True)):
            assert now not in BAD
            if was not in BAD:
                assert now == was
                assert torch.equal(old["hr"][slot], new["hr"][slot])
    drawn = [
        now
        for old, new in zip(before, after, strict=True)
        for was, now in zip(old["key"], new["key"], strict=True)
        if was in BAD
    ]
    assert len(drawn) == 20
    assert len(set(drawn)) > 3
    assert len(skipped) >= 20  # a replacement may be damaged as well


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_devices_and_restarts_draw_the_same_replacements(folder, workers):
    alone, several = opened(folder), opened(folder, workers)
    halve(folder, *BAD)
    expected = batches(alone, 8)
    assert any("skipped" in batch for batch in expected[3:])
    assert all(itertools.starmap(same, zip(expected, batches(several, 8), strict=True)))
    assert all(itertools.starmap(same, zip(expected[3:], batches(several, 5, first_step=3), strict=True)))
    ranks = [batches(several, 8, rank=r, world=2) for r in range(2)]
    for whole, *parts in zip(expected, *ranks, strict=True):
        assert whole["key"] == [key for part in parts for key in part["key"]]
        assert torch.equal(whole["hr"], torch.cat([part["hr"] for part in parts]))
        assert [*whole.get("skipped", ())] == [s for part in parts for s in part.get("skipped", ())]


def test_replacements_are_drawn_evenly_and_keep_the_share_of_a_source():
    plain = Draws([3, 7], weights=None, seed=1, stage="main")
    found = Counter((d.source, d.image) for d in (plain(p, a) for p in range(2000) for a in (1, 2)))
    assert len(found) == 10
    assert all(abs(count - 400) < 100 for count in found.values())
    weighted = Draws([3, 7], weights=[3, 1], seed=1, stage="main")
    for position in range(200):
        again = [weighted(position, attempt) for attempt in range(4)]
        assert len({d.source for d in again}) == 1
        assert len({d.words for d in again}) == 4
        assert again == [weighted(position, attempt) for attempt in range(4)]
        assert weighted(position) == again[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_lists_the_files_if_too_many_in_a_row_cannot_be_read(folder, workers):
    data = opened(folder, workers, patience=3)
    for path in Path(folder).iterdir():
        path.unlink()
    with pytest.raises((BadFilesError, LoaderError)) as error:
        batches(data, 1)
    text = str(error.value)
    assert text.startswith("3 training images drawn in a row cannot be read (data.patience=3)")
    assert text.count(f"  {folder}/") >= 1
    assert "No such file or directory" in text
    assert "Traceback" not in text


def test_a_patience_below_one_is_refused(folder):
    with pytest.raises(ValueError, match=r"data\.patience=0 must be at least 1"):
        opened(folder, patience=0)


def test_a_file_of_another_size_than_at_the_start_is_skipped(folder):
    data = opened(folder)
    write_image(Path(folder, "03.png"), np.zeros((40, 40, 3), np.uint8))
    skipped = [s for batch in batches(data, 4) for s in batch.get("skipped", ())]
    assert skipped
    assert set(skipped) == {("03", f"{folder}/03.png: has 40x40 pixels now, but had 70x60 when it was opened")}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (TypeError("no\nnumber"), "{folder}: 03: TypeError: no number"),
        (ValueError("a value"), "{folder}: 03: ValueError: a value"),
        (OSError(5, "Input/output error", "a.png"), "a.png"),
    ],
)
def test_other_errors_name_the_image_in_one_message(folder, workers, raised, message, monkeypatch):
    cut = Pairs.cut

    def broken(self, index, words, size):
        if self.keys[index] == "03":
            raise raised
        return cut(self, index, words, size)

    monkeypatch.setattr(Pairs, "cut", broken)
    with pytest.raises((LoaderError, OSError)) as error:
        batches(opened(folder, workers), 10)
    text = str(error.value)
    assert message.format(folder=folder) in text
    assert "\n" not in text
    assert "Caught" not in text
    assert workers == 0 or "raise raised" in str(error.value.__cause__)  # SR_DEBUG=1 prints the place


def test_a_loader_process_that_is_killed_is_reported_with_remedies():
    torchs = "DataLoader worker (pid 1123) is killed by signal: Killed. "
    match = r"data\.workers: a process that loads images has ended .*fewer data\.workers"
    with pytest.raises(LoaderError, match=match), explaining_lost_processes():
        raise RuntimeError(torchs)
    with pytest.raises(RuntimeError, match="another"), explaining_lost_processes():
        raise RuntimeError("another")
