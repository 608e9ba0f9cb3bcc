"""Sung leads of the synthetic corpus: a harmonic source through moving formants, with consonants.

Source and filter after G. Fant, Acoustic Theory of Speech Production, 1960; the cascade of
resonators after D. Klatt, JASA 67, 1980.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from tones import (
    HOP,
    NOISE_HZ,
    SAMPLE_RATE,
    additive,
    band_limited,
    cycles,
    fill_rests,
    levelled,
    loudness_curve,
    n_harmonics,
    shaped_noise,
    voiced_runs,
)

# Formants F1..F3 of a man in Hz (after G. Peterson and H. Barney, JASA 24, 1952).
VOWELS_HZ = np.array(
    [
        *((730, 1090, 2440), (570, 840, 2410), (270, 2290, 3010), (300, 870, 2240)),
        *((530, 1840, 2480), (660, 1720, 2410), (490, 1350, 1690), (520, 1190, 2390)),
        (260, 1750, 2150),
    ],
    dtype=float,
)
SONORANTS_HZ = np.array([(250, 1100, 2200), (300, 700, 2200), (280, 2150, 2900), (350, 1200, 2700)])
# s, sh, f, h: centre in Hz, width in octaves, share of white noise.
FRICATIVES = ((6500, 0.5, 0.02), (3400, 0.6, 0.03), (5500, 1.6, 0.3), (1500, 1.2, 0.1))
COARSE_HZ = np.geomspace(100, SAMPLE_RATE / 2, 48)  # where the filter of the breath is evaluated


class Voice(NamedTuple):
    """A singer."""

    tract: float  # formants relative to a man's
    tilt: float  # source falls as k ** -tilt
    breath: float  # aspiration relative to the voiced sound
    jitter: float  # cycles of phase noise
    shimmer: float
    opera: bool  # singer's formant, open vowels


def random_voice(tract: float, opera: bool, rng: np.random.Generator) -> Voice:
    """A singer of a given size."""
    return Voice(
        tract=tract * rng.uniform(0.94, 1.06),
        tilt=rng.uniform(0.7, 1.7),
        breath=10 ** (rng.uniform(-46, -24) / 20),
        jitter=rng.uniform(0.0, 0.006),
        shimmer=rng.uniform(0.0, 0.12),
        opera=opera,
    )


def formant_response(freq_hz: np.ndarray, formants_hz: np.ndarray) -> np.ndarray:
    """Complex gain of cascaded resonators; formants_hz (n, n_frames), freq_hz (..., n_frames)."""
    gain = np.ones(freq_hz.shape, dtype=np.complex64)
    for centre in formants_hz.astype(np.float32):
        width = 50 + 0.035 * centre
        ratio = freq_hz.astype(np.float32) / centre
        gain /= 1 - ratio**2 + 1j * ratio * (width / centre)
    return gain


def formant_tracks(
    f0_hz: np.ndarray, onsets: list[int], voice: Voice, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Formants (10, n_frames) in Hz of a text of random syllables, and its voiced loudness."""
    n_frames = len(f0_hz)
    targets = np.zeros((3, n_frames))
    gain = np.ones(n_frames)
    bounds = sorted({0, *onsets, n_frames})
    for first, end in zip(bounds[:-1], bounds[1:], strict=True):
        targets[:, first:end] = VOWELS_HZ[rng.integers(len(VOWELS_HZ))][:, None]
        if rng.random() < 0.25:  # diphthong
            targets[:, (first + end) // 2 : end] = VOWELS_HZ[rng.integers(len(VOWELS_HZ))][:, None]
        if rng.random() < 0.4:  # sonorant at the start of the syllable
            length = int(rng.integers(7, 18))
            sonorant = SONORANTS_HZ[rng.integers(len(SONORANTS_HZ))]
            targets[:, first : first + length] = sonorant[:, None]
            gain[first : first + length] = 10 ** (rng.uniform(-12, -3) / 20)
    smooth = ndimage.gaussian_filter1d(targets, rng.uniform(4, 9), axis=1) * voice.tract
    spacing = 1050 * voice.tract
    upper = np.repeat((3400 * voice.tract + spacing * np.arange(7))[:, None], n_frames, axis=1)
    if voice.opera:  # F3..F5 cluster
        cluster = rng.uniform(2400, 3100)
        smooth[2], upper[0], upper[1] = cluster * 0.92, cluster * 1.03, cluster * 1.15
    smooth[0] = np.maximum(smooth[0], fill_rests(f0_hz) * 1.02)  # singers open up for high notes
    smooth[1] = np.maximum(smooth[1], smooth[0] * 1.25)
    return np.concatenate([smooth, upper]), ndimage.gaussian_filter1d(gain, 2)


def consonant_noise(f0_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise envelope (n_frames, HOP + 1) of consonants and breaths in the rests."""
    envelope = np.zeros((len(f0_hz), len(NOISE_HZ)), dtype=np.float32)
    octaves = np.log2(np.maximum(NOISE_HZ, 50))
    previous_end = 0
    for first, end in voiced_runs(f0_hz):
        rest, previous_end = first - previous_end, end
        centre, width, flat = FRICATIVES[rng.integers(len(FRICATIVES))]
        shape = flat + np.exp(-(((octaves - np.log2(centre)) / width) ** 2))
        level = 10 ** (rng.uniform(-26, -6) / 20)
        length = int(min(rng.integers(2, 5) if rng.random() < 0.4 else rng.integers(8, 24), rest))
        if length >= 2 and rng.random() < 0.8:
            fade = np.sin(np.pi * (np.arange(length) + 0.5) / length)[:, None] ** 0.5
            envelope[first - length : first] += level * fade * shape
        if rest > 60 and rng.random() < 0.4:  # breath
            fade = np.hanning(42)[1:-1, None] * 10 ** (rng.uniform(-36, -22) / 20)
            envelope[first - length - 42 : first - length - 2] += fade * np.exp(
                -((octaves - 10.8) ** 2)
            )
    return envelope


def low_led(spectrum: np.ndarray, freq_hz: np.ndarray) -> np.ndarray:
    """Harmonics above 1.8 kHz held 3 dB below the strongest lower one, as in any real voice."""
    strength = np.abs(spectrum)
    low = freq_hz < np.maximum(1800, 2.5 * freq_hz[0])  # a very high note has itself and an octave
    limit = 0.7 * np.max(np.where(low, strength, 0), axis=0)
    return np.where(low, spectrum, spectrum * np.minimum(1, limit / (strength + 1e-9)))


def render_voice(
    f0_hz: np.ndarray, onsets: list[int], voice: Voice, rng: np.random.Generator
) -> np.ndarray:
    """A singer on an F0 curve (n_frames,), syllables beginning at `onsets`; (n_frames * HOP,)."""
    pitch = fill_rests(f0_hz)
    formants, gain = formant_tracks(f0_hz, onsets, voice, rng)
    attack, release = int(rng.integers(3, 14)), int(rng.integers(3, 16))
    loudness = loudness_curve(f0_hz, onsets, attack, release, 0.7, rng) * gain
    loudness *= 1 + voice.shimmer * np.clip(rng.standard_normal(len(f0_hz)), -2.5, 2.5)
    k = np.arange(1, n_harmonics(f0_hz, 64) + 1)[:, None]
    freq_hz = k * pitch
    tilt = voice.tilt + 0.5 * (1 - np.minimum(loudness, 1))  # soft is dull
    spectrum = low_led(formant_response(freq_hz, formants) * k**-tilt, freq_hz)
    spectrum = levelled(band_limited(spectrum, freq_hz), 0.7) * loudness
    phase = cycles(pitch)
    wander = ndimage.gaussian_filter1d(rng.standard_normal(len(pitch) * 2), 1.0) * voice.jitter
    phase += np.interp(np.arange(phase.size), np.arange(len(wander)) * HOP / 2, wander).reshape(
        phase.shape
    )
    response = np.abs(formant_response(np.repeat(COARSE_HZ[:, None], len(pitch), 1), formants))
    spread = np.array([np.interp(NOISE_HZ, COARSE_HZ, row) for row in np.eye(len(COARSE_HZ))])
    aspiration = (response.T @ spread.astype(np.float32)) * np.clip(NOISE_HZ / 2500, 0, 1)
    power = np.mean(aspiration**2, axis=1)
    aspiration *= (voice.breath * loudness / np.sqrt(power + 1e-9))[:, None]
    noise = shaped_noise(aspiration, rng) * (1 - 0.7 * np.cos(2 * np.pi * phase.ravel()))
    consonants = shaped_noise(consonant_noise(f0_hz, rng), rng)
    return additive(phase, spectrum) + (noise + consonants).astype(np.float32)
