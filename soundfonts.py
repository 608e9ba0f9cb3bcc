"""Synthetic songs with sampled instruments: General MIDI parts and a lead of known F0.

The optional richer tier beside `synthesis.py`: the same `Song`, rendered by TinySoundFont from
TimGM6mb.sf2, the sound font inside the package pretty_midi, or from FluidR3_GM.sf2, that of
Debian's package fluid-soundfont-gm. Bowed, blown, sung and electric leads are pitch-bent every hop
so that they follow a given F0 contour; struck and plucked ones play its notes at the tempered
pitch. The F0 told is the one that sounds: each program's tuning was measured
(`soundfont_leads.LEADS`), and a frame is voiced only while its note can be heard.
"""

from pathlib import Path

import numpy as np

from arrangement import STYLES, Harmony, Part, arrange, choose_harmony, compose_contour
from config import feature_config
from labels import PLAYED, UNKNOWN_LEAD, frame_times_s, n_frames_of
from soundfont_leads import (
    FLUID_LEADS,
    HOP,
    LEADS,
    SAMPLE_KEYS,
    SAMPLE_RATE,
    SELF_ACCOMPANYING,
    VOICE_LIKE,
    Instrument,
    LeadNote,
    cut_rests,
    damping,
    fit_contour,
    segment_notes,
    slur,
    smooth_contour,
    sounding_f0,
    swells,
    tuning_cents_of,
)
from synthesis import Song, apply_room

HOP_S = feature_config.hop_seconds
BEND_RANGE = 12  # semitones each way of the pitch wheel
LEAD_CHANNELS = 4  # taken in turn, so that a release tail keeps its own bend


FLUID_FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  # where Debian's package puts it


class SoundFont:
    """TimGM6mb.sf2, or the file given, in TinySoundFont; plays parts to mono audio."""

    def __init__(self, path: Path | None = None) -> None:
        try:
            import pretty_midi
            import tinysoundfont
        except ImportError as error:
            raise ImportError(
                f"songs with sampled instruments need the package {error.name}, which is "
                "optional; install it with: uv sync --group soundfont"
            ) from error
        path = path or Path(pretty_midi.__path__[0]) / "TimGM6mb.sf2"
        if not path.exists():
            raise FileNotFoundError(
                f"no sound font at {path}: apt-get install fluid-soundfont-gm, or take 'fluid' "
                "out of preproc_config.stems"
            )
        self._synth = tinysoundfont.Synth(gain=-12, samplerate=SAMPLE_RATE)
        self._id = self._synth.sfload(str(path))

    def _start(self, channel: int, program: int, tuning_cents: float) -> None:
        """Select a program; from 128 on they are drum kits."""
        bank, preset = (128, program - 128) if program >= 128 else (0, program)
        self._synth.program_select(channel, self._id, bank, preset, program >= 128)
        self._synth.set_tuning(channel, tuning_cents / 100)
        self._synth.pitchbend_range(channel, BEND_RANGE)
        self._synth.pitchbend(channel, 8192)

    def _silence(self) -> None:
        self._synth.sounds_off()
        self._synth.generate_simple(SAMPLE_RATE // 10)

    def play(self, part: Part, n_samples: int, tuning_cents: float) -> np.ndarray:
        """Render a part of tempered notes, shape (n_samples,)."""
        self._silence()
        self._start(0, part.program, tuning_cents)
        events = [(n.start_s, 1, n) for n in part.notes] + [(n.end_s, 0, n) for n in part.notes]
        stereo = np.zeros((n_samples, 2), dtype=np.float32)
        done = 0
        for time_s, is_on, note in sorted(events, key=lambda event: event[:2]):
            until = min(max(int(time_s * SAMPLE_RATE), done), n_samples)
            if until > done:
                self._synth.generate_simple(until - done, memoryview(stereo[done:until]).cast("B"))
            done = until
            if is_on:
                self._synth.noteon(0, note.key, note.velocity)
            else:
                self._synth.noteoff(0, note.key)
        if n_samples > done:
            self._synth.generate_simple(n_samples - done, memoryview(stereo[done:]).cast("B"))
        return stereo.mean(axis=1)

    def play_lead(
        self, lead: Instrument, notes: list[LeadNote], midi: np.ndarray, n_samples: int
    ) -> np.ndarray:
        """Render notes whose pitch follows `midi` (fractional, one value a frame)."""
        self._silence()
        for channel in range(LEAD_CHANNELS):
            self._start(channel, lead.program, 0.0)
        starts = {note.start: index for index, note in enumerate(notes)}
        ends = {note.end: index for index, note in enumerate(notes)}
        stereo = np.zeros((len(midi) * HOP, 2), dtype=np.float32)
        sounding = None
        for frame in range(len(midi)):
            if frame in ends:
                index = ends[frame]
                self._synth.noteoff(index % LEAD_CHANNELS, notes[index].key)
                sounding = None
            if frame in starts:
                sounding = starts[frame]
            if sounding is not None:
                note, channel = notes[sounding], sounding % LEAD_CHANNELS
                bend = midi[frame] - note.key - lead.error_cents(note.key, frame - note.start) / 100
                wheel = int(round(8192 + 8192 * bend / BEND_RANGE))
                self._synth.pitchbend(channel, min(max(wheel, 0), 16383))
                if frame == note.start:
                    self._synth.noteon(channel, note.key, note.velocity)
            block = stereo[frame * HOP : (frame + 1) * HOP]
            self._synth.generate_simple(HOP, memoryview(block).cast("B"))
        return stereo.mean(axis=1)[:n_samples]


def play_contour(
    font: SoundFont, lead: Instrument, midi: np.ndarray, n_samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[LeadNote]]:
    """The dry lead (n_samples,), its F0 in Hz on the frame grid, and its notes."""
    spans = segment_notes(midi)
    loudness = rng.uniform(75, 110)
    if lead.bends:
        pitch = midi
        spans = slur(spans, rng.choice([0.1, 0.5, 0.9]), rng)
    else:
        pitch = np.full(len(midi), np.nan)
        for start, end, key in spans:
            pitch[start:end] = key + tuning_cents_of(midi) / 100
    notes = []
    for start, end, key in spans:
        sample_key = SAMPLE_KEYS.get((lead.program, key), key)
        velocity = int(np.clip(loudness + rng.normal(0, 8), 40, 127))
        notes.append(LeadNote(start, end, sample_key, velocity))
    at_frame = np.arange(n_samples) / HOP
    dry = np.zeros(n_samples)
    for every_other in (notes[::2], notes[1::2]):  # so that each damps under its successor
        gain = damping(every_other, len(midi))
        audio = font.play_lead(lead, every_other, pitch, n_samples)
        dry += audio * np.interp(at_frame, np.arange(len(gain)), gain)
    dry *= np.interp(at_frame, np.arange(len(midi)), swells(len(midi), rng))
    return dry, sounding_f0(dry, notes, pitch), notes


def bar_shares(f0_hz: np.ndarray, harmony: Harmony) -> np.ndarray:
    """Share of each bar in which the lead sounds, shape (n_bars,)."""
    bars = np.minimum(np.arange(len(f0_hz)) * HOP_S // harmony.bar_s, len(harmony.chords) - 1)
    counts = np.bincount(bars.astype(int), minlength=len(harmony.chords))
    return np.bincount(bars.astype(int), f0_hz > 0, len(harmony.chords)) / np.maximum(counts, 1)


def mix_parts(
    font: SoundFont, parts: list[Part], n_samples: int, tuning_cents: float
) -> np.ndarray:
    """The parts at their levels (RMS, whatever the sound font's own), shape (n_samples,)."""
    backing = np.zeros(n_samples)
    for part in parts:
        audio = font.play(part, n_samples, tuning_cents)
        rms = np.sqrt(np.mean(audio**2))
        if rms > 0:
            backing += audio / rms * 10 ** (part.level_db / 20)
    return backing


def record(
    lead: np.ndarray, backing: np.ndarray, f0_hz: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lead and backing as a recording has them: rooms, tone control, band limit, levels.

    The lead stands -4..+10 dB against the backing (RMS over the voiced frames); the mix peaks
    at 0.5.
    """
    if rng.random() < 0.75:
        lead, backing = (apply_room(audio, SAMPLE_RATE, rng) for audio in (lead, backing))
    lead, backing = colour(np.stack([lead, backing]), rng)
    voiced = np.repeat(f0_hz > 0, HOP)[: len(lead)]
    voiced = voiced if voiced.any() else np.ones(len(lead), dtype=bool)
    lead_rms, backing_rms = (np.sqrt(np.mean(a[voiced] ** 2)) + 1e-9 for a in (lead, backing))
    lead = lead * (backing_rms / lead_rms) * 10 ** (rng.uniform(-4, 10) / 20)
    scale = 0.5 / max(np.abs(lead + backing).max(), 1e-9)
    return (lead * scale).astype(np.float32), (backing * scale).astype(np.float32)


def colour(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spectral tilt of up to 3 dB an octave and at times a low-pass, shape kept."""
    n_samples = audio.shape[-1]
    size = 2 ** int(np.ceil(np.log2(n_samples)))
    freq_hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    octaves = np.log2(np.clip(freq_hz, 60, 12_000) / 1000)
    gain = 10 ** (rng.uniform(-3, 3) * octaves / 20)
    if rng.random() < 0.4:
        gain = gain / np.sqrt(1 + (freq_hz / rng.uniform(5000, 16_000)) ** 8)
    return np.fft.irfft(np.fft.rfft(audio, size) * gain, size)[..., :n_samples]


def render_song(
    seed: int,
    contour_hz: np.ndarray | None,
    seconds: float = 24.0,
    song_id: str = "",
    one_player: bool = False,
    fluid: bool = False,
) -> Song:
    """A song of sampled instruments with a lead of exact F0.

    Parameters
    ----------
    seed : int
        The same seed gives the same song.
    contour_hz : np.ndarray [shape=(n,)] or None
        Melody F0 in Hz on the frame grid (hop 256 at 44 100 Hz), 0 = unvoiced. A random excerpt
        is played, transposed to the instrument. None: a composed melody.
    seconds : float > 0
        Length of the song.
    song_id : str
        Stored in the song.
    one_player : bool
        Whether the lead is a piano, guitar or harp that accompanies itself.
    fluid : bool
        Whether FluidR3_GM.sf2 is played instead of TimGM6mb.sf2.

    Returns
    -------
    Song
        Lead and backing apart, mono at 44 100 Hz; F0 in Hz on the frame grid, 0 where the lead
        is not heard.

    Raises
    ------
    ImportError, FileNotFoundError
        The optional packages or the sound font are absent.
    ValueError
        `seconds` is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"seconds is {seconds}; a song needs a positive length")
    rng = np.random.default_rng([seed, 20])
    font = SoundFont(FLUID_FONT if fluid else None)
    n_samples = int(seconds * SAMPLE_RATE)
    n_frames = n_frames_of(n_samples, feature_config)
    style = STYLES[str(rng.choice(list(STYLES)))]
    choices = FLUID_LEADS if fluid else LEADS
    if one_player:
        style = STYLES["piano"]
        choices = tuple(lead for lead in choices if lead.program in SELF_ACCOMPANYING)
    step_s = 15 / rng.uniform(*style.tempo_bpm)
    steps = int(rng.choice([16, 16, 16, 16, 12]))
    if contour_hz is None:
        contour_hz = compose_contour(rng, n_frames, step_s)
    midi, lead = fit_contour(np.asarray(contour_hz), n_frames, choices, rng)
    if one_player:
        style = style.played_by(lead.program)
    midi = smooth_contour(cut_rests(midi, rng))
    dry, f0_hz, notes = play_contour(font, lead, midi, n_samples, rng)
    harmony = choose_harmony(midi, step_s, steps, style, rng)
    spans = [(n.start * HOP_S, n.end * HOP_S, n.key) for n in notes]
    parts = arrange(harmony, style, spans, bar_shares(f0_hz, harmony), rng)
    return finish_song(song_id, font, lead, dry, f0_hz, parts, tuning_cents_of(midi), rng)


def finish_song(
    song_id: str,
    font: SoundFont,
    lead: Instrument,
    dry: np.ndarray,
    f0_hz: np.ndarray,
    parts: list[Part],
    tuning_cents: float,
    rng: np.random.Generator,
) -> Song:
    """The song of a dry lead, (n_samples,), over the parts that accompany it."""
    backing = mix_parts(font, parts, len(dry), tuning_cents)
    lead_audio, backing = record(dry, backing, f0_hz, rng)
    times_s = frame_times_s(len(f0_hz), feature_config)
    kind = UNKNOWN_LEAD if lead.program in VOICE_LIKE else PLAYED
    return Song(song_id, lead_audio, backing, SAMPLE_RATE, times_s, f0_hz, kind)
