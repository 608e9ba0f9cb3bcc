"""Voices made into other singers: what is heard stays what the annotation says."""

import librosa
import numpy as np
import pytest

import varied_voices
from varied_voices import choose_shift, vary_voice

RATE = 16_000


@pytest.fixture
def voice(tone):
    """Two notes and a rest: audio and annotation in steps of 10 ms."""
    notes = [tone(hz, 1.0, RATE, n_harmonics=8) for hz in (196.0, 262.0)]
    audio = np.concatenate([notes[0], np.zeros(RATE // 2, np.float32), notes[1]])
    times_s = 0.01 * np.arange(250) + 0.005
    f0_hz = np.select([times_s < 1.0, times_s > 1.5], [196.0, 262.0], 0.0)
    return audio, times_s, f0_hz, times_s < 2.2


@pytest.mark.parametrize("seed", range(6))
def test_the_annotation_follows_the_sound(voice, seed):
    audio, times_s, f0_hz, reliable = vary_voice(*voice, RATE, np.random.default_rng(seed))
    assert len(times_s) == len(f0_hz) == len(reliable)
    assert abs(times_s[-1] - len(audio) / RATE) < 0.02
    assert np.diff(times_s) == pytest.approx(0.01)
    found = librosa.yin(audio, fmin=80, fmax=600, sr=RATE, frame_length=1024, hop_length=80)
    at_frame = np.minimum(np.round(times_s / 0.005).astype(int), len(found) - 1)
    inside = np.convolve(f0_hz > 0, np.ones(13), "same") == 13
    cents = 1200 * np.log2(found[at_frame][inside] / f0_hz[inside])
    assert np.median(np.abs(cents)) < 15 and np.mean(np.abs(cents) < 60) > 0.9
    level = np.abs(audio)[(times_s * RATE).astype(int).clip(0, len(audio) - 1)]
    resting = np.convolve(f0_hz == 0, np.ones(5), "same") == 5
    assert resting.any() and level[resting].max() < 0.02
    moved = 12 * np.log2(np.median(f0_hz[f0_hz > 0]) / 229)
    assert 1 < abs(moved) < 10
    assert 0.8 < reliable.mean() < 0.95


def test_vibrato_comes_in_half_of_the_recordings(voice):
    spreads = []
    for seed in range(20):
        _, _, f0_hz, _ = vary_voice(*voice, RATE, np.random.default_rng(seed))
        note = f0_hz[f0_hz > 0][:40]
        spreads.append(1200 * np.log2(note.max() / note.min()))
    assert 4 <= sum(spread < 1 for spread in spreads) <= 16
    assert 100 < max(spreads) < 400


@pytest.mark.parametrize(("f0_hz", "sign"), [(75.0, 1), (900.0, -1)])
def test_voices_at_the_edge_move_inwards(f0_hz, sign):
    shifts = [choose_shift(np.full(9, f0_hz), np.random.default_rng(s)) for s in range(30)]
    assert all(2 <= sign * shift <= varied_voices.LARGEST_SHIFT for shift in shifts)
    moved_hz = f0_hz * 2 ** (np.array(shifts) / 12)
    assert moved_hz.min() > 65.4 and moved_hz.max() < 988


def test_a_recording_without_a_voiced_frame_stays_in_its_register():
    assert choose_shift(np.zeros(5), np.random.default_rng(0)) == 0


def test_the_same_seed_gives_the_same_singer(voice):
    first, again = (vary_voice(*voice, RATE, np.random.default_rng(3)) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert first[0].dtype == np.float32
