"""Tones and noise whose pitch and spectrum follow curves on the frame grid.

The phase is accumulated from the F0 curve, so the F0 told is the F0 that sounds, and every harmonic
has an amplitude in every frame. Frame k lies at sample k * HOP; between frames F0 and amplitudes
are linear.
"""

import numpy as np
from scipy import ndimage

from config import feature_config

SAMPLE_RATE = feature_config.sample_rate  # Hz
HOP = feature_config.hop_samples
FRAME_S = feature_config.hop_seconds
TOP_HZ = 12_000.0  # harmonics fade out below this; noise alone reaches higher
NOISE_HZ = np.linspace(0, SAMPLE_RATE / 2, HOP + 1)  # bins of `shaped_noise`


def voiced_runs(f0_hz: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last frame of every voiced stretch."""
    edges = np.flatnonzero(np.diff(np.r_[0, (f0_hz > 0).astype(int), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def fill_rests(f0_hz: np.ndarray) -> np.ndarray:
    """The nearest voiced value in unvoiced frames: the pitch at which a note's edges fade."""
    voiced = np.flatnonzero(f0_hz > 0)
    if len(voiced) == 0:
        return np.full(len(f0_hz), 220.0)
    frames = np.arange(len(f0_hz))
    right = voiced[np.minimum(np.searchsorted(voiced, frames), len(voiced) - 1)]
    left = voiced[np.maximum(np.searchsorted(voiced, frames, side="right") - 1, 0)]
    return f0_hz[np.where(np.abs(frames - left) <= np.abs(right - frames), left, right)]


def cycles(f0_hz: np.ndarray) -> np.ndarray:
    """Accumulated phase in cycles at each sample, shape (n_frames, HOP); f0_hz has no zeros."""
    ahead = np.append(f0_hz[1:], f0_hz[-1])
    ramp = np.arange(HOP) / HOP
    steps = (f0_hz[:, None] + (ahead - f0_hz)[:, None] * ramp) / SAMPLE_RATE
    total = np.cumsum(steps.ravel())
    return (np.r_[0.0, total[:-1]] % 1.0).reshape(steps.shape)


def additive(phase: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Sum of harmonics.

    Parameters
    ----------
    phase : np.ndarray [shape=(n_frames, HOP)]
        Of the fundamental, in cycles.
    spectrum : np.ndarray [shape=(n_harmonics, n_frames)], complex
        Amplitudes of the harmonics 1, 2, ... at the frames.

    Returns
    -------
    np.ndarray [shape=(n_frames * HOP,)], float32
    """
    n_frames = len(phase)
    spectrum = np.append(spectrum, spectrum[:, -1:], axis=1).T.astype(np.complex64)
    ramp = (np.arange(HOP) / HOP).astype(np.float32)
    audio = np.zeros((n_frames, HOP), dtype=np.float32)
    for first in range(0, n_frames, 16):  # small blocks stay in the cache
        end = min(first + 16, n_frames)
        now, ahead = spectrum[first:end], spectrum[first + 1 : end + 1]
        used = np.flatnonzero(np.any(now, axis=0) | np.any(ahead, axis=0))
        if len(used) == 0:
            continue
        n = used[-1] + 1
        powers = np.empty((end - first, n, HOP), dtype=np.complex64)  # (frame, harmonic, sample)
        powers[:, 0] = np.exp(2j * np.pi * phase[first:end]).astype(np.complex64)
        done = 1
        while done < n:  # z^(done+1)..z^(2 done) = z^1..z^done times z^done
            more = min(done, n - done)
            powers[:, done : done + more] = powers[:, :more] * powers[:, done - 1 : done]
            done += more
        both = np.stack([now[:, :n], (ahead - now)[:, :n]], axis=1) @ powers  # (frame, 2, sample)
        audio[first:end] = both[:, 0].imag + both[:, 1].imag * ramp
    return audio.ravel()


def shaped_noise(envelope: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with the amplitude spectrum `envelope` (n_frames, HOP + 1); (n_frames * HOP,) float32.

    An envelope of ones has unit variance.
    """
    n_frames, n_bins = envelope.shape
    audio = np.zeros((n_frames + 2) * HOP, dtype=np.float32)
    frames = np.flatnonzero(envelope.max(axis=1) > 1e-5)
    draw = rng.standard_normal((2, len(frames), n_bins), dtype=np.float32)
    pieces = np.fft.irfft((draw[0] + 1j * draw[1]) * envelope[frames], axis=1)
    pieces *= np.sqrt(np.hanning(2 * HOP + 1)[:-1] * HOP)  # powers of neighbours add to one
    halves = audio.reshape(-1, HOP)
    halves[frames] += pieces[:, :HOP]
    halves[frames + 1] += pieces[:, HOP:]
    return audio[HOP : (n_frames + 1) * HOP]


def n_harmonics(f0_hz: np.ndarray, limit: int) -> int:
    """Enough harmonics for the lowest voiced pitch, at most `limit`."""
    lowest = np.min(f0_hz[f0_hz > 0], initial=1000.0)
    return int(np.clip(TOP_HZ / lowest, 6, limit))


def band_limited(spectrum: np.ndarray, freq_hz: np.ndarray) -> np.ndarray:
    """The harmonics faded out towards TOP_HZ."""
    return spectrum * np.clip((TOP_HZ - freq_hz) / 2000, 0, 1)


def levelled(spectrum: np.ndarray, amount: float) -> np.ndarray:
    """Scaled to unit power in each frame, by `amount` (1: wholly), and to unit power on average."""
    power = np.sqrt(np.sum(np.abs(spectrum) ** 2, axis=0)) + 1e-9
    spectrum = spectrum / power**amount
    return spectrum / np.sqrt(np.mean(np.sum(np.abs(spectrum) ** 2, axis=0)))


def loudness_curve(
    f0_hz: np.ndarray,
    onsets: list[int],
    attack: int,
    release: int,
    dip: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Linear loudness of each frame, 0 where unvoiced.

    `attack` and `release` in frames shape the voiced runs; `dip` (0..1) is how far the sound may
    give way where a note begins inside a run. Phrases swell by a few dB.
    """
    swell_db = ndimage.gaussian_filter1d(rng.standard_normal(len(f0_hz)), 50) * 25
    curve = np.zeros(len(f0_hz))
    for first, end in voiced_runs(f0_hz):
        frames = np.arange(1, end - first + 1)
        rise = 0.15 + 0.85 * np.minimum(frames / attack, 1)
        fall = 0.15 + 0.85 * np.minimum(frames[::-1] / release, 1)
        curve[first:end] = rise * fall
    notch = np.array([0.25, 0.6, 0.9, 1, 0.9, 0.6, 0.3, 0.1])
    for onset in onsets:
        low, high = max(onset - 3, 0), min(onset + 5, len(curve))
        curve[low:high] *= 1 - dip * rng.random() * notch[low - onset + 3 : high - onset + 3]
    return curve * 10 ** (np.clip(swell_db, -6, 6) / 20)
