"""Batches: padding and masks, every clip once an epoch, one order for any number of processes, exact resumes."""

import json

import numpy as np
import pytest

from scav_jax.features.pipeline import eval_batches, train_iterator, train_order
from scav_jax.features.store import build, open_store


def make_store(path, lengths):
    """One clip a length: visual (length, 3), audio always (4, 2); the numbers tell the clip and the position."""
    folder = path / "features"
    folder.mkdir()
    rows = ["id,split"]
    for clip, length in enumerate(lengths):
        visual = clip + np.linspace(0.25, 0.5, 3 * length).reshape(length, 3)
        np.savez(folder / f"c{clip:02d}.npz", visual=visual, audio=clip + np.linspace(0.25, 0.5, 8).reshape(4, 2))
        rows.append(f"c{clip:02d},train")
    (path / "clips.csv").write_text("\n".join(rows))
    build(folder, path / "store", path / "clips.csv", rates_hz={"visual": 4.0, "audio": 6.2})
    return open_store(path / "store")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("ragged"), [1, 4, 2, 5, 3, 4, 2, 1, 5, 3])


def iterator(store, batch_size, seed, **options):
    order = train_order(store.ledger["splits"]["train"], batch_size, seed, **options)
    return train_iterator(store, "train", order)


def take_indices(iterator, count):
    return [next(iterator)["index"].tolist() for _ in range(count)]


def test_padding_and_masks(store):
    batch = next(iterator(store, 6, seed=0))
    clips = store.split("train")
    assert batch["visual"].shape == (6, 5, 3)
    assert batch["visual"].dtype == np.float32
    assert batch["audio_mask"] is None
    for index, visual, mask, audio in zip(
        batch["index"], batch["visual"], batch["visual_mask"], batch["audio"], strict=True
    ):
        clip = clips[index]
        length = len(clip["visual"])
        np.testing.assert_array_equal(visual[:length], clip["visual"])
        np.testing.assert_array_equal(visual[length:], 0)
        np.testing.assert_array_equal(mask, np.arange(5) < length)
        np.testing.assert_array_equal(audio, clip["audio"])


def test_every_clip_once_an_epoch_in_new_order(store):
    batches = take_indices(iterator(store, 4, seed=1), 5)  # two epochs of ten clips
    order = np.concatenate(batches).tolist()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert order[:10] != list(range(10))
    assert take_indices(iterator(store, 4, seed=1), 5) == batches
    assert take_indices(iterator(store, 4, seed=2), 5) != batches


def test_state_restores_at_every_step(store):
    ahead = iterator(store, 4, seed=5)
    states, batches = [], []
    for _ in range(6):
        states.append(json.loads(json.dumps(ahead.get_state())))
        batches.append(next(ahead)["index"].tolist())
    for step, state in enumerate(states):
        restored = iterator(store, 4, seed=5)
        restored.set_state(state)
        assert take_indices(restored, 6 - step) == batches[step:]
    ahead.set_state(states[2])  # and back, in an iterator that has moved on
    assert take_indices(ahead, 4) == batches[2:]


def test_evaluation_is_in_order_and_padded_to_one_shape(store):
    batches = list(eval_batches(store, "train", 4))
    assert [batch["valid"] for batch in batches] == [4, 4, 2]
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert {batch["visual"].shape for batch in batches} == {(4, 5, 3)}


def test_equal_lengths_need_no_mask(tmp_path):
    batch = next(eval_batches(make_store(tmp_path, [3, 3]), "train", 2))
    assert batch["visual_mask"] is None
    assert batch["audio_mask"] is None


def test_impossible_batches(store):
    with pytest.raises(ValueError, match="batch_size: expected 1 to 10, the clips to train on, got 12"):
        iterator(store, 12, seed=0)
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 3 devices, got 8"):
        iterator(store, 8, seed=0, devices=3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        next(eval_batches(store, "train", 0))
