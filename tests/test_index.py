"""An index on disk: what was written comes back, damage is named, an append is whole or nothing."""

import json

import numpy as np
import pytest

from scav_jax.retrieval import index
from scav_jax.retrieval.clips import Clips
from scav_jax.retrieval.search import search


def clips(rng, count, length, ragged=False):
    mask = np.arange(length) < rng.integers(1, length + 1, (count, 1)) if ragged else None
    return Clips(rng.normal(size=(count, length, 4)).astype(np.float32), mask)


def names(first, count):
    return [f"clip-{row}" for row in range(first, first + count)]


@pytest.fixture
def built(rng, tmp_path):
    """(folder, x, y) of twelve clips, seven of which were appended."""
    x, y = clips(rng, 12, 3), clips(rng, 12, 5)
    folder = tmp_path / "index"
    index.build(folder, x[:5], y[:5], names(0, 5), ["a", "b"] * 2 + ["a"], {"run": "r"})
    index.append(folder, x[5:], y[5:], names(5, 7))
    return folder, x, y


def test_what_was_written_comes_back_mapped(built):
    folder, x, y = built
    found = index.load(folder)
    assert (len(found), found.ids, found.about) == (12, names(0, 12), {"run": "r"})
    assert found.labels == ["a", "b", "a", "b", "a"] + [""] * 7
    for loaded, written in ((found.x, x), (found.y, y)):
        assert isinstance(loaded.sequences, np.memmap)
        assert loaded.mask is None
        np.testing.assert_array_equal(loaded.sequences, written.sequences)


def test_ragged_and_shorter_clips_keep_their_lengths(rng, tmp_path):
    x, y, shorter = clips(rng, 4, 5, ragged=True), clips(rng, 4, 6), clips(rng, 2, 4)
    index.build(tmp_path / "index", x, y, names(0, 4))
    index.append(tmp_path / "index", shorter, clips(rng, 2, 6), names(4, 2))
    found = index.load(tmp_path / "index")
    assert found.y.mask is None
    np.testing.assert_array_equal(found.x.mask, np.concatenate([x.mask, np.arange(5) < np.full((2, 1), 4)]))
    np.testing.assert_array_equal(found.x.sequences[:4][x.mask], x.sequences[x.mask])


@pytest.mark.parametrize("queries_are", ["x", "y"])
def test_a_search_of_the_index_is_a_search_of_its_clips(built, queries_are):
    folder, x, y = built
    found = index.load(folder)
    queries, gallery = (x, y) if queries_are == "x" else (y, x)
    expected = search("dtw", queries[:3], gallery, 4, queries_are=queries_are, gamma=0.1)
    answer = found.search(queries[:3], 4, distance="dtw", queries_are=queries_are, gamma=0.1)
    np.testing.assert_array_equal(answer.indices, expected.indices)
    np.testing.assert_array_equal(answer.distances, expected.distances)


def test_filters_restrict_the_gallery(built):
    folder, x, _ = built
    found = index.load(folder)
    answer = found.search(x[:2], 2, ids=names(1, 4), labels=["b"])
    assert [sorted(row) for row in answer.indices.tolist()] == [[1, 3]] * 2
    with pytest.raises(ValueError, match="expected ids of the index, got 'nobody'"):
        found.rows(ids=["nobody"])
    with pytest.raises(ValueError, match="expected labels of the index, got 'c'"):
        found.rows(labels=["c"])
    with pytest.raises(ValueError, match="no clip has one of the ids"):
        found.rows(ids=["clip-0"], labels=["b"])


@pytest.mark.parametrize("name", ["x.frames", "y.frames", "x.lengths", "clips.jsonl"])
def test_a_flipped_byte_is_named(built, name):
    folder, _, _ = built
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: clips 5 to 11 are not what was written"):
        index.load(folder)


def test_a_short_or_missing_file_is_named(built):
    folder, _, _ = built
    size = (folder / "x.frames").stat().st_size
    with open(folder / "x.frames", "r+b") as file:
        file.truncate(size - 4)
    with pytest.raises(ValueError, match=rf"x.frames: expected {size} bytes, got {size - 4}"):
        index.load(folder, verify=False)
    (folder / "x.frames").unlink()
    with pytest.raises(ValueError, match=r"x.frames: expected \d+ bytes, got no file"):
        index.load(folder)


def test_an_append_that_was_cut_short_never_was(built, rng, monkeypatch):
    folder, x, y = built

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index.files, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            index.append(folder, x[:2], y[:2], ["late-0", "late-1"])
    assert len(index.load(folder)) == 12
    index.append(folder, x[2:3], y[2:3], ["later"])
    found = index.load(folder)
    assert found.ids == [*names(0, 12), "later"]
    np.testing.assert_array_equal(found.x.sequences[12], x.sequences[2])
    assert (folder / "x.frames").stat().st_size == 13 * 3 * 4 * 4


def test_bad_clips_are_named_and_nothing_is_written(built, rng):
    folder, x, y = built
    before = (folder / "index.json").read_text()
    broken = Clips(x.sequences[:1].copy())
    broken.sequences[0, 1] = np.nan
    for arguments, message in (
        ((x[:1], y[:1], ["clip-3"]), "got 'clip-3' twice"),
        ((x[:2], y[:2], ["new", "new"]), "got 'new' twice"),
        ((x[:2], y[:1], ["new", "newer"]), "expected as many of each, at least one, got 2 of x, 1 of y, 2 ids"),
        ((clips(rng, 1, 4), y[:1], ["new"]), "x: expected at most 3 frames of width 4, got 4 of width 4"),
        ((broken, y[:1], ["new"]), "x: expected finite numbers, clip 'new' has others"),
    ):
        with pytest.raises(ValueError, match=message):
            index.append(folder, *arguments)
    with pytest.raises(ValueError, match="expected a new folder, found an index"):
        index.build(folder, x, y, names(0, 12))
    with pytest.raises(ValueError, match=r"expected an index, found no index.json"):
        index.load(folder.parent)
    assert (folder / "index.json").read_text() == before
    (folder / "index.json").write_text(json.dumps({"version": 9}))
    with pytest.raises(ValueError, match="expected version 1, got 9"):
        index.load(folder)
