"""Instruments of the synthetic corpus: additive leads on an F0 curve, single notes, drums."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import signal

from labels import midi_to_hz
from tones import (
    FRAME_S,
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
)

AUDIBLE = 10 ** (-35 / 20)  # of a note's peak: below it a decaying note counts as unvoiced
# Lowest and highest MIDI key of every lead.
BLOWN = {
    **{"sax": (49, 80), "clarinet": (50, 83), "flute": (60, 83), "trumpet": (54, 82)},
    **{"oboe": (58, 83), "violin": (55, 83), "cello": (36, 72)},
}
SYNTHESISERS = {"saw": (42, 83), "square": (42, 83), "fm": (42, 83)}
GUITARS = {"guitar": (42, 80), "distorted guitar": (42, 80)}
TEMPERED = {"piano": (48, 83), "epiano": (46, 83), "vibraphone": (53, 83), "marimba": (50, 83)}
INSTRUMENTS = {**BLOWN, **SYNTHESISERS, **GUITARS, **TEMPERED}


def peak(freq_hz: np.ndarray, centre_hz: float, octaves: float, gain_db: float) -> np.ndarray:
    """A resonance as a linear gain."""
    distance = np.log2(np.maximum(freq_hz, 20) / centre_hz) / octaves
    return 10 ** (gain_db / 20 * np.exp(-(distance**2)))


def low_pass(freq_hz: np.ndarray, corner_hz: np.ndarray | float, order: float) -> np.ndarray:
    """Gain of a gentle low-pass."""
    return 1 / np.sqrt(1 + (freq_hz / corner_hz) ** (2 * order))


def blown_spectrum(kind: str, k, freq, loud, rng: np.random.Generator) -> np.ndarray:
    """Amplitudes of wind and bowed instruments, brighter when loud; (n_harmonics, n_frames)."""
    slope = k ** -rng.uniform(0.7, 1.2)
    if kind == "sax":
        body = peak(freq, rng.uniform(500, 850), 0.7, 9) * peak(
            freq, rng.uniform(1200, 1900), 0.5, 6
        )
        return slope * body * low_pass(freq, 1500 + 3000 * loud, 1.5)
    if kind == "clarinet":
        even = np.where(k % 2, 1.0, np.clip(freq / rng.uniform(2500, 5000), 0.05, 0.8))
        return slope * even * low_pass(freq, 1200 + 2500 * loud, 2)
    if kind == "flute":
        first = np.where(k == 1, rng.uniform(0.6, 1.5), 1.0)
        return first * np.exp(-k * rng.uniform(0.5, 1.0)) * low_pass(freq, 1500 + 2500 * loud, 2)
    if kind == "trumpet":
        bright = np.exp(-freq / (500 + rng.uniform(1200, 3000) * loud**1.5))
        return bright * peak(freq, rng.uniform(1000, 1500), 0.8, 8)
    if kind == "oboe":
        body = peak(freq, 1050, 0.5, 12) * peak(freq, 2900, 0.3, 8)
        return k**-0.6 * body * low_pass(freq, 2500, 2)
    body = low_pass(freq, 2500 + 4000 * loud, 1.5)
    low_hz, high_hz = (260, 3800) if kind == "violin" else (100, 2200)
    for centre_hz in np.geomspace(low_hz, high_hz, 9) * rng.uniform(0.9, 1.1, 9):
        body = body * peak(freq, centre_hz, rng.uniform(0.06, 0.2), rng.uniform(-6, 9))
    return slope * body


def synth_spectrum(kind: str, k, freq, since_s, rng: np.random.Generator) -> np.ndarray:
    """Amplitudes of synthesisers: a waveform through a filter that closes after the onset."""
    if kind == "saw":
        shape = 1 / k
    elif kind == "fm":
        bell = np.exp(-(((k - rng.integers(1, 5)) / rng.uniform(0.8, 2.5)) ** 2))
        shape = bell + 0.4 * (k == 1)
    else:  # square or pulse
        width = 0.5 if rng.random() < 0.6 else rng.uniform(0.1, 0.4)
        shape = np.abs(np.sin(np.pi * k * width)) / k
    sweep = 1 + rng.uniform(0, 3) * np.exp(-since_s / rng.uniform(0.05, 0.5))
    corner_hz = rng.uniform(800, 4500) * sweep
    resonance_db = rng.uniform(0, 8) * np.exp(-((np.log2(freq / corner_hz) / 0.3) ** 2))
    return shape * low_pass(freq, corner_hz, 2) * 10 ** (resonance_db / 20)


def struck_spectrum(kind: str, k, freq, since_s, rng: np.random.Generator) -> np.ndarray:
    """Amplitudes of struck and plucked strings and bars, decaying since the onset."""
    t60_s = rng.uniform(5, 9) * (freq[:1] / 150) ** -0.55
    if kind in GUITARS:
        start = k ** -rng.uniform(0.8, 1.3) * np.abs(np.sin(np.pi * k * rng.uniform(0.08, 0.3)))
        rate = 1 + 0.15 * k
    elif kind == "piano":
        start = k ** -rng.uniform(0.9, 1.5) * low_pass(freq, rng.uniform(1500, 4000), 1)
        rate = 1 + 0.25 * k
    elif kind == "epiano":
        start = np.exp(-k * rng.uniform(0.6, 1.1)) + 0.3 * (k == rng.integers(5, 9))
        rate = np.where(k > 3, 5.0, 1.0)
    else:  # bars are tuned to sound at 1, 4 and 10 times the fundamental
        start = (k == 1) + 0.35 * (k == 4) + 0.12 * (k == 10)
        rate = np.where(k > 1, 4.0, 1.0) * (0.8 if kind == "vibraphone" else 5.0)
    return start * np.exp(-6.9 * since_s * rate / t60_s)


def struck_levels(
    kind: str, f0_hz, onsets: list[int], k, freq, since_s, rng: np.random.Generator
) -> np.ndarray:
    """Amplitudes with a velocity for each note and a damped release."""
    velocity = np.ones(len(f0_hz))
    for onset in onsets:
        velocity[onset:] = rng.uniform(0.5, 1.0)
    shape = loudness_curve(f0_hz, onsets, 1, int(rng.integers(4, 20)), 0.0, rng)
    spectrum = struck_spectrum(kind, k, freq, since_s, rng)
    starts = np.sum(spectrum[:, onsets] ** 2, axis=0)
    return band_limited(spectrum, freq) / np.sqrt(np.mean(starts) + 1e-12) * velocity * shape


def since_onset_s(n_frames: int, onsets: list[int]) -> np.ndarray:
    """Seconds since the last onset, shape (n_frames,)."""
    marks = np.zeros(n_frames, dtype=int)
    marks[onsets] = onsets
    return (np.arange(n_frames) - np.maximum.accumulate(marks)) * FRAME_S


def sounding_frames(f0_hz: np.ndarray, onsets: list[int], level: np.ndarray) -> np.ndarray:
    """Voiced frames in which `level` has not decayed out of hearing since the note's peak."""
    heard = f0_hz > 0
    bounds = sorted({*onsets, len(f0_hz)})
    for first, end in zip(bounds[:-1], bounds[1:], strict=True):
        heard[first:end] &= level[first:end] > AUDIBLE * np.max(level[first:end])
    return heard


def render_instrument(
    kind: str, f0_hz: np.ndarray, onsets: list[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A lead on an F0 curve (n_frames,), 0 = unvoiced.

    `kind` is a key of INSTRUMENTS, `onsets` the first frames of the notes.
    Returns the audio, (n_frames * HOP,), and the frames in which it sounds.
    """
    pitch = fill_rests(f0_hz)
    k = np.arange(1, n_harmonics(f0_hz, 40) + 1)[:, None]
    freq = k * pitch
    since_s = since_onset_s(len(f0_hz), onsets)
    if kind in BLOWN or kind in SYNTHESISERS:
        attack = rng.integers(5, 16) if kind in BLOWN else rng.integers(1, 6)
        loud = loudness_curve(f0_hz, onsets, attack, int(rng.integers(3, 16)), 0.8, rng)
        if kind in BLOWN:
            spectrum = blown_spectrum(kind, k, freq, np.clip(loud, 0.05, 1.2), rng)
        else:
            spectrum = synth_spectrum(kind, k, freq, since_s, rng)
        spectrum = levelled(band_limited(spectrum, freq), 0.8) * loud
    else:
        spectrum = struck_levels(kind, f0_hz, onsets, k, freq, since_s, rng)
    level = np.sqrt(np.sum(spectrum**2, axis=0))
    turn = np.exp(2j * np.pi * rng.random(len(k)))[:, None]
    audio = additive(cycles(pitch), spectrum * turn)
    if kind == "distorted guitar":  # clipping lets the note ring on
        drive = rng.uniform(2, 12)
        audio, level = amplified(audio, drive, rng), np.tanh(level * drive)
    audio = audio + playing_noise(kind, since_s, level, rng)
    return audio.astype(np.float32), sounding_frames(f0_hz, onsets, level)


def amplified(audio: np.ndarray, drive: float, rng: np.random.Generator) -> np.ndarray:
    """Clipped softly and heard through a loudspeaker's band limit."""
    speaker = signal.butter(3, rng.uniform(3000, 6000), fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(speaker, np.tanh(audio * drive))


def playing_noise(kind: str, since_s, level, rng: np.random.Generator) -> np.ndarray:
    """Breath, bow and hammer noise, (n_frames * HOP,)."""
    steady_db = {"flute": -24, "sax": -32, "violin": -34, "cello": -34, "clarinet": -40}
    steady = 10 ** ((steady_db.get(kind, -70) + rng.uniform(-8, 4)) / 20)
    attack = 0.0 if kind in SYNTHESISERS else 10 ** (rng.uniform(-34, -16) / 20)
    shape = peak(NOISE_HZ, rng.uniform(900, 4000), 1.3, 30) / 10 ** (30 / 20)
    gain = np.minimum(level, 1) * (steady + attack * np.exp(-since_s / 0.012))
    return shaped_noise((3 * gain[:, None] * shape).astype(np.float32), rng)


class Patch(NamedTuple):
    """An accompanying sound."""

    slope: float  # harmonics fall as k ** -slope
    decay_s: float  # to -60 dB; 0 for sustained tones
    attack_s: float
    release_s: float
    detune_cents: float = 0.0  # of a second oscillator
    vibrato_cents: float = 0.0
    formants_hz: tuple[float, ...] = ()
    drive: float = 0.0


def patch_of(program: int, rng: np.random.Generator) -> Patch:
    """A sound in the family of a General MIDI program (from 0)."""
    if program < 8:
        return Patch(rng.uniform(1.2, 2.2), rng.uniform(3, 8), 0.003, 0.12)
    if program < 16:
        return Patch(rng.uniform(2, 3), rng.uniform(1, 4), 0.002, 0.3)
    if program < 24:
        return Patch(rng.uniform(0.6, 1.5), 0.0, 0.01, 0.05, rng.uniform(0, 6))
    if program in (29, 30):
        return Patch(rng.uniform(0.8, 1.3), 12.0, 0.004, 0.05, drive=rng.uniform(2, 8))
    if program < 40:
        return Patch(rng.uniform(1.1, 2.2), rng.uniform(2, 6), 0.004, 0.08)
    if program in (52, 53, 54, 91):
        formants_hz = ((700, 1150, 2700), (350, 800, 2600), (500, 1500, 2500))[rng.integers(3)]
        return Patch(1.2, 0.0, rng.uniform(0.05, 0.2), 0.15, rng.uniform(4, 14), 25, formants_hz)
    if program < 56:
        return Patch(
            rng.uniform(0.8, 1.3), 0.0, rng.uniform(0.04, 0.2), 0.2, rng.uniform(4, 12), 12
        )
    if program < 80:
        return Patch(rng.uniform(0.7, 1.6), 0.0, rng.uniform(0.02, 0.06), 0.08, 0.0, 15)
    if program < 104:
        return Patch(rng.uniform(0.7, 1.6), 0.0, rng.uniform(0.003, 0.3), 0.15, rng.uniform(3, 14))
    return Patch(rng.uniform(0.9, 1.6), rng.uniform(1, 3), 0.003, 0.1)


def note_player(program: int, rng: np.random.Generator) -> Callable[[float, float], np.ndarray]:
    """A function (MIDI key, seconds) -> wave; repeated notes are rendered once."""
    patch = patch_of(program, rng)
    colour_db = rng.normal(0, 3, 24)
    turns = np.exp(2j * np.pi * rng.random(24))
    vibrato_hz, size = rng.uniform(4.5, 6.5), 4096

    @lru_cache(512)
    def play(key: float, seconds: float) -> np.ndarray:
        f0_hz = midi_to_hz(key)
        k = np.arange(1, int(np.clip(9000 / f0_hz, 1, 24)) + 1)
        gains = k**-patch.slope * 10 ** (colour_db[: len(k)] / 20)
        for centre_hz in patch.formants_hz:
            gains = gains * (0.3 + peak(k * f0_hz, centre_hz, 0.25, 12))
        gains /= np.sqrt(np.sum(gains**2))
        time_s = np.arange(int((seconds + patch.release_s) * SAMPLE_RATE)) / SAMPLE_RATE
        depth = patch.vibrato_cents / 1200 * np.log(2) * f0_hz / (2 * np.pi * vibrato_hz)
        phase = f0_hz * time_s + depth * np.cos(2 * np.pi * vibrato_hz * time_s)
        ends = np.clip((seconds + patch.release_s - time_s) / patch.release_s, 0, 1)
        level = np.minimum(1, time_s / patch.attack_s) * ends
        wave = np.zeros(len(time_s))
        for dark in (True, False):  # the upper harmonics of struck strings die first
            band = np.where((k <= 3) == dark, gains, 0.0) * turns[: len(k)]
            table = np.fft.irfft(np.r_[0, band, np.zeros(size // 2 - len(k))]) * size
            tone = table[(phase * size).astype(int) % size]
            if patch.detune_cents:
                second = phase * 2 ** (patch.detune_cents / 1200) + 0.37
                tone = 0.7 * (tone + table[(second * size).astype(int) % size])
            fall = 6.9 / patch.decay_s * (1 if dark else 3) if patch.decay_s else 0.0
            wave += tone * np.exp(-fall * time_s)
        if patch.drive:
            wave = np.tanh(patch.drive * wave)
        return (wave * level).astype(np.float32)

    return play


def drum_player(rng: np.random.Generator) -> Callable[[float, float], np.ndarray]:
    """A function (key of the General MIDI drum map, seconds) -> wave of a synthesised kit."""
    kick_hz, snare_hz, snare_s = rng.uniform(42, 62), rng.uniform(160, 230), rng.uniform(0.1, 0.25)
    cymbal_hz = rng.uniform(4000, 8000)

    @lru_cache(64)
    def play(key: float, seconds: float) -> np.ndarray:
        tom, kick = key in (41, 43, 45, 47, 48, 50), key in (35, 36)
        snare = key in (37, 38, 39, 40)
        t60_s = {42: 0.08, 44: 0.1, 46: 0.5, 49: 1.6, 51: 0.9, 37: 0.08}.get(int(key), 0.35)
        t60_s = snare_s * 2 if key in (38, 40) else t60_s
        time_s = np.arange(int(t60_s * SAMPLE_RATE)) / SAMPLE_RATE
        noise = rng.standard_normal(len(time_s))
        fall = np.exp(-6.9 * time_s / t60_s)
        if kick or tom:
            base_hz = kick_hz if kick else 75 + 9 * (key - 41)
            phase = base_hz * time_s + (2.0 if kick else 0.6) * (1 - np.exp(-time_s * 45))
            return (1.6 * np.sin(2 * np.pi * phase) * fall + 0.2 * noise * fall**12).astype("f4")
        band = (900, 8000) if snare else (cymbal_hz, 16_000)
        sos = signal.butter(2, band, "bandpass", fs=SAMPLE_RATE, output="sos")
        wave = signal.sosfilt(sos, noise) * fall * (1.0 if snare else 0.5)
        if snare:
            wave += 0.5 * np.sin(2 * np.pi * snare_hz * time_s) * fall**2
        return wave.astype("f4")

    return play
