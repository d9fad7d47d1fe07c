"""Validation images that do not fit into memory."""

import sys
from pathlib import Path

import pytest
import torch

from sr_train.data.images import write_image
from sr_train.inference.images import TilesIfNeeded, super_resolve
from sr_train.inference.tiling import MemoryFullError, is_too_large, plan_tiles

NETS = Path(__file__).parents[1] / "nets"
SMALL = (
    "experiment=quickstart_edsr", "stage=x2", "model._target_=small_memory.SmallMemory", "model.blocks=1", "model.channels=8",
    "data.workers=0", "data.batch=2", "data.lr_patch=8", "trainer.accelerator=cpu", "trainer.precision=32",
    "validate.pictures=0", "trainer.max_steps=2", "logger=csv",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_memory(monkeypatch):
    monkeypatch.syspath_prepend(str(NETS))
    import small_memory

    yield small_memory
    sys.modules.pop("small_memory")


@pytest.mark.parametrize("refusal", ["cuda", "cpu", "python"])
def test_an_image_that_does_not_fit_is_scored_in_tiles_as_if_it_were_whole(small_memory, refusal):
    torch.manual_seed(0)
    network = small_memory.SmallMemory(scale=2)
    lr = torch.randint(0, 256, (3, 150, 226), dtype=torch.uint8)
    whole = super_resolve(network, lr)
    network.pixels, network.refusal = 10_000, refusal
    told = []
    upscale = TilesIfNeeded(told.append)
    torch.testing.assert_close(upscale(network, lr, "validation: toy: a"), whole)
    assert len(told) == 1
    assert "validation: toy: a: the LR image of 226x150 pixels does not fit into memory" in told[0]
    assert "(same result as without tiles)" in told[0]
    upscale(network, lr, "validation: toy: b")  # as large: cut at once
    assert upscale(network, lr[:, :64, :64], "validation: toy: c").shape == (3, 128, 128)
    assert len(told) == 1


def test_a_given_tile_is_used_for_every_image_and_equals_sr_upscales(small_memory):
    torch.manual_seed(0)
    network, told = small_memory.SmallMemory(scale=2), []
    lr = torch.randint(0, 256, (3, 150, 226), dtype=torch.uint8)
    upscale, tiled = TilesIfNeeded(told.append, 64), super_resolve(network, lr, tiling=plan_tiles(network, tile=64))
    assert torch.equal(upscale(network, lr, "a"), tiled)
    network.pixels = 10_000
    assert torch.equal(upscale(network, lr, "a"), tiled)
    assert not told
    with pytest.raises(
        MemoryFullError, match=r"does not fit into memory with validate\.tile=null; give validate\.tile=auto"
    ):
        TilesIfNeeded(print, None)(network, lr, "a")
    network.pixels = 1_000
    with pytest.raises(MemoryFullError, match=r"with validate\.tile=64"):
        upscale(network, lr, "a")


def test_automatic_tiles_are_those_of_sr_upscale_for_the_same_memory(small_memory, monkeypatch):
    torch.manual_seed(0)
    network, told = small_memory.SmallMemory(scale=2), []
    lr = torch.randint(0, 256, (3, 150, 226), dtype=torch.uint8)
    monkeypatch.setattr("sr_train.inference.tiling.free_memory", lambda _: 4 << 20)  # as a small machine's
    planned = plan_tiles(network, tile="auto")
    assert planned.exact
    assert planned.tile is not None
    assert planned.tile < 113
    tiled = super_resolve(network, lr, tiling=planned)
    assert torch.equal(TilesIfNeeded(told.append)(network, lr, "a"), tiled)
    assert f"in tiles of {planned.tile} pixels (same result as without tiles)" in told[0]
    torch.testing.assert_close(tiled, super_resolve(network, lr))


def test_a_tile_that_is_wrong_is_refused_before_the_first_step(invoke):
    done = invoke("sr-train", *SMALL, "validate.tile=0")
    assert done.returncode == 2
    assert "validate.tile=0: expected auto, null or an integer of at least 1, in LR pixels" in done.stderr
    wide = invoke("sr-train", *SMALL, "model.blocks=120", "validate.tile=8", "trainer.max_steps=2")
    assert wide.returncode == 1
    assert "validate.tile=8 is too small for an overlap of 96; give tile=96 or more" in wide.stderr


def test_an_image_without_a_fitting_tile_is_reported_with_its_size(small_memory):
    network = small_memory.SmallMemory(scale=2, hundreds=10)
    with pytest.raises(
        MemoryFullError, match=r"LR image of 226x150 pixels does not fit into memory, even in tiles of \d+ pixels"
    ):
        TilesIfNeeded(print)(network, torch.zeros(3, 150, 226, dtype=torch.uint8), "a")


def test_errors_of_another_kind_are_not_taken_for_a_full_memory(small_memory, monkeypatch):
    monkeypatch.setitem(small_memory.REFUSALS, "cpu", RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        TilesIfNeeded(print)(
            small_memory.SmallMemory(scale=2, hundreds=0), torch.zeros(3, 8, 8, dtype=torch.uint8), "a"
        )


def test_free_memory_is_checked_where_the_system_would_kill_the_process(small_memory, monkeypatch):
    network = small_memory.SmallMemory(scale=2)
    assert not is_too_large(network, 512, 512)
    monkeypatch.setattr("sr_train.inference.tiling.free_memory", lambda _: 1 << 20)
    assert is_too_large(network, 512, 512)
    assert not is_too_large(network, 32, 32)


def test_a_run_and_its_check_name_the_image_try_the_largest_and_go_on_in_tiles(invoke, tmp_path):
    from sr_train.data.images import read_image
    from sr_train.data.toy import toy_files

    (tmp_path / "val").mkdir()
    photograph = read_image(toy_files("coffee")["coffee"])
    write_image(tmp_path / "val" / "0small.png", photograph[:48, :48])
    write_image(tmp_path / "val" / "1large.png", photograph[:300, :400])
    mine = (*SMALL, "sets=[]", "sets.own={hr: val}")
    checked = invoke("sr-train", *mine, "model.hundreds=200", "check=true")
    assert checked.returncode == 0, checked.stderr
    assert "own/1large 400x300" in checked.stdout
    assert "validation: own: 1large: the LR image of 200x150 pixels does not fit into memory" in checked.stderr
    done = invoke("sr-train", *mine, "model.hundreds=200")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("does not fit into memory") == 1
    failed = invoke("sr-train", *mine, "model.hundreds=8", "check=true")
    assert failed.returncode == 1, failed.stdout
    assert (
        "error: validation: own: 1large: the LR image of 200x150 pixels does not fit into memory, even" in failed.stderr
    )
    assert "data.batch" not in failed.stderr


def test_the_error_of_a_step_that_does_not_fit_advises_a_smaller_batch(invoke):
    failed = invoke("sr-train", *SMALL, "sets=[]", "model.hundreds=0", "check=true")
    assert failed.returncode == 1, failed.stdout
    assert "the device's memory is full; try a smaller data.batch" in failed.stderr
