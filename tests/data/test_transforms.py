import numpy as np
import pytest
import torch

from sr_train.data.transforms import FLIP_ROTATIONS, flip_rotate, undo_flip_rotate

SHAPES = [(4, 4), (3, 5), (3, 4, 6), (5, 3, 4, 6), (2, 5, 3, 6, 4)]


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


def test_the_eight_flips_and_rotations_are_those_of_the_square():
    x = numbered(3, 5)
    expected = [x, np.fliplr(x), np.flipud(x), np.rot90(x, 2)]
    expected += [x.T, np.rot90(x, 1), np.rot90(x, 3), np.rot90(x, 2).T]
    assert FLIP_ROTATIONS == 8
    for k in range(FLIP_ROTATIONS):
        assert flip_rotate(x, k).tolist() == expected[k].tolist(), k


def test_the_flips_and_rotations_are_distinct_and_closed_under_composition():
    x = numbered(4, 4)
    names = {flip_rotate(x, k).tobytes(): k for k in range(FLIP_ROTATIONS)}
    assert len(names) == FLIP_ROTATIONS
    table = [
        [names[flip_rotate(flip_rotate(x, a), b).tobytes()] for b in range(FLIP_ROTATIONS)]
        for a in range(FLIP_ROTATIONS)
    ]
    assert all(sorted(row) == list(range(FLIP_ROTATIONS)) for row in table)
    assert all(sorted(column) == list(range(FLIP_ROTATIONS)) for column in zip(*table, strict=True))
    assert table[0] == list(range(FLIP_ROTATIONS))
    assert table[1][4] != table[4][1]  # not commutative: it is the square's group and not another of order eight
    assert sum(table[k][k] == 0 for k in range(FLIP_ROTATIONS)) == 6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", range(FLIP_ROTATIONS))
def test_undo_flip_rotate_undoes_flip_rotate_in_numpy_and_torch(shape, k):
    x = numbered(*shape)
    flipped = flip_rotate(x, k)
    assert flipped.shape == (*shape[:-2], *(shape[:-3:-1] if k & 4 else shape[-2:]))
    assert np.array_equal(undo_flip_rotate(flipped, k), x)
    tensor = torch.from_numpy(x)
    assert torch.equal(flip_rotate(tensor, k), torch.from_numpy(flipped.copy()))
    assert torch.equal(undo_flip_rotate(flip_rotate(tensor, k), k), tensor)


@pytest.mark.parametrize("k", range(FLIP_ROTATIONS))
def test_every_frame_of_a_clip_is_flipped_and_rotated_alike(k):
    clip = numbered(5, 3, 4, 6)
    flipped = flip_rotate(clip, k)
    for t in range(5):
        for c in range(3):
            assert np.array_equal(flipped[t, c], flip_rotate(clip[t, c], k))


def test_arrays_come_back_as_views():
    x = numbered(3, 4)
    assert all(np.shares_memory(flip_rotate(x, k), x) for k in range(FLIP_ROTATIONS))
    assert all(np.shares_memory(undo_flip_rotate(x, k), x) for k in range(FLIP_ROTATIONS))


@pytest.mark.parametrize("k", [-1, 8])
@pytest.mark.parametrize("function", [flip_rotate, undo_flip_rotate])
def test_a_ninth_transform_is_refused(function, k):
    with pytest.raises(ValueError, match=rf"k={k} is not in 0\.\.7"):
        function(numbered(2, 2), k)
