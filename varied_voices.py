"""Recordings of lone voices, made into other singers: another register and tract, vibrato, effects.

A few dozen singers of pop and of exercises stand for all voices. Played back faster or slower, with
a speed that swings, a recording keeps everything that makes it real, while register, formants,
tempo and vibrato change together; its F0 is known exactly, since it is multiplied by the speed.
"""

import numpy as np
from scipy import ndimage

LOWEST_HZ, HIGHEST_HZ = 68.0, 980.0  # just inside C2..B5
LARGEST_SHIFT = 8.0  # semitones


def vary_voice(
    audio: np.ndarray,
    times_s: np.ndarray,
    f0_hz: np.ndarray,
    reliable: np.ndarray,
    sample_rate: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Another singer with the same song.

    Parameters
    ----------
    audio : np.ndarray [shape=(n_samples,)]
        A lone voice, mono.
    times_s, f0_hz, reliable : np.ndarray [shape=(n,)]
        Its annotation: seconds, Hz (0 unvoiced), whether the F0 can be trusted.
    sample_rate : int
        Hz.

    Returns
    -------
    The same four, of another length: audio float32 [shape=(m_samples,)], annotation [shape=(m,)]
    in the same time steps.
    """
    speed = playback_speed(len(audio), f0_hz, sample_rate, rng)
    position = np.cumsum(speed) - speed[0]  # in samples of `audio`
    n_samples = int(np.searchsorted(position, len(audio) - 1))
    position, speed = position[:n_samples], speed[:n_samples]
    varied = ndimage.map_coordinates(audio.astype(np.float32), [position], order=3, mode="nearest")
    step_s = float(np.median(np.diff(times_s)))
    new_times_s = np.arange(times_s[0], n_samples / sample_rate, step_s)
    sample = np.minimum((new_times_s * sample_rate).astype(int), n_samples - 1)
    source = np.clip(np.round((position[sample] / sample_rate - times_s[0]) / step_s).astype(int),
                     0, len(f0_hz) - 1)  # fmt: skip
    return (
        processed(varied, sample_rate, rng).astype(np.float32),
        new_times_s,
        f0_hz[source] * speed[sample],
        reliable[source],
    )


def playback_speed(
    n_samples: int, f0_hz: np.ndarray, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Speed at each output sample, enough of them for the whole recording.

    A shift of 2 to 8 semitones up or down, as the voice's range allows, and in half of the
    recordings a vibrato of 30 to 130 cents that comes and goes.
    """
    shift = choose_shift(f0_hz, rng)
    n_output = int(n_samples / 2 ** ((shift - 1.5) / 12))
    semitones = np.full(n_output, shift)
    if rng.random() < 0.5:
        time_s = np.arange(n_output) / sample_rate
        coarse = ndimage.gaussian_filter1d(rng.standard_normal(n_output // 1000 + 2), 15)
        coarse = np.clip(0.6 + coarse / max(np.std(coarse), 1e-9) * 0.4, 0, 1)
        depth = np.interp(np.arange(n_output) / 1000, np.arange(len(coarse)), coarse)
        swing = np.sin(2 * np.pi * rng.uniform(4.5, 7.0) * time_s)
        semitones += rng.uniform(0.3, 1.3) * depth * swing
    return 2 ** (semitones / 12)


def choose_shift(f0_hz: np.ndarray, rng: np.random.Generator) -> float:
    """Semitones, 2 to LARGEST_SHIFT up or down, that keep the voice within C2..B5; else 0."""
    voiced_hz = f0_hz[f0_hz > 0]
    if not len(voiced_hz):
        return 0.0
    low_hz, high_hz = np.percentile(voiced_hz, [3, 97])
    lowest = max(-LARGEST_SHIFT, 12 * np.log2(LOWEST_HZ / low_hz))
    highest = min(LARGEST_SHIFT, 12 * np.log2(HIGHEST_HZ / high_hz))
    choices = [rng.uniform(2, highest)] if highest > 2 else []
    choices += [rng.uniform(lowest, -2)] if lowest < -2 else []
    return float(rng.choice(choices)) if choices else 0.0


def processed(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """What a studio does to a voice: compression, in a third of the recordings saturation."""
    window = int(0.05 * sample_rate)
    power = ndimage.uniform_filter1d(np.square(audio, dtype=np.float64), window)
    envelope = np.sqrt(np.maximum(power, 0))
    loud = np.percentile(envelope, 95) + 1e-9
    audio = audio * np.maximum(envelope / loud, 0.05) ** -rng.uniform(0, 0.6)
    if rng.random() < 0.33:
        drive = rng.uniform(1, 6) / (np.abs(audio).max() + 1e-9)
        audio = np.tanh(audio * drive) / drive
    return audio
