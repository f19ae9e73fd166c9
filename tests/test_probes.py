"""What each probe does to the frames of a clip."""

import numpy as np
import pytest

from scav_jax.probes import PROBES, Probe

TEN = np.arange(10, dtype=np.float32)[:, None]


def of_ten(text):
    changed = Probe.parse(text)({"index": np.array([3]), "visual": TEN[None], "visual_mask": None})
    mask = changed["visual_mask"]
    return changed["visual"][0, :, 0].tolist()[: None if mask is None else mask.sum()]


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ("reverse:1", [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("reverse:0.4", [0, 1, 2, 6, 5, 4, 3, 7, 8, 9]),
        ("shift:0.3", [7, 8, 9, 0, 1, 2, 3, 4, 5, 6]),
        ("crop:0.4", [2, 3, 4, 5, 6, 7]),
        ("freeze:0.5", [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]),
        ("freeze:1", [0] * 10),
    ],
)
def test_by_hand(probe, expected):
    assert of_ten(probe) == expected


def test_permute_exchanges_so_many_frames():
    whole, half = of_ten("permute:1"), of_ten("permute:0.5")
    assert sorted(whole) == sorted(half) == list(range(10))
    assert whole != list(range(10))
    assert 2 <= sum(a != b for a, b in zip(half, range(10), strict=True)) <= 5
    assert of_ten("permute:0.5") == half  # drawn from the clip's index


def test_warp_bends_time_and_keeps_its_direction():
    bent = of_ten("warp:1")
    assert bent == sorted(bent)
    assert bent[5] < 4
    assert 0 <= bent[0] < 1
    assert 8 < bent[-1] <= 9


@pytest.mark.parametrize("name", PROBES)
def test_ragged_clips_are_disturbed_within_their_length(name, rng):
    frames = rng.normal(size=(3, 8, 2)).astype(np.float32)
    mask = np.arange(8) < np.array([[8], [5], [1]])
    frames[~mask] = np.nan
    batch = {"index": np.arange(3), "valid": 3, "audio": frames, "audio_mask": mask}
    changed = Probe(name, 0.5)(batch)
    assert np.isfinite(changed["audio"][changed["audio_mask"]]).all()
    lengths = changed["audio_mask"].sum(axis=1)
    assert lengths.tolist() == ([4, 2, 1] if name == "crop" else [8, 5, 1])
    assert np.isnan(batch["audio"]).any()  # not in place
    assert batch["audio"] is frames


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("melt:1", "melt:1: probe: expected one of permute, reverse, shift, warp, crop, freeze, got 'melt'"),
        ("shift", "shift: expected a strength, as in permute:0.5"),
        ("shift:2", "shift:2: probe shift: expected a strength above 0, at most 1, got 2"),
        ("crop:1", "expected a strength above 0, at most 1, got 1"),
        ("crop:0", "expected a strength above 0"),
        ("crop:some", "could not convert string to float"),
    ],
)
def test_bad_probes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        Probe.parse(text)
