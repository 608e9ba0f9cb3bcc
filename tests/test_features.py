import numpy as np
import pytest

import features
from config import FeatureConfig
from labels import semitone_to_hz

FULL = FeatureConfig()


def peak_bin(audio, settings, frame):
    return int(np.abs(features.complex_cqt(audio, settings)[:, frame]).argmax())


def nearest_bin(f0_hz, settings):
    return round(settings.bins_per_octave * np.log2(f0_hz / settings.fmin_hz))


@pytest.mark.parametrize("bins", [-60, -7, 1, 5, 33])
def test_transposing_a_tone_by_bins_moves_its_peak_so_far(tone, tiny_features, bins):
    f0_hz = 65.0 * 2 ** (80 / 60)  # the centre of bin 80
    moved_hz = f0_hz * 2 ** (bins / 60)
    for hz, expected in ((f0_hz, 80), (moved_hz, 80 + bins)):
        audio = tone(hz, 1.0, tiny_features.sample_rate, n_harmonics=1)
        assert peak_bin(audio, tiny_features, 30) == expected


def test_the_full_transform_spans_c2_to_c8(tone):
    for f0_hz in (semitone_to_hz(0), 440.0, semitone_to_hz(72)):
        audio = tone(f0_hz, 1.0, n_harmonics=1)
        transform = features.complex_cqt(audio, FULL)
        assert transform.shape == (365, 1 + 44_100 // 256) and transform.dtype == np.complex64
        assert np.abs(transform[:, 86]).argmax() == nearest_bin(f0_hz, FULL)


def test_frame_k_is_centred_on_its_sample(tiny_features):
    audio = np.zeros(8000, np.float32)
    audio[40 * tiny_features.hop_samples] = 1.0
    energy = np.abs(features.complex_cqt(audio, tiny_features))[-20:].sum(axis=0)
    assert energy.argmax() == 40
    assert energy[39] == pytest.approx(energy[41], rel=0.05)


def test_the_transform_is_linear(tone, tiny_features):
    a, b = (tone(hz, 0.6, 8000) for hz in (110, 185))
    both = features.complex_cqt(a + 3 * b, tiny_features)
    apart = features.complex_cqt(a, tiny_features) + 3 * features.complex_cqt(b, tiny_features)
    np.testing.assert_allclose(both, apart, atol=1e-4)


def test_the_margin_adds_bins_on_both_sides_and_moves_nothing(tone, tiny_features):
    audio = tone(150, 0.6, 8000)
    narrow = np.abs(features.complex_cqt(audio, tiny_features))
    wide = np.abs(features.complex_cqt(audio, tiny_features, margin_bins=10))
    assert wide.shape[0] == narrow.shape[0] + 20
    np.testing.assert_allclose(wide[10:-10], narrow, atol=0.02 * narrow.max())


@pytest.mark.parametrize("n_samples", [1, 10, 127, 128, 500])
def test_audio_shorter_than_a_filter(tiny_features, n_samples):
    transform = features.complex_cqt(np.ones(n_samples, np.float32), tiny_features)
    assert transform.shape == (190, 1 + n_samples // 128)
    assert np.isfinite(transform).all()


@pytest.mark.parametrize("gain", [0.01, 1.0, 30.0])
def test_level_is_the_same_for_loud_and_soft_recordings(tone, gain):
    audio = tone(220, 0.2) * np.float32(gain)
    before = audio.copy()
    level = features.normalise_level(audio, FULL)
    assert np.sqrt(np.mean(level**2)) == pytest.approx(FULL.rms_level, rel=1e-4)
    assert level.dtype == np.float32
    np.testing.assert_array_equal(audio, before)  # the caller's array


def test_silence_stays_silent():
    for audio in (np.zeros(100, np.float32), np.zeros(0, np.float32), np.full(9, 1e-6, np.float32)):
        assert features.rms(audio) <= features.SILENCE_RMS
        np.testing.assert_array_equal(features.normalise_level(audio, FULL), audio)
    assert features.rms(np.full(9, 1e-3, np.float32)) > features.SILENCE_RMS


def test_log_magnitude_has_a_floor():
    transform = np.array([[0, 3 + 4j]], np.complex64)
    log_cqt = features.log_magnitude(transform, FULL)
    assert log_cqt.dtype == np.float32
    np.testing.assert_allclose(log_cqt, np.log([[0.01, 5.01]]), rtol=1e-5)


def test_running_statistics_equal_those_of_all_frames_at_once():
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, (4, n)) for n in (5, 1, 90)]
    running = features.RunningStats(4)
    for part in parts:
        running.add(part)
    mean, std = running.mean_std()
    whole = np.concatenate(parts, axis=1)
    assert mean.shape == std.shape == (4, 1) and mean.dtype == np.float32
    np.testing.assert_allclose(mean[:, 0], whole.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(std[:, 0], whole.std(axis=1), rtol=1e-6)
    normal = features.normalise(whole, mean, std)
    np.testing.assert_allclose(normal.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=1), 1, rtol=1e-5)


def test_constant_bins_do_not_divide_by_zero():
    running = features.RunningStats(2)
    running.add(np.full((2, 10), -4.6))
    mean, std = running.mean_std()
    np.testing.assert_allclose(std, 1e-3)
    assert np.abs(features.normalise(np.full((2, 3), -4.6), mean, std)).max() < 0.01


def test_no_frames_is_an_error():
    with pytest.raises(ValueError, match="no training window"):
        features.RunningStats(3).mean_std()
