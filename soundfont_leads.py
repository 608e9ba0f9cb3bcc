"""Leads of the songs with sampled instruments: who can play a contour, its notes, what is heard.

A contour is MIDI pitch (fractional) on the frame grid, shape (n_frames,), NaN where unvoiced.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from arrangement import MIDI_C2
from config import feature_config
from labels import hz_to_semitone, midi_to_hz

SAMPLE_RATE = feature_config.sample_rate  # Hz
HOP = feature_config.hop_samples
ONSET_DB = -18.0  # a note counts from where it first comes this near to its peak
AUDIBLE_DB = -35.0  # a note decayed further below its own peak counts as unvoiced
TAIL_FRAMES = 11  # 64 ms after note-off a release tail stops being melody
VIBRATO_FRAMES = 31  # 180 ms: about one period of vibrato, for a median that flattens it


class Instrument(NamedTuple):
    """A General MIDI program fit to play a lead."""

    program: int
    low_key: int  # MIDI, the range in which it plays
    high_key: int
    bends: bool  # follows the contour; otherwise tempered notes
    # (first key, cents): the tuning error of the samples from that key on. Measured on 0.86 s of
    # every key 36..83 (1 s notes, velocity 100): each of the first six harmonics was shifted to
    # 0 Hz, low-pass filtered over four periods, and its energy-weighted mean frequency taken; the
    # six were averaged by amplitude. YIN agreed on the octave. Keys of a zone lie within 3 cents.
    tuning: tuple[tuple[int, float], ...]
    scoops_below: int = 0  # keys under this start 60 cents flat, measured (the bend mends it)

    def error_cents(self, key: int, frames: int) -> float:
        """How sharp the sample of a key sounds, so many frames after its onset."""
        steady = [cents for first, cents in self.tuning if first <= key][-1]
        return steady - (60 * np.exp(-frames / 8) if key < self.scoops_below else 0.0)


# Left out: organs 16-19 (a 16' stop sounds an octave below); accordions, baritone saxophone, horns,
# choir aahs and pads (samples out of tune or beating).
LEADS = (
    Instrument(64, 56, 83, True, ((0, 0.0),)),  # soprano saxophone
    Instrument(
        65,
        49,
        80,
        True,
        ((0, 3.0), (54, 1.0), (55, -5.0), (57, 2.0), (60, -4.0))
        + ((62, 2.0), (67, -4.0), (71, 2.0), (80, -3.0)),
    ),  # alto saxophone
    Instrument(66, 44, 76, True, ((0, 4.0),)),  # tenor saxophone
    Instrument(
        73,
        60,
        83,
        True,
        ((0, 8.0), (61, 14.0), (66, -1.0), (69, 9.0), (72, -5.0)) + ((77, 1.0), (81, 3.0)),
    ),  # flute
    Instrument(71, 50, 83, True, ((0, 3.0),)),  # clarinet
    Instrument(68, 58, 83, True, ((0, -4.0), (74, -1.5))),  # oboe
    Instrument(69, 52, 81, True, ((0, 3.5),)),  # English horn
    Instrument(70, 36, 67, True, ((0, 3.5),)),  # bassoon
    Instrument(56, 54, 83, True, ((0, -2.0), (57, 4.0), (72, 0.0), (76, -4.0)), 71),  # trumpet
    Instrument(59, 54, 82, True, ((0, 3.0),)),  # muted trumpet
    Instrument(57, 40, 70, True, ((0, 3.0),)),  # trombone
    Instrument(40, 55, 83, True, ((0, 2.5),)),  # violin
    Instrument(110, 55, 83, True, ((0, 4.0),)),  # fiddle
    Instrument(41, 48, 79, True, ((0, 4.0), (59, 3.0))),  # viola
    Instrument(42, 36, 72, True, ((0, 3.0),)),  # cello
    Instrument(22, 50, 83, True, ((0, 3.0), (65, -29.0), (74, 3.0))),  # harmonica
    Instrument(20, 40, 83, True, ((0, 3.0),)),  # reed organ
    Instrument(74, 62, 83, True, ((0, 3.0),)),  # recorder
    Instrument(75, 57, 83, True, ((0, 2.5),)),  # pan flute
    Instrument(79, 60, 83, True, ((0, 2.0),)),  # ocarina
    Instrument(26, 40, 80, True, ((0, 2.5),)),  # jazz guitar
    Instrument(27, 40, 83, True, ((0, 3.0),)),  # clean electric guitar
    Instrument(29, 40, 83, True, ((0, 2.5),)),  # overdriven guitar
    Instrument(30, 40, 83, True, ((0, 3.0),)),  # distorted guitar
    Instrument(80, 40, 83, True, ((0, 0.0), (46, -1.0), (55, 2.0))),  # square lead
    Instrument(81, 40, 83, True, ((0, -3.0), (42, -7.5), (55, 1.5))),  # saw lead
    Instrument(82, 48, 83, True, ((0, 3.0), (74, 6.5), (77, 2.5))),  # calliope lead
    Instrument(83, 44, 83, True, ((0, 4.5), (69, 2.0))),  # chiffer lead
    Instrument(62, 40, 83, True, ((0, 4.0), (69, 2.0))),  # synthesiser brass
    Instrument(53, 48, 83, True, ((0, 4.0),)),  # voice oohs
    Instrument(54, 48, 83, True, ((0, 1.0),)),  # synthesiser voice
    Instrument(85, 48, 83, True, ((0, 5.0), (76, 2.0))),  # solo voice
    Instrument(0, 40, 83, False, ((0, -1.0), (39, -5.0), (45, 0.0), (65, 2.0), (70, 4.5))),
    Instrument(4, 40, 83, False, ((0, 3.5),)),  # electric pianos
    Instrument(5, 40, 83, False, ((0, 2.5),)),
    Instrument(
        11, 53, 83, False, ((0, 9.0), (49, 7.5), (60, 6.0), (66, 5.0), (71, 4.0)) + ((76, 3.0),)
    ),  # vibraphone
    Instrument(24, 40, 80, False, ((0, 2.0),)),  # nylon guitar
    Instrument(25, 40, 80, False, ((0, 2.0),)),  # steel guitar
    Instrument(46, 40, 83, False, ((0, 3.0),)),  # harp
)
# Piano, electric pianos, guitars, harp: the melody has the timbre of its accompaniment.
SELF_ACCOMPANYING = (0, 4, 5, 24, 25, 46)  # programs
VOICE_LIKE = (53, 54, 85)  # programs: neither quite a voice nor an instrument

# FluidR3_GM.sf2 is in tune: measured in the same way, every key lies within 10 cents (nearly all
# within 5), but for what is left out here (bassoon, recorder, the violin's top) and the piano.
FLUID_LEADS = tuple(
    lead._replace(
        high_key=min(lead.high_key, 80) if lead.program in (40, 110) else lead.high_key,
        tuning=((0, -4.0), (43, -1.5), (60, 2.5), (72, 7.0), (77, 12.0))
        if lead.program == 0
        else ((0, 0.0),),
        scoops_below=0,
    )
    for lead in LEADS
    if lead.program not in (70, 74)
)

SAMPLE_KEYS = {(65, 64): 63}  # (program, key) without a sample in the font: the neighbour is bent


class LeadNote(NamedTuple):
    """A note of the lead; frames on the grid, `end` exclusive."""

    start: int
    end: int
    key: int  # MIDI
    velocity: int


def contour_runs(midi: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last frame of every stretch of finite values."""
    edges = np.flatnonzero(np.diff(np.r_[0, np.isfinite(midi).astype(int), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def segment_notes(midi: np.ndarray, shortest_frames: int = 12) -> list[tuple[int, int, int]]:
    """Notes (first frame, end frame, MIDI key) of a contour with NaN in its rests.

    The key changes when the smoothed pitch leaves it by more than 0.65 semitone (so vibrato
    does not split notes); notes shorter than `shortest_frames` join a neighbour, and voiced
    stretches shorter than that are left out.
    """
    notes = []
    for first, end in contour_runs(midi):
        if end - first < shortest_frames:
            continue
        smooth = ndimage.median_filter(midi[first:end], VIBRATO_FRAMES, mode="nearest")
        begins, keys = [first], [int(round(smooth[0]))]
        for frame in range(first + 1, end):
            if abs(smooth[frame - first] - keys[-1]) <= 0.65:
                continue
            key = int(round(smooth[frame - first]))
            if frame - begins[-1] < shortest_frames:  # a glide: the note it leads to starts here
                keys[-1] = key
            elif end - frame >= shortest_frames:
                begins.append(frame)
                keys.append(key)
        notes += list(zip(begins, begins[1:] + [end], keys, strict=True))
    return notes


def slur(
    notes: list[tuple[int, int, int]], legato: float, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Join adjacent notes at most 5 semitones apart, each with probability `legato`."""
    joined = notes[:1]
    for start, end, key in notes[1:]:
        before = joined[-1]
        near = before[1] == start and abs(before[2] - key) <= 5
        if near and rng.random() < legato:
            joined[-1] = (before[0], end, before[2])
        else:
            joined.append((start, end, key))
    return joined


def fit_contour(
    contour_hz: np.ndarray,
    n_frames: int,
    instruments: tuple[Instrument, ...],
    rng: np.random.Generator,
) -> tuple[np.ndarray, Instrument]:
    """A random excerpt of a contour as MIDI pitch, with one of the instruments to play it.

    Returns fractional MIDI numbers, shape (n_frames,), NaN where unvoiced. Of eight random
    excerpts the first that is voiced for 40 % is taken, else the fullest.
    """
    padded = np.pad(contour_hz, (0, max(0, n_frames - len(contour_hz))))
    firsts = rng.integers(0, len(padded) - n_frames + 1, 8)
    shares = np.array([np.mean(padded[first : first + n_frames] > 0) for first in firsts])
    chosen = np.argmax(shares >= 0.4) if np.any(shares >= 0.4) else np.argmax(shares)
    excerpt = padded[firsts[chosen] : firsts[chosen] + n_frames].astype(np.float64)
    midi = hz_to_semitone(excerpt) + MIDI_C2
    lead = instruments[rng.integers(len(instruments))]
    if not np.isfinite(midi).any():
        return midi, lead
    low, high = np.nanpercentile(midi, [2, 98])
    shifts = np.arange(-48, 49)
    fitting = shifts[(low + shifts >= lead.low_key) & (high + shifts <= lead.high_key)]
    if len(fitting) > 12:  # at most an octave of choice, in the middle of the range
        fitting = fitting[(len(fitting) - 12) // 2 :][:12]
    middle = round((lead.low_key + lead.high_key) / 2 - (low + high) / 2)
    midi = midi + (rng.choice(fitting) if len(fitting) else middle)
    midi[(midi < lead.low_key - 1) | (midi > min(lead.high_key, 83) + 1)] = np.nan
    return midi, lead


def cut_rests(midi: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The contour with, in most songs, one or two passages of 4-10 s without a lead."""
    for _ in range(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2])):
        length = int(rng.uniform(4, 10) * SAMPLE_RATE / HOP)
        first = rng.integers(0, max(1, len(midi) - length))
        cut = midi.copy()
        cut[first : first + length] = np.nan
        if np.isfinite(cut).mean() > 0.25:
            midi = cut
    return midi


def smooth_contour(midi: np.ndarray) -> np.ndarray:
    """Each voiced stretch smoothed a little (sigma 2 frames): annotations have a grain."""
    smooth = midi.copy()
    for first, end in contour_runs(midi):
        smooth[first:end] = ndimage.gaussian_filter1d(midi[first:end], 2.0, mode="nearest")
    return smooth


def frame_level_db(audio: np.ndarray, n_frames: int, window: int = 1024) -> np.ndarray:
    """Level in dB around each frame's centre, shape (n_frames,)."""
    energy = np.cumsum(np.r_[0.0, np.asarray(audio, dtype=np.float64) ** 2])
    centre = np.arange(n_frames) * HOP
    low = np.clip(centre - window // 2, 0, len(audio))
    high = np.clip(centre + window // 2, 0, len(audio))
    return 10 * np.log10((energy[high] - energy[low]) / np.maximum(high - low, 1) + 1e-14)


def sounding_f0(audio: np.ndarray, notes: list[LeadNote], midi: np.ndarray) -> np.ndarray:
    """F0 in Hz of the frames in which the dry lead is heard, 0 elsewhere, shape (n_frames,).

    A note sounds from its onset to `TAIL_FRAMES` after its end (or the next onset), where it is
    less than `-AUDIBLE_DB` below its peak. Its tail keeps the last pitch.
    """
    level_db = frame_level_db(audio, len(midi))
    f0_hz = np.zeros(len(midi))
    floor_db = np.max(level_db, initial=-60.0) - 45
    limits = [note.start for note in notes[1:]] + [len(midi)]
    for note, limit in zip(notes, limits, strict=False):
        end = min(note.end + TAIL_FRAMES, limit)
        pitch = np.r_[midi[note.start : note.end], np.full(end, midi[note.end - 1])]
        pitch = pitch[: end - note.start]
        peak_db = level_db[note.start : note.end].max()
        level = level_db[note.start : end]
        heard = (level > max(peak_db + AUDIBLE_DB, floor_db)) & (
            np.maximum.accumulate(level) > peak_db + ONSET_DB
        )
        f0_hz[note.start : end] = np.where(heard, midi_to_hz(pitch), 0.0)
    return f0_hz


def swells(n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Gain of each frame: the player's slow dynamics, up to 9 dB each way, shape (n_frames,)."""
    swell_db = ndimage.gaussian_filter1d(rng.standard_normal(n_frames), 60, mode="nearest")
    swell_db *= rng.uniform(0, 4) / max(np.std(swell_db), 1e-9)
    return 10 ** (np.clip(swell_db, -9, 9) / 20)


def damping(notes: list[LeadNote], n_frames: int) -> np.ndarray:
    """Gain of each frame that fades release tails, -12 dB in 64 ms, shape (n_frames,)."""
    since_end = np.full(n_frames, np.inf)
    for note in notes:
        since_end[note.start : note.end] = 0
        since_end[note.end :] = np.arange(1, n_frames - note.end + 1)
    return np.exp(-since_end / 8)


def tuning_cents_of(midi: np.ndarray) -> float:
    """How far above A = 440 Hz a contour is tuned: circular mean of its cents, -50..50."""
    turns = np.exp(2j * np.pi * midi[np.isfinite(midi)])
    return float(np.angle(turns.sum()) / (2 * np.pi) * 100) if len(turns) else 0.0
