"""Media: what is written comes back at the right times, and every broken file is one clear error."""

from fractions import Fraction

import av
import numpy as np
import pytest

from scav_jax.features.media import MediaError, Span, probe, read_frames, read_sound, write_clip

FRAME_RATE_HZ, SOUND_RATE_HZ, DURATION_S = 10, 16_000, 2


def ramp_frames():
    """Frame i is grey of level 10 * i: a decoded frame tells its index."""
    levels = np.arange(FRAME_RATE_HZ * DURATION_S, dtype=np.uint8) * 10
    return np.broadcast_to(levels[:, None, None, None], (len(levels), 32, 48, 3)).copy()


def tone_from(onset_s):
    times_s = np.arange(SOUND_RATE_HZ * DURATION_S) / SOUND_RATE_HZ
    return np.where(times_s < onset_s, 0, 0.5 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, ramp_frames(), tone_from(1.0), frame_rate_hz=FRAME_RATE_HZ, sound_rate_hz=SOUND_RATE_HZ)
    return path


def frame_indices(frames):
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int)


def write_streams(path, *, video_s=(), sound=None):
    """An .mp4 of one grey frame a timestamp (level 10 * i) and/or a sound; write_clip always writes both, evenly."""
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(path, "w", options=options) as container:
        if len(video_s):
            stream = container.add_stream("libx264", rate=100, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for position, time_s in enumerate(video_s):
                frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 10 * position, np.uint8), format="rgb24")
                frame.pts, frame.time_base = round(time_s * 100), Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound is not None:
            stream = container.add_stream("aac", rate=SOUND_RATE_HZ, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SOUND_RATE_HZ, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.mark.parametrize("rate_hz", [1.5, 4.0, 10.0, 25.0])
def test_frames_are_the_latest_at_each_time(clip, rate_hz):
    times_s = (np.arange(round(DURATION_S * rate_hz)) + 0.5) / rate_hz
    expected = np.floor(times_s * FRAME_RATE_HZ + 1e-9).astype(int)
    np.testing.assert_array_equal(frame_indices(read_frames(clip, rate_hz)), expected)


def test_frames_of_variable_rate_are_picked_by_timestamp(tmp_path):
    write_streams(tmp_path / "v.mp4", video_s=[0.0, 0.1, 0.2, 1.0, 1.1, 1.9])
    indices = frame_indices(read_frames(tmp_path / "v.mp4", 4.0))
    # times 0.125, 0.375, ... 1.875 (the last frame is shown to about 2 s)
    np.testing.assert_array_equal(indices[:7], [1, 2, 2, 2, 4, 4, 4])


def test_sizes_and_colours(tmp_path):
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :, :24, 0] = 200  # left half red
    write_clip(tmp_path / "c.mp4", frames, tone_from(0), frame_rate_hz=5, sound_rate_hz=SOUND_RATE_HZ)
    small = read_frames(tmp_path / "c.mp4", 5.0, size=(8, 12)).astype(int)
    assert small.shape == (5, 8, 12, 3)
    np.testing.assert_allclose(small[:, :, 1:5, 0], 200, atol=12)
    np.testing.assert_allclose(small[:, :, 7:, :], 0, atol=12)


def test_sound_keeps_level_and_time(clip):
    sound = read_sound(clip, SOUND_RATE_HZ)
    assert sound.shape == (SOUND_RATE_HZ * DURATION_S,)
    np.testing.assert_allclose(sound, tone_from(1.0), atol=0.05)  # AAC is lossy; a shift of one sample would be 0.09
    assert read_sound(clip, 8000).shape == (8000 * DURATION_S,)


def test_probe(clip):
    info = probe(clip)
    assert (info.duration_s, info.has_video, info.has_sound) == (DURATION_S, True, True)


def test_writing_is_deterministic_and_atomic(clip, tmp_path):
    again = tmp_path / "again.mp4"
    write_clip(again, ramp_frames(), tone_from(1.0), frame_rate_hz=FRAME_RATE_HZ, sound_rate_hz=SOUND_RATE_HZ)
    assert again.read_bytes() == clip.read_bytes()
    with pytest.raises(ValueError, match="even height and width"):
        write_clip(tmp_path / "odd.mp4", ramp_frames()[:, :31], tone_from(0), frame_rate_hz=10, sound_rate_hz=16_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.mp4", "clip.mp4"]


def test_one_frame_is_no_video(tmp_path):
    write_streams(tmp_path / "one.mp4", video_s=[0.0])
    with pytest.raises(MediaError, match="one frame only"):
        read_frames(tmp_path / "one.mp4", 4.0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_span_is_the_part_of_the_whole(clip, tmp_path, suffix):
    path = tmp_path / f"again{suffix}"
    with av.open(clip) as source, av.open(path, "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    whole = read_sound(path, SOUND_RATE_HZ)
    for start_s, length_s in ((0.0, 1.0), (0.5, 1.0), (1.2, None), (1.5, 9.0)):
        span, end_s = Span(start_s, length_s), min(DURATION_S, start_s + (length_s or 9))
        expected = np.arange(round(start_s * FRAME_RATE_HZ), round(end_s * FRAME_RATE_HZ))
        np.testing.assert_array_equal(frame_indices(read_frames(path, float(FRAME_RATE_HZ), span=span)), expected)
        part = read_sound(path, SOUND_RATE_HZ, span=span)
        np.testing.assert_allclose(part, whole[round(start_s * SOUND_RATE_HZ) :][: len(part)], atol=1e-3)
        assert len(part) == round((end_s - start_s) * SOUND_RATE_HZ)
    for read in (lambda: read_frames(path, 4.0, span=Span(2.5)), lambda: read_sound(path, 8000, span=Span(2.5))):
        with pytest.raises(MediaError, match=r"over before the clip begins, at 2\.00 s of 2\.50 s"):
            read()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clip_that_starts_late_starts_at_zero(tmp_path, suffix):
    path = tmp_path / f"late{suffix}"
    write_streams(path, video_s=5 + np.arange(10) / 10)
    assert frame_indices(read_frames(path, 10.0))[:9].tolist() == list(range(9))


def test_surround_sound_is_mixed_down(tmp_path):
    channels = np.zeros((6, 48_000), np.float32)
    channels[0] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)  # front left alone
    with av.open(tmp_path / "surround.mp4", "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="5.1")
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout="5.1")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    sound = read_sound(tmp_path / "surround.mp4", 16_000)
    assert len(sound) == pytest.approx(16_000, abs=1024)
    spectrum = np.abs(np.fft.rfft(sound[:16_000]))
    assert spectrum.argmax() == 440


def test_missing_streams(tmp_path):
    write_streams(tmp_path / "silent.mp4", video_s=[0.0, 0.5])
    write_streams(tmp_path / "blind.mp4", sound=tone_from(0.0))
    with pytest.raises(MediaError, match=r"silent\.mp4: no sound stream"):
        read_sound(tmp_path / "silent.mp4", SOUND_RATE_HZ)
    with pytest.raises(MediaError, match=r"blind\.mp4: no video stream"):
        read_frames(tmp_path / "blind.mp4", 4.0)
    assert len(read_sound(tmp_path / "blind.mp4", SOUND_RATE_HZ)) == pytest.approx(DURATION_S * SOUND_RATE_HZ, abs=1024)


def test_broken_files_are_one_line_each(clip, tmp_path):
    whole = clip.read_bytes()
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("not a film")
    for name, reason in (("zero", "zero bytes"), ("cut", "cannot be decoded"), ("text", "cannot be decoded")):
        for read in (lambda path: read_frames(path, 4.0), lambda path: read_sound(path, 8000), probe):
            with pytest.raises(MediaError, match=rf"{name}\.mp4: {reason}") as caught:
                read(tmp_path / f"{name}.mp4")
            assert "\n" not in str(caught.value)
    with pytest.raises(MediaError, match=r"none\.mp4: cannot be decoded: No such file"):
        probe(tmp_path / "none.mp4")


def test_file_cut_behind_its_index_is_truncated(tmp_path):
    times_s = np.arange(20) / 10
    write_streams(tmp_path / "whole.mp4", video_s=times_s)
    assert len(read_frames(tmp_path / "whole.mp4", 4.0)) == 8
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2])
    with pytest.raises(MediaError, match=r"truncated|cannot be decoded"):
        read_frames(tmp_path / "cut.mp4", 4.0)
