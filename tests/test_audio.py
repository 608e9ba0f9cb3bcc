import numpy as np
import pytest
import soundfile

from audio import (
    AudioWarning,
    SpooledAudio,
    audio_info,
    read_audio,
    read_audio_channels,
    to_mono,
)

RATE = 44_100
HOP_S = 256 / 44_100
CLICK_S = 1.0


def click(rate: int) -> np.ndarray:
    """Two seconds with a short 1 kHz burst at one second."""
    at_s = np.arange(2 * rate) / rate - CLICK_S
    burst = np.sin(2 * np.pi * 1000 * at_s) * np.exp(-np.maximum(at_s, 0) / 0.002)
    return np.where(at_s >= 0, 0.8 * burst, 0).astype(np.float32)


def onset_s(audio: np.ndarray) -> float:
    """The first sample over 30 % of the maximum."""
    loud = np.abs(audio) > 0.3 * np.abs(audio).max()
    return loud.argmax() / RATE


def write_aac(path, audio: np.ndarray, rate: int) -> None:
    """AAC through PyAV: in an m4a with its edit list, or bare."""
    import av

    with av.open(str(path), "w", format="adts" if path.suffix == ".aac" else "ipod") as container:
        stream = container.add_stream("aac", rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [(".wav", rate) for rate in (8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000)]
    + [(".flac", 8_000), (".flac", 192_000), (".ogg", 16_000), (".ogg", 48_000)]
    + [(".mp3", rate) for rate in (8_000, 16_000, 22_050, 44_100, 48_000)]
    + [(".m4a", rate) for rate in (8_000, 16_000, 44_100, 48_000, 96_000)]
    + [(".aac", 44_100)],
)
def test_a_click_stays_where_it_was(tmp_path, suffix, rate):
    path = tmp_path / f"click{suffix}"
    if suffix in (".m4a", ".aac"):
        write_aac(path, click(rate), rate)
    else:
        soundfile.write(path, click(rate), rate)
    audio = read_audio(path, RATE)
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert len(audio) / RATE == pytest.approx(2.0, abs=0.3 if suffix in (".m4a", ".aac") else 1e-3)
    assert onset_s(audio) == pytest.approx(onset_s(click(RATE)), abs=0.2 * HOP_S)
    assert audio_info(path).sample_rate == rate
    if suffix != ".aac":  # a bare stream does not know how long it is
        assert audio_info(path).duration_s == pytest.approx(2.0, abs=0.1)


def test_time_does_not_drift(tmp_path):
    """An odd rate over many blocks: the last click is where it was."""
    rate, n_seconds = 11_025, 120
    audio = np.zeros(n_seconds * rate, dtype=np.float32)
    audio[-rate] = 1.0
    soundfile.write(tmp_path / "long.wav", audio, rate)
    result = read_audio(tmp_path / "long.wav", RATE)
    assert len(result) == n_seconds * RATE
    assert np.abs(result).argmax() == (n_seconds - 1) * RATE


def test_resampling_keeps_the_pitch_and_removes_aliases(tmp_path):
    at_s = np.arange(2 * 192_000) / 192_000
    tones = 0.4 * np.sin(2 * np.pi * 440 * at_s) + 0.4 * np.sin(2 * np.pi * 43_660 * at_s)
    soundfile.write(tmp_path / "t.wav", tones, 192_000)
    audio = read_audio(tmp_path / "t.wav", RATE)[4410:-4410]
    at_s = (4410 + np.arange(len(audio))) / RATE
    assert np.abs(audio - 0.4 * np.sin(2 * np.pi * 440 * at_s)).max() < 1e-3


@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_channels_are_averaged_or_kept_apart(tmp_path, n_channels):
    levels = np.arange(1, n_channels + 1) / 10
    soundfile.write(tmp_path / "c.wav", np.tile(levels, (1000, 1)), RATE, "FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "c.wav", RATE), levels.mean(), rtol=1e-6)
    channels = read_audio_channels(tmp_path / "c.wav", RATE)
    assert channels.shape == (n_channels, 1000)
    np.testing.assert_allclose(channels, np.tile(levels[:, None], 1000), rtol=1e-6)


@pytest.mark.parametrize("rate", [8_000, RATE, 192_000])
def test_ten_milliseconds_and_silence_are_audio(tmp_path, rate):
    soundfile.write(tmp_path / "s.wav", np.zeros(rate // 100), rate)
    audio = read_audio(tmp_path / "s.wav", RATE)
    assert len(audio) == 441 and not audio.any()


def test_a_truncated_mp3_gives_what_is_there_and_says_so(tmp_path):
    noise = np.random.default_rng(0).normal(size=10 * RATE).astype(np.float32) / 10
    soundfile.write(tmp_path / "whole.mp3", noise, RATE)
    data = (tmp_path / "whole.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    with pytest.warns(AudioWarning, match="cut.mp3: stops after"):
        audio = read_audio(tmp_path / "cut.mp3", RATE)
    assert 4 < len(audio) / RATE < 6
    (tmp_path / "stub.mp3").write_bytes(data[:300])
    with pytest.raises(ValueError, match="stub.mp3: not audio"):
        read_audio(tmp_path / "stub.mp3", RATE)


def test_a_truncated_m4a_is_an_error(tmp_path):
    write_aac(tmp_path / "whole.m4a", click(RATE), RATE)
    data = (tmp_path / "whole.m4a").read_bytes()
    (tmp_path / "cut.m4a").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut.m4a"):
        read_audio(tmp_path / "cut.m4a", RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_samples_are_refused_with_their_place(tmp_path, bad):
    audio = np.zeros((RATE, 2), dtype=np.float32)
    audio[RATE // 2, 1] = bad
    soundfile.write(tmp_path / "bad.wav", audio, RATE, "FLOAT")
    with pytest.raises(ValueError, match="bad.wav: NaN or infinite sample at 0.500 s"):
        read_audio(tmp_path / "bad.wav", RATE)
    with pytest.raises(ValueError, match="at 0.500 s"):
        to_mono(audio, RATE, 16_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"these are words, not sound\n" * 100, "not audio that can be read"),
        (None, "no such file"),
    ],
)
@pytest.mark.parametrize("name", ["a b's \n.wav", "ü.mp3", "x.m4a"])
def test_files_that_are_no_audio(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (audio_info, lambda path: read_audio(path, RATE)):
        with pytest.raises(ValueError, match=message) as caught:
            read(tmp_path / name)
        assert name in str(caught.value)


def test_no_samples_and_folders(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match="zero.wav: holds no sound"):
        read_audio(tmp_path / "zero.wav", RATE)
    with pytest.raises(ValueError, match="not a file"):
        read_audio(tmp_path, RATE)


def test_audio_in_memory():
    stereo = np.stack([np.full(800, 0.2), np.full(800, 0.4)])
    np.testing.assert_allclose(to_mono(stereo, 8000, 8000), 0.3, rtol=1e-6)
    np.testing.assert_allclose(to_mono(stereo.T, 8000, 8000), 0.3, rtol=1e-6)
    assert len(to_mono(stereo, 8000, 44_100)) == 4410
    for bad, rate in ((np.zeros(0), 8000), (np.zeros((2, 3, 4)), 8000), (np.zeros(9), 0)):
        with pytest.raises(ValueError, match="shape|rate"):
            to_mono(bad, rate, 44_100)


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_spooled_audio_equals_audio_in_memory(tmp_path, rate):
    noise = np.random.default_rng(0).normal(size=(70_000, 2)) / 10
    soundfile.write(tmp_path / "song.wav", noise, rate, "FLOAT")
    whole, spooled = (read(tmp_path / "song.wav", 44_100) for read in (read_audio, SpooledAudio))
    assert len(spooled) == len(whole)
    for part in (slice(None), slice(100, 5000), slice(len(whole) - 5, None), slice(9, 9)):
        np.testing.assert_array_equal(spooled[part], whole[part])
    with pytest.raises(ValueError, match="no such file"):
        SpooledAudio(tmp_path / "missing.wav", 44_100)
