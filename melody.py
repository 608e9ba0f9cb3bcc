"""Melodies of the synthetic corpus: who has the lead, its notes, and how they are performed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from arrangement import MAJOR
from instruments import INSTRUMENTS, TEMPERED, render_instrument
from labels import hz_to_midi, hz_to_semitone, midi_to_hz
from tones import FRAME_S, HOP, voiced_runs
from voices import random_voice, render_voice

# Lowest and highest MIDI key, formants relative to a man's, whether trained for opera.
SINGERS = (
    *((38, 60, 0.97, False), (43, 65, 1.0, False), (47, 70, 1.04, False), (53, 74, 1.14, False)),
    *((56, 79, 1.18, False), (60, 81, 1.3, False)),
    *((40, 64, 1.0, True), (48, 71, 1.03, True), (57, 83, 1.16, True)),
)


class Manner(NamedTuple):
    """How a performer shapes pitch. All zero: tempered notes."""

    vibrato_hz: float = 0.0
    vibrato_cents: float = 0.0  # peak deviation
    glide_s: float = 0.0  # from note to note
    scoops: float = 0.0  # share of notes reached from below
    drift_cents: float = 0.0
    legato: float = 0.0  # share of notes joined to the one before


def random_manner(sung: bool, opera: bool, rng: np.random.Generator) -> Manner:
    """The habits of a singer or of a player of an instrument without fixed pitches."""
    depth = rng.uniform(60, 120) if opera else rng.choice([0, 20, 35, 60]) * rng.uniform(0.6, 1.4)
    return Manner(
        vibrato_hz=rng.uniform(4.5, 7.0),
        vibrato_cents=depth if sung or opera else min(depth, 40),
        glide_s=rng.uniform(0.03, 0.15) if sung else rng.uniform(0.005, 0.06),
        scoops=rng.uniform(0, 0.5) if sung else rng.uniform(0, 0.15),
        drift_cents=rng.uniform(5, 20) if sung else rng.uniform(0, 6),
        legato=rng.uniform(0.2, 0.9),
    )


def compose_notes(
    range_midi: tuple[float, float], step_s: float, n_frames: int, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Notes (first frame, end frame, MIDI key) of a tune with phrases and rests.

    A walk over a major or minor pentatonic or diatonic scale inside `range_midi`; `step_s` is a
    sixteenth. Most songs have one or two passages of 4-10 s without a lead.
    """
    span = rng.integers(10, 20)
    low = rng.uniform(range_midi[0], max(range_midi[1] - span, range_midi[0] + 1))
    scale = MAJOR if rng.random() < 0.7 else MAJOR[[0, 1, 2, 4, 5]]
    tonic = rng.integers(12)
    ladder = [m for m in range(int(low), int(min(low + span, range_midi[1])) + 1)
              if (m - tonic) % 12 in scale]  # fmt: skip
    lengths = rng.choice([1, 2, 2, 3, 4, 4, 6, 8, 12, 16], rng.integers(3, 7))
    rung, time_s, left_s, notes = len(ladder) // 2, rng.uniform(0, 2), rng.uniform(3, 10), []
    end_s = n_frames * FRAME_S
    gaps = [rng.uniform(0, end_s) for _ in range(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25]))]
    while time_s < end_s:
        length_s = max(int(rng.choice(lengths)) * step_s, 0.07)
        leap = rng.choice([-5, -3, -2, -1, -1, 0, 1, 1, 2, 3, 5])
        rung = int(np.clip(rung + leap, 0, len(ladder) - 1))
        frames = int(time_s / FRAME_S), int(min(time_s + length_s, end_s) / FRAME_S)
        if frames[1] - frames[0] >= 8:
            notes.append((*frames, ladder[rung]))
        time_s += length_s
        left_s -= length_s
        if left_s < 0:
            time_s += int(rng.choice([1, 2, 4, 8])) * step_s
            left_s = rng.uniform(3, 10)
        if gaps and time_s > min(gaps):
            gaps.remove(min(gaps))
            time_s += rng.uniform(4, 10)
    return notes


def perform(
    notes: list[tuple[int, int, int]], manner: Manner, n_frames: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    """F0 in Hz (n_frames,), 0 between notes, and the first frame of every note."""
    midi = np.full(n_frames, np.nan)
    before = None
    for index, (start, end, key) in enumerate(notes):
        following = notes[index + 1][0] if index + 1 < len(notes) else n_frames
        joined = following == end and rng.random() < manner.legato
        silence = 0 if joined else int(rng.integers(3, 18))
        end = max(end - silence, start + 8)
        time_s = np.arange(end - start) * FRAME_S
        curve = np.full(len(time_s), float(key))
        if before is not None and manner.glide_s:
            curve += (before - key) * special.expit(3 - 6 * time_s / manner.glide_s)
        elif rng.random() < manner.scoops:
            curve -= rng.uniform(0.4, 3) * np.exp(-time_s / rng.uniform(0.03, 0.1))
        midi[start:end] = (curve + vibrato(time_s, manner, rng))[: n_frames - start]
        before = key if joined else None
    drift = ndimage.gaussian_filter1d(rng.standard_normal(n_frames), 30)
    midi += drift / max(np.std(drift), 1e-9) * manner.drift_cents / 100
    f0_hz = np.where(np.isfinite(midi), midi_to_hz(np.nan_to_num(midi, nan=60.0)), 0.0)
    return f0_hz, [start for start, *_ in notes]


def vibrato(time_s: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Semitones of a vibrato that sets in after a while, at the times of one note."""
    delay_s, grow_s = rng.uniform(0, 0.3), rng.uniform(0.1, 0.5)
    depth = manner.vibrato_cents / 100 * rng.uniform(0.6, 1.1)
    rate_hz = manner.vibrato_hz * rng.uniform(0.93, 1.07)
    swing = np.sin(2 * np.pi * rate_hz * time_s + rng.uniform(0, 2 * np.pi))
    return depth * np.clip((time_s - delay_s) / grow_s, 0, 1) * swing


def note_starts(f0_hz: np.ndarray) -> list[int]:
    """First frames of the notes in a contour: voiced runs, cut where the pitch settles elsewhere.

    The pitch is smoothed by a running median over 0.24 s, so that vibrato does not cut notes.
    """
    starts = []
    for first, end in voiced_runs(f0_hz):
        smooth = ndimage.median_filter(hz_to_semitone(f0_hz[first:end]), 41, mode="nearest")
        starts.append(first)
        key = smooth[0]
        for frame in range(first + 1, end):
            if abs(smooth[frame - first] - key) > 0.7 and frame - starts[-1] >= 12:
                starts.append(frame)
                key = smooth[min(frame - first + 10, end - first - 1)]
    return starts


def tuning_semitones(midi: np.ndarray) -> float:
    """How far pitches (NaN in rests) lie from equal temperament at 440 Hz, -0.5..0.5."""
    turns = np.exp(2j * np.pi * midi[np.isfinite(midi)])
    return float(np.angle(turns.mean()) / (2 * np.pi)) if len(turns) else 0.0


@dataclass(frozen=True)
class Lead:
    """Who has the melody."""

    kind: str  # "voice" or a key of INSTRUMENTS
    range_midi: tuple[float, float]
    tract: float = 1.0  # formants relative to a man's
    opera: bool = False

    def render(
        self, f0_hz: np.ndarray, onsets: list[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Audio (n_frames * HOP,) and the F0 that can be heard in it (n_frames,)."""
        if not np.any(f0_hz > 0):
            return np.zeros(len(f0_hz) * HOP, dtype=np.float32), f0_hz
        if self.kind == "voice":
            voice = random_voice(self.tract, self.opera, rng)
            return render_voice(f0_hz, onsets, voice, rng), f0_hz
        audio, sounding = render_instrument(self.kind, f0_hz, onsets, rng)
        return audio, np.where(sounding, f0_hz, 0.0)


def choose_lead(rng: np.random.Generator, midi: np.ndarray | None = None) -> Lead:
    """A singer or, as often, an instrument; one that can play `midi` (NaN in rests) if given.

    Tempered instruments cannot follow a given contour and are left out then.
    """
    singers = [Lead("voice", (low, high), tract, opera) for low, high, tract, opera in SINGERS]
    players = [Lead(kind, INSTRUMENTS[kind]) for kind in sorted(INSTRUMENTS)]
    choices = singers if rng.random() < 0.5 else players
    if midi is not None and np.isfinite(midi).any():
        low, high = np.nanpercentile(midi, [10, 90])
        outside = [
            max(lead.range_midi[0] - low, 0) + max(high - lead.range_midi[1], 0)
            + 99 * (lead.kind in TEMPERED)
            for lead in choices
        ]  # fmt: skip
        choices = [
            c for c, far in zip(choices, outside, strict=True) if far <= max(min(outside), 2)
        ]
    return choices[rng.integers(len(choices))]


def compose_lead(
    step_s: float, n_frames: int, rng: np.random.Generator
) -> tuple[Lead, np.ndarray, list[int]]:
    """A lead with its own tune: F0 (n_frames,) and the first frames of the notes."""
    lead = choose_lead(rng)
    sung = lead.kind == "voice"
    manner = Manner() if lead.kind in TEMPERED else random_manner(sung, lead.opera, rng)
    notes = compose_notes(lead.range_midi, step_s, n_frames, rng)
    f0_hz, onsets = perform(notes, manner, n_frames, rng)
    tuning_cents = rng.normal(0, 12) * (rng.random() < 0.5)
    return lead, f0_hz * 2 ** (tuning_cents / 1200), onsets


def follow_contour(
    contour_hz: np.ndarray, n_frames: int, rng: np.random.Generator
) -> tuple[Lead, np.ndarray, list[int]]:
    """A lead that follows a contour exactly; a contour too short is followed by silence."""
    if not np.all(np.isfinite(contour_hz)) or np.any(np.asarray(contour_hz) < 0):
        raise ValueError("contour_hz holds NaN, infinite or negative values; unvoiced frames are 0")
    f0_hz = np.zeros(n_frames)
    f0_hz[: min(n_frames, len(contour_hz))] = contour_hz[:n_frames]
    return choose_lead(rng, hz_to_midi(f0_hz)), f0_hz, note_starts(f0_hz)
