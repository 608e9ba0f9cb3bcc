"""Songs of sampled instruments from the scores of real compositions.

Quartets, piano pieces and songs of the corpus that comes with the package music21 (M. Cuthbert and
C. Ariza, ISMIR 2010), played by the sound fonts of `soundfonts.py`: by one instrument, which then
accompanies itself (a piano most often), by the strings or winds of a chamber group, or by a lead
over a piano, guitar, harp or organ. The highest line of the part that has the melody is the lead.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from arrangement import Note, Part
from config import feature_config
from labels import hz_to_midi, n_frames_of
from melody import Manner, perform, random_manner
from melody_io import atomic_path
from soundfont_leads import FLUID_LEADS, LEADS, SAMPLE_RATE, SELF_ACCOMPANYING, Instrument
from soundfonts import FLUID_FONT, HOP_S, SoundFont, finish_song, play_contour
from synthesis import Song

QUARTET, PIANO, AIR = "quartet", "piano", "air"
TRAIN_PIECES = {
    **{f"beethoven/opus18no{k}": QUARTET for k in (4, 5)},
    **{f"beethoven/opus18no1/movement{k}": QUARTET for k in (1, 2, 3, 4)},
    **{f"beethoven/opus59no{k}/movement{m}": QUARTET for k in (1, 2, 3) for m in (1, 2, 3, 4)},
    "beethoven/opus74": QUARTET,
    **{f"haydn/opus74no1/movement{k}": QUARTET for k in (1, 2, 3, 4)},
    **{f"mozart/k155/movement{k}": QUARTET for k in (1, 2, 3)},
    **{f"mozart/k156/movement{k}": QUARTET for k in (1, 2, 3, 4)},
    **{f"mozart/k80/movement{k}": QUARTET for k in (1, 2, 3, 4)},
    **{f"schumann_robert/opus41no1/movement{k}": QUARTET for k in (1, 2, 3, 4, 5)},
    **{f"bach/bwv{k}": QUARTET for k in ("10.7", "101.7", "13.6", "121.6", "126.6", "117.4")},
    "joplin/maple_leaf_rag": PIANO,
    "mozart/k545": PIANO,
    **{f"schumann_clara/polonaise_op1n{k}": PIANO for k in (1, 2, 3)},
    "schubert/lindenbaum": AIR,
    "schumann_clara/opus17/movement3": AIR,
    "schumann_robert/opus48no2": AIR,
    "weber/concertino_clarinet": AIR,
    "johnson_j_r/lift_every_voice": QUARTET,
}
VAL_PIECES = {
    **{f"mozart/k458/movement{k}": QUARTET for k in (1, 2, 3, 4)},
    **{f"haydn/opus1no1/movement{k}": QUARTET for k in (1, 2, 3, 4, 5)},
    "beethoven/opus18no3": QUARTET,
    "chopin/mazurka06-2": PIANO,
    "schumann_clara/polonaise_op1n4": PIANO,
    "handel/rinaldo/lascia_chio_pianga": AIR,
}
# How likely a piece is played by one instrument, by a group, by a lead over a chordal instrument.
CASTS = {QUARTET: (0.6, 0.25, 0.15), PIANO: (0.85, 0.0, 0.15), AIR: (0.0, 0.1, 0.9)}
ONE_PLAYER_PROGRAMS = (0, 0, 0, 0, 0, 0, 4, 5, 24, 25, 46)  # mostly the piano
GROUPS = (  # programs of the lead, then of the parts from high to low
    ((40, 110), (40, 41, 42)),  # strings
    ((40, 73, 68, 71), (48, 48, 48)),
    ((73, 68, 71), (71, 69, 70)),  # winds
    ((64, 65, 66), (65, 66, 67)),  # saxophones
    ((56, 59), (60, 57, 58)),  # brass
)
CHORDAL = (0, 0, 0, 24, 25, 46, 6, 19, 21, 48)  # programs
PEDAL_QUARTERS = 2.0
PAUSES_S = (3.0, 8.0)  # how long a lead pauses over its accompaniment
LONGEST_S = 90.0  # that Timing covers at the fastest tempo


class Score(NamedTuple):
    """Notes of a piece, in quarters from its beginning; rows are sorted by onset."""

    onsets: np.ndarray  # (n,)
    ends: np.ndarray  # (n,)
    keys: np.ndarray  # (n,) MIDI
    parts: np.ndarray  # (n,) 0 has the melody


def read_score(piece: str, datasets_dir: str | Path) -> Score:
    """A piece of music21's corpus, kept as `scores/NAME.npz` once it is read (seconds each)."""
    path = Path(datasets_dir) / "scores" / f"{piece.replace('/', '_')}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez(file, **_parse(piece)._asdict())
    with np.load(path) as arrays:
        return Score(**arrays)


def _parse(piece: str) -> Score:
    try:
        from music21 import corpus
    except ImportError as error:
        raise ImportError(
            "songs from scores need the package music21, which is optional; install it with: "
            "uv sync --group soundfont"
        ) from error
    rows = []
    for number, part in enumerate(corpus.parse(piece).toSoundingPitch().stripTies().parts):
        for element in part.flatten().notes:
            onset, length = float(element.offset), float(element.duration.quarterLength)
            if length > 0:  # no grace notes
                rows += [(onset, onset + length, p.midi, number) for p in element.pitches]
    onsets, ends, keys, parts = np.array(sorted(rows)).T
    return Score(onsets, ends, keys.astype(int), parts.astype(int))


def top_line(score: Score) -> np.ndarray:
    """Indices of the melody: of part 0 the highest note at each onset, until it ends.

    A note that begins under a sounding one does not take the line from it.
    """
    line = []
    order = np.lexsort((-score.keys, score.onsets))
    for i in order[score.parts[order] == 0]:
        if line:
            before = line[-1]
            if score.onsets[i] == score.onsets[before]:
                continue
            if score.ends[before] > score.onsets[i] + 1e-6 and score.keys[i] < score.keys[before]:
                continue
        line.append(i)
    return np.array(line, dtype=int)


def choose_excerpt(
    score: Score, line: np.ndarray, length: float, rng: np.random.Generator
) -> float:
    """First quarter of an excerpt `length` quarters long: of eight, where the melody rests least.

    For while the first violin rests, another may have the melody, which the score does not tell.
    """
    onsets, ends = score.onsets[line], score.ends[line]
    last = max(onsets[-1] - length, onsets[0])
    firsts = np.floor(rng.uniform(onsets[0], last + 1e-6, 8))
    sounding = [
        np.sum(np.clip(np.minimum(ends, f + length) - np.maximum(onsets, f), 0, None))
        for f in firsts
    ]
    return float(firsts[np.argmax(sounding)])


class Timing:
    """Quarters to seconds from a first quarter on: a tempo that breathes."""

    def __init__(self, first: float, tempo_s: float, rng: np.random.Generator) -> None:
        beats = np.arange(0, 400, 0.25)
        sway = ndimage.gaussian_filter1d(rng.standard_normal(len(beats)), rng.uniform(2, 12))
        sway *= rng.uniform(0, 0.08) / max(np.std(sway), 1e-9)
        self.beats = first + beats
        self.times_s = np.r_[0.0, np.cumsum(0.25 * tempo_s * np.exp(sway[:-1]))]

    def __call__(self, quarters: np.ndarray) -> np.ndarray:
        return np.interp(quarters, self.beats, self.times_s, left=-1.0)


def choose_cast(
    kind: str, keys: np.ndarray, choices: tuple[Instrument, ...], rng: np.random.Generator
) -> tuple[Instrument, tuple[int, ...], int]:
    """The lead, the programs of the other parts (one: all share it), and semitones to transpose."""
    cast = rng.choice(["one player", "group", "lead"], p=CASTS[kind])
    by_program = {lead.program: lead for lead in choices}
    if cast == "one player":
        program = int(rng.choice(ONE_PLAYER_PROGRAMS))
        candidates, others = [by_program[program]], (program,)
    elif cast == "group":
        leads, others = GROUPS[rng.integers(len(GROUPS))]
        candidates = [by_program[p] for p in leads if p in by_program]
    else:
        candidates, others = list(choices), (int(rng.choice(CHORDAL)),)
    low, high = np.percentile(keys, [2, 98])
    fitting = [
        (lead, shift)
        for lead in candidates
        for shift in range(-12, 13)
        if low + shift >= lead.low_key and high + shift <= lead.high_key
    ]
    if not fitting:  # the line is wider than the instrument: what lies outside is left out
        lead = candidates[rng.integers(len(candidates))]
        return lead, others, int(round((lead.low_key + lead.high_key - low - high) / 2))
    lead = fitting[rng.integers(len(fitting))][0]
    shifts = sorted((shift for other, shift in fitting if other is lead), key=abs)[:8]
    return lead, others, int(rng.choice(shifts))


def lead_contour(
    score: Score, line: np.ndarray, timing: Timing, lead: Instrument, shift: int, n_frames: int,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The line as performed: fractional MIDI (n_frames,), NaN in rests."""
    starts = np.round(timing(score.onsets[line]) / HOP_S).astype(int)
    ends = np.minimum(np.round(timing(score.ends[line]) / HOP_S).astype(int), n_frames)
    ends[:-1] = np.minimum(ends[:-1], starts[1:])
    notes = [
        (int(start), int(end), int(key) + shift)
        for start, end, key in zip(starts, ends, score.keys[line], strict=True)
        if start >= 0 and end - start >= 8 and lead.low_key <= key + shift <= lead.high_key
    ]
    manner = random_manner(False, False, rng) if lead.bends else Manner(legato=rng.uniform(0, 0.9))
    return hz_to_midi(perform(notes, manner, n_frames, rng)[0])


def pause(line: np.ndarray, score: Score, timing: Timing, seconds: float, seed: int) -> np.ndarray:
    """The line without its notes in one or two passages, in a fourth of songs without none.

    Scores hardly rest. Over the accompaniment that goes on, a network learns what is no melody.
    """
    rng = np.random.default_rng([seed, 22])
    starts_s = timing(score.onsets[line])
    for _ in range(rng.choice([0, 1, 2], p=[0.25, 0.5, 0.25])):
        first_s, length_s = rng.uniform(0, seconds), rng.uniform(*PAUSES_S)
        heard = (starts_s < first_s) | (starts_s >= first_s + length_s)
        line, starts_s = line[heard], starts_s[heard]
    return line


def accompany(
    score: Score, line: np.ndarray, timing: Timing, programs: tuple[int, ...], shift: int,
    seconds: float, rng: np.random.Generator,
) -> list[Part]:  # fmt: skip
    """Every note that is not of the line: a part for each program."""
    others = np.setdiff1d(np.arange(len(score.keys)), line)
    ends = score.ends[others]
    if len(programs) == 1 and programs[0] in SELF_ACCOMPANYING and rng.random() < 0.5:
        ends = np.maximum(ends, np.ceil((ends - 1e-6) / PEDAL_QUARTERS) * PEDAL_QUARTERS)
    starts_s, ends_s = timing(score.onsets[others]), timing(ends)
    loudness = rng.uniform(55, 100)
    notes = [[] for _ in programs]
    for i, start_s, end_s in zip(others, starts_s, ends_s, strict=True):
        key = int(score.keys[i]) + shift
        if 0 <= start_s < seconds and 21 <= key <= 100:
            start_s = max(0.0, start_s + rng.normal(0, 0.008))
            velocity = int(np.clip(loudness + rng.normal(0, 8), 20, 120))
            player = min(max(int(score.parts[i]) - 1, 0), len(programs) - 1)
            notes[player].append(Note(start_s, max(end_s, start_s + 0.05), key, velocity))
    return [
        Part(program, rng.normal(0, 2), played)
        for program, played in zip(programs, notes, strict=True)
        if played
    ]


def render_score(
    seed: int,
    score: Score,
    kind: str,
    seconds: float = 24.0,
    song_id: str = "",
    fluid: bool = False,
    pauses: bool = False,
) -> Song:
    """A random excerpt of a score, performed by random instruments, with a lead of exact F0.

    Parameters
    ----------
    seed : int
        The same seed gives the same song.
    score : Score
        With two notes of melody or more.
    kind : str
        QUARTET, PIANO or AIR: who is likely to play it.
    seconds : float in (0, 90]
        Length of the song.
    song_id : str
        Stored in the song.
    fluid : bool
        Whether FluidR3_GM.sf2 is played instead of TimGM6mb.sf2.
    pauses : bool
        Whether the lead pauses for some seconds while its accompaniment goes on, where that is
        one instrument.

    Returns
    -------
    Song
        Lead and backing apart, mono at 44 100 Hz; F0 in Hz on the frame grid.

    Raises
    ------
    ImportError, FileNotFoundError
        The optional packages or the sound font are absent.
    ValueError
        `seconds` is out of range.
    """
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"seconds is {seconds}; a score is played for 0 to {LONGEST_S:g}")
    rng = np.random.default_rng([seed, 21])
    font = SoundFont(FLUID_FONT if fluid else None)
    n_samples = int(seconds * SAMPLE_RATE)
    n_frames = n_frames_of(n_samples, feature_config)
    line = top_line(score)
    # The tempo makes the usual note of the melody 0.15 to 0.45 s long.
    usual = np.median(np.diff(score.onsets[line]))
    tempo_s = float(np.clip(rng.uniform(0.15, 0.45) / max(usual, 1 / 16), 0.25, 1.4))
    first = choose_excerpt(score, line, seconds / tempo_s, rng)
    timing = Timing(first, tempo_s, rng)
    heard = (score.onsets[line] >= first) & (score.onsets[line] < first + seconds / tempo_s)
    keys = score.keys[line[heard]] if heard.any() else score.keys[line]
    lead, programs, shift = choose_cast(kind, keys, FLUID_LEADS if fluid else LEADS, rng)
    pausing = pauses and len(programs) == 1
    played = pause(line, score, timing, seconds, seed) if pausing else line
    midi = lead_contour(score, played, timing, lead, shift, n_frames, rng)
    dry, f0_hz, _ = play_contour(font, lead, midi, n_samples, rng)
    parts = accompany(score, line, timing, programs, shift, seconds, rng)
    return finish_song(song_id, font, lead, dry, f0_hz, parts, 0.0, rng)
