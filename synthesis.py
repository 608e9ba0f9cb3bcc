"""The synthetic corpus: songs with exact F0, from oscillators and noise alone.

Half the leads sing (voices.py), half are instruments (instruments.py); melody.py composes and
performs what they play, arrangement.py the accompaniment. Deterministic by seed.
`uv run synthesis.py` writes pairs of .wav and .csv to datasets/synthetic, to be listened to.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import signal
from tqdm import tqdm

from arrangement import STYLES, Part, Style, arrange, choose_harmony
from config import SynthesisConfig, feature_config, synthesis_config
from instruments import drum_player, note_player
from labels import PLAYED, SUNG, frame_times_s, hz_to_midi, n_frames_of
from melody import (
    Lead,
    compose_lead,
    follow_contour,
    note_starts,
    tuning_semitones,
)
from melody_io import atomic_path
from tones import FRAME_S, HOP, SAMPLE_RATE

VERSION = 1  # of the songs; counted up when a seed no longer gives the same song
SPLITS = ("train", "val", "test")
CHOIR = (52, 53, 54)  # General MIDI programs


@dataclass(frozen=True)
class Song:
    """A song with its lead and backing apart; the mix is their sum."""

    song_id: str
    lead: np.ndarray  # (n_samples,) float32, as it stands in the mix
    backing: np.ndarray  # (n_samples,) float32
    sample_rate: int
    times_s: np.ndarray  # (n_frames,) of the frame grid
    f0_hz: np.ndarray  # (n_frames,) of the lead, 0 = unvoiced
    lead_kind: int  # labels.SUNG, PLAYED or UNKNOWN_LEAD


def render_backing(
    style: Style,
    f0_hz: np.ndarray,
    onsets: list[int],
    step_s: float,
    lead: Lead,
    rng: np.random.Generator,
) -> np.ndarray:
    """An accompaniment that fits the melody, (n_frames * HOP,); in a few songs there is none."""
    n_samples = len(f0_hz) * HOP
    midi = hz_to_midi(f0_hz)
    tuning = tuning_semitones(midi)
    harmony = choose_harmony(midi - tuning, step_s, 16, style, rng)
    ends = [*onsets, len(f0_hz)][1:]
    notes = [
        (a, a + int(np.sum(f0_hz[a:b] > 0)), float(np.nanmedian(midi[a:b])) - tuning)
        for a, b in zip(onsets, ends, strict=True)
        if np.any(f0_hz[a:b] > 0)
    ]
    spans = [(a * FRAME_S, b * FRAME_S, round(key)) for a, b, key in notes]
    bar_of = (np.arange(len(f0_hz)) * FRAME_S / harmony.bar_s).astype(int)
    played = np.bincount(bar_of, f0_hz > 0, len(harmony.chords))
    shares = played / np.maximum(np.bincount(bar_of, minlength=len(harmony.chords)), 1)
    parts = thinned(arrange(harmony, style, spans, shares, rng), rng)
    backing = np.zeros(n_samples, dtype=np.float32)
    for part in parts:
        backing += at_level(render_part(part, tuning, n_samples, rng), part.level_db)
    if parts and rng.random() < 0.2:
        backing += render_double(f0_hz, notes, harmony.scale, lead, rng)
    return backing


def thinned(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    """The parts as they are or, in some songs, drums alone, a choir alone, or nothing."""
    draw = rng.random()
    if draw < 0.04:
        return []
    if draw < 0.09:
        return [p for p in parts if p.program >= 128]
    if draw < 0.15:
        tonal = [p for p in parts if p.program < 128]
        return [p._replace(program=int(rng.choice(CHOIR))) for p in tonal]
    return parts


def at_level(audio: np.ndarray, level_db: float) -> np.ndarray:
    """`audio` at a root mean square of `level_db`."""
    return audio / (np.sqrt(np.mean(audio**2)) + 1e-9) * np.float32(10 ** (level_db / 20))


def render_part(part: Part, tuning: float, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """An accompanying player, (n_samples,); `tuning` in semitones."""
    drums = part.program >= 128
    play = drum_player(rng) if drums else note_player(part.program, rng)
    audio = np.zeros(n_samples, dtype=np.float32)
    for note in part.notes:
        first = int(max(note.start_s, 0) * SAMPLE_RATE)
        seconds = max(round(min(note.end_s - note.start_s, 6.0), 1), 0.1)
        if first < n_samples:
            wave = play(note.key if drums else note.key + tuning, seconds)[: n_samples - first]
            audio[first : first + len(wave)] += wave * np.float32((note.velocity / 127) ** 1.5)
    return audio


def render_double(
    f0_hz: np.ndarray,
    notes: list[tuple[int, int, float]],
    scale: np.ndarray,
    lead: Lead,
    rng: np.random.Generator,
) -> np.ndarray:
    """A second voice in thirds, sixths or octaves in some phrases, quieter than the lead."""
    degrees = int(rng.choice([-7, 7, 2, 2, -2, -5]))
    ladder = np.array([key for key in range(12, 120) if key % 12 in scale])
    other_hz, playing = np.zeros_like(f0_hz), True
    for index, (first, end, key) in enumerate(notes):
        if index and first - notes[index - 1][1] > 20:
            playing = rng.random() < 0.6
        rung = int(np.argmin(np.abs(ladder - key)))
        if playing:
            interval = ladder[rung + degrees] - ladder[rung]
            other_hz[first:end] = f0_hz[first:end] * 2 ** (interval / 12)
    other_hz[(other_hz < 65) | (other_hz > 1200)] = 0
    late = int(rng.integers(0, 6))
    other_hz = np.r_[np.zeros(late), other_hz][: len(f0_hz)]
    audio, _ = lead.render(other_hz, note_starts(other_hz), rng)
    return at_level(audio, rng.uniform(-8, 0)).astype(np.float32)


def apply_room(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """`audio` (n_samples,) in a random room: decaying noise 8-26 dB below the direct sound."""
    decay_s = rng.uniform(0.2, 1.4)  # time to -60 dB
    time_s = np.arange(int(decay_s * sample_rate)) / sample_rate
    response = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)
    response[: int(rng.uniform(0.002, 0.02) * sample_rate)] = 0
    damping = signal.butter(1, rng.uniform(2000, 7000), fs=sample_rate, output="sos")
    response = signal.sosfilt(damping, response)
    response *= 10 ** (rng.uniform(-26, -8) / 20) / np.sqrt(np.sum(response**2))
    return (audio + signal.oaconvolve(audio, response)[: len(audio)]).astype(np.float32)


def shelved(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tone control: the low end up or down by at most 6 dB, soft clipping in some songs."""
    low = signal.butter(1, rng.uniform(200, 2000), fs=SAMPLE_RATE, output="sos")
    audio = audio + (10 ** (rng.uniform(-6, 6) / 20) - 1) * signal.sosfilt(low, audio)
    if rng.random() < 0.3:
        top = np.abs(audio).max() / rng.uniform(0.5, 2.0) + 1e-9
        audio = np.tanh(audio / top) * top
    return audio


def channel_filter(rng: np.random.Generator) -> np.ndarray:
    """What the recording lets pass, as second-order sections: half are limited to 4-16 kHz."""
    draw = rng.random()
    if draw < 0.04:  # telephone
        return signal.butter(2, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    top_hz = np.exp(rng.uniform(np.log(4000), np.log(16_000))) if draw < 0.5 else 19_000
    order = int(rng.integers(1, 6))
    return signal.butter(
        order, (rng.uniform(15, 60), top_hz), "bandpass", fs=SAMPLE_RATE, output="sos"
    )


def mix_down(
    lead: np.ndarray, backing: np.ndarray, sounding: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lead and backing, each (n_samples,), in a room, at a level, through one channel.

    The lead is -3..+10 dB above the backing by RMS where it sounds (`sounding`, per sample).
    """
    if rng.random() < 0.8:
        lead, backing = (apply_room(stem, SAMPLE_RATE, rng) for stem in (lead, backing))
    channel = channel_filter(rng)
    lead, backing = (signal.sosfilt(channel, shelved(stem, rng)) for stem in (lead, backing))
    lead_rms = np.sqrt(np.mean(lead[sounding] ** 2)) if sounding.any() else 1.0
    backing_rms = np.sqrt(np.mean(backing**2))
    lead = lead / (lead_rms + 1e-9) * 10 ** (rng.uniform(-3, 10) / 20)
    if backing_rms > 1e-6:
        backing = backing / backing_rms
    backing = backing + rng.standard_normal(len(backing)) * 10 ** (rng.uniform(-80, -45) / 20)
    scale = rng.uniform(0.3, 0.95) / max(np.abs(s).max() for s in (lead, backing, lead + backing))
    return (lead * scale).astype(np.float32), (backing * scale).astype(np.float32)


def render_song(
    seed: int, seconds: float = 24.0, song_id: str = "", contour_hz: np.ndarray | None = None
) -> Song:
    """A song of voices and instruments made of oscillators.

    Parameters
    ----------
    seed : int
        The same seed gives the same song.
    seconds : float
        Length, at least 4 s.
    song_id : str
        Name to go with it.
    contour_hz : np.ndarray [shape=(n,)] or None
        F0 in Hz on the frame grid, 0 = unvoiced, which the lead follows exactly; it may be silent
        where a plucked string has died away. None composes a melody.

    Raises
    ------
    ValueError
        When `seconds` is too short or the contour holds what is no F0.
    """
    if seconds < 4:
        raise ValueError(f"a song of {seconds} s: give at least 4 s")
    rng = np.random.default_rng([seed, VERSION])
    n_samples = int(seconds * SAMPLE_RATE)
    n_frames = n_frames_of(n_samples, feature_config)
    style = STYLES[sorted(STYLES)[rng.integers(len(STYLES))]]
    step_s = 15 / rng.uniform(*style.tempo_bpm)
    if contour_hz is None:
        lead, f0_hz, onsets = compose_lead(step_s, n_frames, rng)
    else:
        lead, f0_hz, onsets = follow_contour(contour_hz, n_frames, rng)
    audio, f0_hz = lead.render(f0_hz, onsets, rng)
    backing = render_backing(style, f0_hz, onsets, step_s, lead, rng)
    sounding = np.repeat(f0_hz > 0, HOP)[:n_samples]
    audio, backing = mix_down(audio[:n_samples], backing[:n_samples], sounding, rng)
    times_s = frame_times_s(n_frames, feature_config)
    kind = SUNG if lead.kind == "voice" else PLAYED
    return Song(song_id, audio, backing, SAMPLE_RATE, times_s, f0_hz, kind)


def corpus_jobs(split: str, config: SynthesisConfig) -> list[partial]:
    """Calls without arguments that render the songs of a split; seeds of splits never overlap."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    number = SPLITS.index(split)
    return [
        partial(
            render_song,
            (config.seed * 2**20 + i) * len(SPLITS) + number,
            config.song_seconds,
            f"synthetic/{split}_{i:04d}",
        )
        for i in range(config.n_songs[number])
    ]


def corpus_songs(split: str, config: SynthesisConfig) -> Iterator[Song]:
    """The songs of a split: "train", "val" or "test"."""
    return (job() for job in corpus_jobs(split, config))


def write_song(song: Song, folder: Path) -> None:
    """`NAME.wav`, the mix, and `NAME.csv`, time and frequency; the csv last: pairs are whole."""
    import soundfile

    name = song.song_id.split("/")[-1]
    with atomic_path(folder / f"{name}.wav") as part:
        soundfile.write(part, song.lead + song.backing, song.sample_rate, "PCM_16", format="WAV")
    with atomic_path(folder / f"{name}.csv") as part:
        table = np.column_stack([song.times_s, song.f0_hz])
        np.savetxt(part, table, "%.6f", ",", header="time,frequency", comments="")


def write_corpus(split: str, folder: str | Path, config: SynthesisConfig) -> None:
    """Songs of a split as pairs of files; those already there with the same settings are kept."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**asdict(config), "version": VERSION}
    del settings["n_songs"]
    made_with = folder / f"{split}.json"
    if not (made_with.exists() and json.loads(made_with.read_text()) == settings):
        for stale in folder.glob(f"{split}_*.csv"):
            stale.unlink()
        with atomic_path(made_with) as part:
            part.write_text(json.dumps(settings))
    for job in tqdm(corpus_jobs(split, config), desc=f"synthetic {split}", unit="song"):
        name = job.args[2].split("/")[-1]
        if not (folder / f"{name}.csv").exists():
            write_song(job(), folder)


def main() -> int:
    """Write the corpus; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", default="datasets/synthetic")
    args = parser.parse_args()
    for split in SPLITS:
        write_corpus(split, args.output_dir, synthesis_config)
    print(f"{sum(synthesis_config.n_songs)} songs in {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
