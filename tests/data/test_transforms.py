import numpy as np
import pytest
import torch

from sr_train.data.transforms import TURNS, turn, unturn

SHAPES = [(4, 4), (3, 5), (3, 4, 6), (5, 3, 4, 6), (2, 5, 3, 6, 4)]


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


def test_the_eight_turns_are_those_of_the_square():
    x = numbered(3, 5)
    expected = [x, np.fliplr(x), np.flipud(x), np.rot90(x, 2)]
    expected += [x.T, np.rot90(x, 1), np.rot90(x, 3), np.rot90(x, 2).T]
    assert TURNS == 8
    for k in range(TURNS):
        assert turn(x, k).tolist() == expected[k].tolist(), k


def test_the_turns_are_distinct_and_closed_under_composition():
    x = numbered(4, 4)
    names = {turn(x, k).tobytes(): k for k in range(TURNS)}
    assert len(names) == TURNS
    table = [[names[turn(turn(x, a), b).tobytes()] for b in range(TURNS)] for a in range(TURNS)]
    assert all(sorted(row) == list(range(TURNS)) for row in table)
    assert all(sorted(column) == list(range(TURNS)) for column in zip(*table, strict=True))
    assert table[0] == list(range(TURNS))
    assert table[1][4] != table[4][1]  # not commutative: it is the square's group and not another of order eight
    assert sum(table[k][k] == 0 for k in range(TURNS)) == 6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("k", range(TURNS))
def test_unturn_undoes_turn_in_numpy_and_torch(shape, k):
    x = numbered(*shape)
    turned = turn(x, k)
    assert turned.shape == (*shape[:-2], *(shape[:-3:-1] if k & 4 else shape[-2:]))
    assert np.array_equal(unturn(turned, k), x)
    tensor = torch.from_numpy(x)
    assert torch.equal(turn(tensor, k), torch.from_numpy(turned.copy()))
    assert torch.equal(unturn(turn(tensor, k), k), tensor)


@pytest.mark.parametrize("k", range(TURNS))
def test_every_frame_of_a_clip_is_turned_alike(k):
    clip = numbered(5, 3, 4, 6)
    turned = turn(clip, k)
    for t in range(5):
        for c in range(3):
            assert np.array_equal(turned[t, c], turn(clip[t, c], k))


def test_arrays_come_back_as_views():
    x = numbered(3, 4)
    assert all(np.shares_memory(turn(x, k), x) for k in range(TURNS))
    assert all(np.shares_memory(unturn(x, k), x) for k in range(TURNS))


@pytest.mark.parametrize("k", [-1, 8])
@pytest.mark.parametrize("function", [turn, unturn])
def test_a_ninth_transform_is_refused(function, k):
    with pytest.raises(ValueError, match=rf"k={k} is not in 0\.\.7"):
        function(numbered(2, 2), k)
