"""Identifiers: the whole space, and its end."""

import pytest

from shmfs.ipc.ids import IPCMNI, Ids


def test_every_index_at_once():
    ids = Ids()
    given = []
    for _ in range(IPCMNI):
        given.append(ids.new())
        ids.add(given[-1], given[-1])
    assert len(set(given)) == len({one % IPCMNI for one in given}) == IPCMNI
    assert ids.highest() == IPCMNI - 1
    with pytest.raises(OSError, match="No space"):
        ids.new()
    ids.remove(given[5])
    again = ids.new()
    assert again % IPCMNI == given[5] % IPCMNI
    assert again != given[5]
    ids.add(again, again)
    with pytest.raises(OSError, match="Invalid argument"):
        ids.get(given[5])
    assert ids.get(again) == again


def test_the_sequence_comes_round():
    ids = Ids()
    ids._sequence = 65533
    given = [ids.new() for _ in range(3 * 64)]
    assert [one // IPCMNI for one in given[::64]] == [65533, 65534, 0]
    assert max(given) < 1 << 31
