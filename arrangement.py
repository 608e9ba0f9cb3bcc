"""Accompaniments as notes: harmony that fits a melody, and parts in the manner of a style.

Pure NumPy: what to play, not how it sounds (`synthesis.py` and `soundfonts.py` render it). Styles,
rhythms and the numbers of programs are those of `styles.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config import feature_config
from labels import semitone_to_hz
from styles import BASS, COMP, DRUMS, KITS, Style
from styles import STYLES as STYLES  # offered to those who render

MIDI_C2 = 36
HOP_S = feature_config.hop_seconds
MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key.
KEY_PROFILES = np.array(
    [
        [6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88],
        [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17],
    ]
)


class Note(NamedTuple):
    """One note of an accompaniment."""

    start_s: float
    end_s: float
    key: int  # MIDI
    velocity: int


class Part(NamedTuple):
    """One accompanying player."""

    program: int
    level_db: float  # against the other parts, RMS
    notes: list[Note]


@dataclass(frozen=True)
class Harmony:
    """Metre and chords of a song."""

    step_s: float  # a sixteenth
    steps: int  # sixteenths in a bar: 16, or 12 in three
    swing: float
    scale: np.ndarray  # (7,) pitch classes of the key
    chords: list[tuple[int, ...]]  # pitch classes of each bar's chord, root first

    @property
    def bar_s(self) -> float:
        return self.step_s * self.steps

    def time_s(self, bar: int, step: float) -> float:
        late = self.swing * self.step_s if int(step) % 4 == 2 else 0.0
        return bar * self.bar_s + step * self.step_s + late


def choose_harmony(
    midi: np.ndarray, step_s: float, steps: int, style: Style, rng: np.random.Generator
) -> Harmony:
    """Chords for a melody, fractional MIDI a frame with NaN in rests.

    The best-fitting key by its pitch-class histogram, then for each bar a diatonic chord that
    holds the bar's notes.
    """
    classes = np.where(np.isfinite(midi), np.round(np.nan_to_num(midi)), -1).astype(int)
    whole = np.bincount(classes[classes >= 0] % 12, minlength=12) + rng.uniform(0, 1, 12)
    fits = [
        np.corrcoef(np.roll(p, tonic), whole)[0, 1] for p in KEY_PROFILES for tonic in range(12)
    ]
    best = int(np.argmax(fits))
    tonic = best if best < 12 else (best - 12 + 3) % 12  # of the (relative) major
    scale = (MAJOR + tonic) % 12
    n_bars = int(np.ceil(len(midi) * HOP_S / (step_s * steps)))
    frames = np.round(np.arange(n_bars + 1) * step_s * steps / HOP_S).astype(int)
    prior = np.array([1.0, 0.5, 0.3, 0.9, 0.9, 0.8, -1.5])  # I ii iii IV V vi vii
    chords, last = [], -1
    for bar in range(n_bars):
        sung = classes[frames[bar] : frames[bar + 1]]
        share = np.bincount(sung[sung >= 0] % 12, minlength=12) / max(len(sung), 1)
        triads = [scale[[d, (d + 2) % 7, (d + 4) % 7]] for d in range(7)]
        score = np.array([share[t].sum() for t in triads]) * 4 + prior + rng.gumbel(0, 0.4, 7)
        score[last] -= 0.8 if last >= 0 else 0.0
        last = int(np.argmax(score))
        seventh = (int(scale[(last + 6) % 7]),) if rng.random() < style.sevenths else ()
        chords.append(tuple(int(c) for c in triads[last]) + seventh)
    return Harmony(step_s, steps, style.swing, scale, chords)


def compose_contour(rng: np.random.Generator, n_frames: int, step_s: float) -> np.ndarray:
    """A composed melody as F0 in Hz, shape (n_frames,), 0 in rests and between notes.

    A walk in a random major scale, with glides into notes, vibrato that grows in long ones, and
    rests between phrases.
    """
    tonic, degree = int(rng.integers(12)), int(rng.integers(-2, 9))
    vibrato_hz, depth = rng.uniform(4.5, 6.5), rng.choice([0.0, 0.15, 0.35, 0.6])
    midi = np.full(n_frames, np.nan)
    frame, before = int(rng.uniform(0, 2) / HOP_S), None
    while frame < n_frames:
        length = int(rng.choice([2, 4, 4, 6, 8, 12, 16]) * step_s / HOP_S)
        degree = int(np.clip(degree + rng.choice([-4, -2, -1, -1, 0, 1, 1, 2, 4]), -3, 11))
        pitch = 60 + tonic + 12 * (degree // 7) + MAJOR[degree % 7]
        time_s = np.arange(length) * HOP_S
        note = pitch + depth * np.clip(time_s * 2 - 0.3, 0, 1) * np.sin(
            2 * np.pi * vibrato_hz * time_s
        )
        if before is not None and before != pitch and rng.random() < 0.6:
            note = note + (before - pitch) * np.exp(-time_s / rng.uniform(0.008, 0.04))
        gap = 0 if rng.random() < 0.5 and length > 40 else rng.integers(4, 12)
        kept = note[: max(length - gap, 12)][: n_frames - frame]
        midi[frame : frame + len(kept)] = kept
        before = pitch if gap == 0 else None
        frame += max(length, len(kept))
        if rng.random() < 0.15:
            frame, before = frame + int(rng.choice([4, 8, 16, 32]) * step_s / HOP_S), None
    return np.where(np.isfinite(midi), semitone_to_hz(np.nan_to_num(midi) - MIDI_C2), 0.0)


def near(pitch_class: int, centre: float) -> int:
    """The MIDI key of a pitch class nearest to `centre`."""
    return int(pitch_class + 12 * round((centre - pitch_class) / 12))


def _humanise(velocity: float, rng: np.random.Generator) -> int:
    return int(np.clip(velocity + rng.normal(0, 6), 20, 120))


def _drum_notes(harmony: Harmony, name: str, rng: np.random.Generator) -> list[Note]:
    """A pattern with small changes, fills every four bars and a crash after them."""
    patterns, notes = DRUMS[name], []
    every, base = int(rng.choice([4, 8])), int(rng.integers(len(patterns)))
    for bar in range(len(harmony.chords)):
        section = (base + bar // 8) % len(patterns)
        fill = harmony.steps // 2 if bar % every == every - 1 else harmony.steps
        for key, rhythm in patterns[section].items():
            for step, mark in enumerate(rhythm[:fill]):
                if mark == "." or (mark == "o" and rng.random() < 0.2):
                    continue
                start = max(0.0, harmony.time_s(bar, step) + rng.normal(0, 0.004))
                notes.append(
                    Note(start, start + 0.1, key, _humanise(100 if mark == "x" else 60, rng))
                )
        for step in range(fill, harmony.steps):
            if rng.random() < 0.75:
                key = [50, 48, 47, 45, 43, 38][min(5, (step - fill) * 6 // (harmony.steps - fill))]
                start = harmony.time_s(bar, step)
                notes.append(Note(start, start + 0.1, key, _humanise(90, rng)))
        if bar % every == 0 and bar and rng.random() < 0.7:
            notes.append(Note(bar * harmony.bar_s, bar * harmony.bar_s + 0.5, 49, 100))
    return notes


def _walk(chord: tuple[int, ...], root: int, step: int, scale: np.ndarray, rng) -> int:
    """A key of a walking bass: the root on the first beat, then steps of chord and scale."""
    if step == 0:
        return root
    choices = chord if rng.random() < 0.6 else tuple(scale)
    return near(int(rng.choice(choices)), root + rng.integers(-3, 9))


def _bass_notes(harmony: Harmony, name: str, rng: np.random.Generator) -> list[Note]:
    rhythm, centre = BASS[name][: harmony.steps], rng.uniform(35, 42)
    hits = [step for step, mark in enumerate(rhythm) if mark != "."]
    gate, notes = rng.uniform(0.6, 1.0), []
    for bar, chord in enumerate(harmony.chords):
        root = near(chord[0], centre)
        for step, after in zip(hits, hits[1:] + [harmony.steps], strict=True):
            offset = {"R": 0, "5": 7, "8": 12}.get(rhythm[step])
            key = _walk(chord, root, step, harmony.scale, rng) if offset is None else root + offset
            start = harmony.time_s(bar, step)
            end = start + (after - step) * harmony.step_s * gate
            notes.append(Note(start, end, key, _humanise(95, rng)))
    return notes


def _voicings(harmony: Harmony, centre: float) -> list[list[int]]:
    """Each bar's chord, its notes as near to `centre` as they lie: smooth voice leading."""
    return [sorted(near(c, centre + i) for i, c in enumerate(chord)) for chord in harmony.chords]


def _comp_notes(
    harmony: Harmony, rhythm: str, centre: float, rng: np.random.Generator
) -> list[Note]:
    hits = [step for step, mark in enumerate(rhythm[: harmony.steps]) if mark != "."]
    gate, strum_s, notes = rng.uniform(0.4, 1.0), rng.choice([0.0, 0.008, 0.02]), []
    for bar, keys in enumerate(_voicings(harmony, centre)):
        for step, after in zip(hits, hits[1:] + [harmony.steps], strict=True):
            if rng.random() < 0.07:
                continue
            start = harmony.time_s(bar, step)
            end = start + (after - step) * harmony.step_s * gate
            velocity = _humanise(85 if rhythm[step] == "x" else 60, rng)
            notes += [
                Note(start + i * strum_s, end + 0.05, k, velocity) for i, k in enumerate(keys)
            ]
    return notes


def _arpeggio_notes(harmony: Harmony, centre: float, rng: np.random.Generator) -> list[Note]:
    every, shape = int(rng.choice([1, 2, 2])), rng.integers(3)
    sustain, notes = rng.uniform(1.0, 4.0), []
    for bar, keys in enumerate(_voicings(harmony, centre)):
        keys = keys + [keys[0] + 12]
        order = [keys, keys[::-1], keys + keys[-2:0:-1]][shape]
        for i, step in enumerate(range(0, harmony.steps, every)):
            start = harmony.time_s(bar, step)
            end = start + every * harmony.step_s * sustain
            notes.append(Note(start, end, order[i % len(order)], _humanise(75, rng)))
    return notes


def _filler_notes(
    harmony: Harmony, lead_share: np.ndarray, centre: float, rng: np.random.Generator
) -> list[Note]:
    """A counter-melody that answers the lead, or a riff moved to the chord of every bar.

    The answers are few in bars where the lead plays (`lead_share` of each bar), many where it
    rests.
    """
    riff = rng.random() < 0.3
    pattern = [
        (int(s), int(rng.integers(4))) for s in range(0, harmony.steps, 2) if rng.random() < 0.5
    ]
    notes, key = [], centre
    for bar, chord in enumerate(harmony.chords):
        busy = 0.12 if lead_share[bar] > 0.4 else 0.55
        steps = (
            pattern if riff else [(s, 0) for s in range(0, harmony.steps, 2) if rng.random() < busy]
        )
        for i, (step, index) in enumerate(steps):
            choices = chord if step % 4 == 0 else tuple(harmony.scale)
            key = (
                near(chord[index % len(chord)], centre)
                if riff
                else near(int(rng.choice(choices)), 0.5 * key + 0.5 * centre + rng.normal(0, 3))
            )
            after = steps[i + 1][0] if i + 1 < len(steps) else harmony.steps
            start = harmony.time_s(bar, step)
            end = start + min(after - step, 6) * harmony.step_s * 0.9
            notes.append(Note(start, end, int(key), _humanise(85, rng)))
    return notes


def _double_notes(
    lead_notes: list[tuple[float, float, int]], scale: np.ndarray, rng: np.random.Generator
) -> list[Note]:
    """The lead's notes an octave or a diatonic third or sixth away, in some of its phrases."""
    degrees = int(rng.choice([-7, 7, 2, -2, -5]))
    ladder = np.array([k for k in range(24, 100) if k % 12 in scale])
    notes, playing = [], True
    for i, (start, end, key) in enumerate(lead_notes):
        if i == 0 or start - lead_notes[i - 1][1] > 0.25:
            playing = rng.random() < 0.6
        rung = int(np.argmin(np.abs(ladder - key))) + degrees
        other = key + 12 * degrees // 7 if abs(degrees) == 7 else int(ladder[rung])
        if playing and 36 <= other <= 90:
            late = max(0.0, start + rng.normal(0, 0.015))
            notes.append(Note(late, max(end, late + 0.05), other, _humanise(75, rng)))
    return notes


def arrange(
    harmony: Harmony,
    style: Style,
    lead_notes: list[tuple[float, float, int]],
    lead_share: np.ndarray,
    rng: np.random.Generator,
) -> list[Part]:
    """The parts of an accompaniment.

    `lead_notes` are (start s, end s, MIDI key), `lead_share` is the share of each bar in which
    the lead sounds, shape (n_bars,).
    """
    parts = []
    lead_key = np.median([key for *_, key in lead_notes]) if lead_notes else 65
    other_register = 52 if lead_key > 62 else 72

    def add(programs: tuple[int, ...], level_db: float, notes: list[Note]) -> None:
        parts.append(Part(int(rng.choice(programs)), level_db + rng.normal(0, 2), notes))

    if style.drums:
        kits = KITS.get(style.drums, (128, 136, 168))
        add(kits, 0, _drum_notes(harmony, style.drums, rng))
    if style.bass:
        add(style.basses, 0, _bass_notes(harmony, str(rng.choice(style.bass)), rng))
    if style.comp:
        rhythm = COMP[str(rng.choice(style.comp))]
        add(style.comps, -2, _comp_notes(harmony, rhythm, rng.uniform(54, 64), rng))
    if style.pads and rng.random() < 0.7:
        add(style.pads, -6, _comp_notes(harmony, COMP["whole"], rng.uniform(55, 68), rng))
    if style.arpeggios and rng.random() < 0.5:
        add(style.arpeggios, -5, _arpeggio_notes(harmony, rng.uniform(52, 70), rng))
    if style.fillers and rng.random() < 0.65:
        centre = other_register + rng.uniform(-3, 3)
        add(style.fillers, -6, _filler_notes(harmony, lead_share, centre, rng))
    if style.fillers and lead_notes and rng.random() < 0.25:
        add(style.fillers, -7, _double_notes(lead_notes, harmony.scale, rng))
    return [part for part in parts if part.notes]
