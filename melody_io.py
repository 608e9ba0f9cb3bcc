"""F0 curves in files: csv, MIREX text, npz, MIDI, and a tone that sings the curve back.

Conventions: times in seconds, pitch in Hz. In files for scoring an unvoiced frame keeps its pitch
guess as negative Hz (mir_eval and MIREX), so that pitch and voicing are scored apart; in our own
csv the guess stays positive and the column `voiced` tells.
"""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from labels import hz_to_midi, midi_to_hz, nearest_on_grid

MIREX_HOP_S = 0.01
PV_HOP_S = 0.02  # MIR-1K: 40 ms windows, one each 20 ms, the first centred at 20 ms
ADC2004_HOP_S = 256 / 44_100
CSV_HEADER = "time,frequency,confidence,voiced"
OPTIONAL_PACKAGES = {"midi": "mido", "jams": "jams", "png": "matplotlib"}  # by format
TONE_RATE = 44_100  # Hz, of the sung-back tone
TONE_HARMONICS = (1.0, 0.4, 0.2, 0.1)  # amplitudes of harmonics 1, 2, ...
MIDI_BEND_SEMITONES = 2  # the range every synthesiser has by default
MIDI_MIN_NOTE_S = 0.08
MIDI_SMOOTHING_S = 0.18  # about one period of vibrato, so that vibrato stays one note


@dataclass(frozen=True)
class Melody:
    """The melody of one recording, all arrays of shape (n_frames,).

    `f0_hz` is a positive pitch guess in every frame, `confidence` the voicing posterior 0..1,
    `voiced` (bool) whether the lead sounds.
    """

    times_s: np.ndarray
    f0_hz: np.ndarray
    confidence: np.ndarray
    voiced: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """`times_s` under the csv's name."""
        return self.times_s

    @property
    def frequency(self) -> np.ndarray:
        """`f0_hz` under the csv's name."""
        return self.f0_hz

    @property
    def signed_hz(self) -> np.ndarray:
        """Hz, negative in unvoiced frames."""
        return np.where(self.voiced, self.f0_hz, -self.f0_hz)

    @classmethod
    def from_signed(cls, times_s: np.ndarray, signed_hz: np.ndarray) -> "Melody":
        """The inverse, of any system's output: confidence is 0 or 1."""
        voiced = np.asarray(signed_hz) > 0
        return cls(times_s, np.abs(signed_hz), voiced.astype(float), voiced)


def regrid(melody: Melody, hop_s: float) -> Melody:
    """Resample to 0, hop_s, 2 hop_s, ... seconds up to the last frame, by nearest frame."""
    if not hop_s > 0:
        raise ValueError(f"hop {hop_s} s is not positive")
    last_s = melody.times_s[-1] if len(melody.times_s) else -hop_s
    grid_s = np.arange(int(np.floor(last_s / hop_s + 1e-6)) + 1) * hop_s
    if not len(grid_s):
        return melody
    index = nearest_on_grid(melody.times_s, np.arange(len(melody.times_s)), grid_s)
    return Melody(grid_s, melody.f0_hz[index], melody.confidence[index], melody.voiced[index])


def read_melody(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an F0 annotation or estimate.

    `.pv` is MIR-1K's form: MIDI semitones, one a line, 0 unvoiced. All else is text with the
    columns time and Hz, separated by commas, semicolons, tabs or blanks; more columns need a
    header that names `time` and `frequency` (`voiced` is used when it is there).

    Returns
    -------
    times_s, f0_hz : np.ndarray [shape=(n,), float64]
        Strictly increasing seconds; Hz, 0 or negative in unvoiced frames.

    Raises
    ------
    ValueError
        Naming the file, the line and what to do.
    """
    path = Path(path)
    rows, lines, header = _read_rows(path)
    if path.suffix.lower() == ".pv":
        return _from_pv(path, rows, lines)
    names = header or ["time", "frequency"]
    if "time" not in names or "frequency" not in names:
        raise ValueError(f"{path}, header: needs columns named time and frequency, has {names}")
    table = _as_table(path, rows, lines, len(names))
    times_s, f0_hz = table[:, names.index("time")], table[:, names.index("frequency")]
    if "voiced" in names:
        f0_hz = np.where(table[:, names.index("voiced")] > 0, f0_hz, -np.abs(f0_hz))
    return _checked_times(path, times_s, lines), f0_hz


def _read_rows(path: Path) -> tuple[list[list[str]], np.ndarray, list[str]]:
    """Fields of every data line, their line numbers, and the names in a header if there is one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; export the annotation as plain text") from None
    rows, lines, header = [], [], []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        separator = next((s for s in ",;\t" if s in line), None)
        fields = [field.strip() for field in line.split(separator)]
        if (
            not rows
            and not header
            and re.match(r'"?[A-Za-z_]', line)
            and fields[0].lower() != "nan"
        ):
            header = [field.strip('"').lower() for field in fields]
            continue
        rows.append(fields)
        lines.append(number)
    if not rows:
        raise ValueError(f"{path}: holds no values; write one 'time,Hz' a line")
    return rows, np.array(lines), header


def _as_table(path: Path, rows: list[list[str]], lines: np.ndarray, n_columns: int) -> np.ndarray:
    """Finite numbers, shape (n, n_columns)."""
    for fields, line in zip(rows, lines, strict=True):
        if len(fields) != n_columns:
            raise ValueError(
                f"{path}, line {line}: {len(fields)} column(s) where {n_columns} are expected; "
                "write time and Hz, or add a header that names the columns"
            )
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError:
        row, field = next((r, f) for r, fs in enumerate(rows) for f in fs if not _is_number(f))
        raise ValueError(
            f"{path}, line {lines[row]}: {field!r} is not a number; correct or remove the line"
        ) from None
    bad = ~np.isfinite(table).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{path}, line {lines[bad.argmax()]}: NaN or infinite value; unvoiced is 0"
        )
    return table


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _from_pv(path: Path, rows: list[list[str]], lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    midi = _as_table(path, rows, lines, 1)[:, 0]
    bad = (midi < 0) | (midi > 127)
    if bad.any():
        raise ValueError(
            f"{path}, line {lines[bad.argmax()]}: {midi[bad][0]:g} is no MIDI pitch (0..127); "
            "a .pv file holds semitones: name files of Hz .csv or .txt, with times"
        )
    return PV_HOP_S * np.arange(1, len(midi) + 1), np.where(midi > 0, midi_to_hz(midi), 0.0)


def _checked_times(path: Path, times_s: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Strictly increasing times; ADC2004's, rounded to 10 ms in print, get their exact grid."""
    exact_s = np.arange(len(times_s)) * ADC2004_HOP_S
    steps = np.diff(times_s)
    if (steps == 0).any() and (steps >= 0).all() and np.abs(times_s - exact_s).max() < 0.0101:
        return exact_s
    if times_s[0] < 0:
        raise ValueError(f"{path}, line {lines[0]}: negative time {times_s[0]:g} s; start at 0")
    if (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 1
        raise ValueError(
            f"{path}, line {lines[row]}: time {times_s[row]:g} s does not come after "
            f"{times_s[row - 1]:g} s; sort the lines by time and remove duplicates"
        )
    return times_s


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, renamed on success, removed on any failure."""
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_csv(path: str | Path, melody: Melody) -> None:
    """Write `time,frequency,confidence,voiced`: the pitch guess positive everywhere, voiced 0/1."""
    columns = (melody.times_s, melody.f0_hz, melody.confidence, melody.voiced)
    with atomic_path(path) as part:
        np.savetxt(
            part,
            np.column_stack(columns),
            fmt=("%.6f", "%.3f", "%.4f", "%d"),
            delimiter=",",
            header=CSV_HEADER,
            comments="",
        )


def write_mirex(path: str | Path, melody: Melody) -> None:
    """Write `seconds<TAB>Hz` on an exact 10 ms grid, unvoiced guesses negative."""
    grid = regrid(melody, MIREX_HOP_S)
    table = np.column_stack([grid.times_s, grid.signed_hz])
    with atomic_path(path) as part:
        np.savetxt(part, table, fmt=("%.2f", "%.3f"), delimiter="\t")


def write_npz(path: str | Path, melody: Melody) -> None:
    """Write the arrays `times`, `frequency`, `confidence`, `voiced`."""
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(
            file,
            times=melody.times_s,
            frequency=melody.f0_hz,
            confidence=melody.confidence,
            voiced=melody.voiced,
        )


def write_wav(path: str | Path, melody: Melody) -> None:
    """Sing the melody back: a tone of a few harmonics, mono 44.1 kHz, silent where unvoiced."""
    import soundfile

    with (
        atomic_path(path) as part,
        soundfile.SoundFile(part, "w", TONE_RATE, 1, "PCM_16", format="WAV") as file,
    ):
        for tone in _tone_blocks(melody):
            file.write(tone)


def melody_tone(melody: Melody) -> np.ndarray:
    """The tone of `write_wav`, mono at 44.1 kHz, shape (n_samples,)."""
    return np.concatenate(list(_tone_blocks(melody)))


def write_stereo(path: str | Path, melody: Melody, audio: np.ndarray, sample_rate: int) -> None:
    """Write the recording to the left and the melody's tone to the right, to check by ear.

    `audio` is mono, shape (n_samples,), at `sample_rate` Hz; the file is 44.1 kHz.
    """
    import soundfile

    both = beside_melody(audio, sample_rate, melody)
    with atomic_path(path) as part:
        soundfile.write(part, both.T, TONE_RATE, "PCM_16", format="WAV")


def beside_melody(audio: np.ndarray, sample_rate: int, melody: Melody) -> np.ndarray:
    """The recording and the melody as a tone, float32 (2, n_samples) at 44.1 kHz."""
    recording = at_tone_rate(audio, sample_rate)
    tone = np.zeros_like(recording)
    sung = melody_tone(melody)[: len(tone)]
    tone[: len(sung)] = sung
    return np.stack([recording, tone])


def at_tone_rate(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Mono audio at 44.1 kHz with its peak at 0.9, float32."""
    import soxr

    audio = soxr.resample(audio, sample_rate, TONE_RATE) if sample_rate != TONE_RATE else audio
    return (audio * (0.9 / max(float(np.abs(audio).max(initial=0)), 1e-3))).astype(np.float32)


def _tone_blocks(melody: Melody) -> Iterator[np.ndarray]:
    """The tone in blocks of ten seconds: memory stays small for long songs."""
    n_samples = int(round(melody.times_s[-1] * TONE_RATE)) + 1
    block, phase = 10 * TONE_RATE, 0.0
    for start in range(0, n_samples, block):
        tone, phase = _tone(melody, start, min(block, n_samples - start), phase)
        yield tone


def _tone(melody: Melody, start: int, n_samples: int, phase: float) -> tuple[np.ndarray, float]:
    """`n_samples` of the tone from sample `start` on, and the phase in cycles to go on with."""
    at_s = np.arange(start, start + n_samples) / TONE_RATE
    f0_hz = 2 ** np.interp(at_s, melody.times_s, np.log2(melody.f0_hz))
    level = np.interp(at_s, melody.times_s, melody.voiced.astype(float))  # a ramp of one frame
    cycles = phase + np.cumsum(f0_hz) / TONE_RATE
    tone = np.zeros(n_samples)
    for harmonic, amplitude in enumerate(TONE_HARMONICS, start=1):
        audible = harmonic * f0_hz < TONE_RATE / 2
        tone += amplitude * audible * np.sin(2 * np.pi * harmonic * cycles)
    return 0.5 * level * tone / sum(TONE_HARMONICS), cycles[-1] % 1.0


def find_notes(melody: Melody) -> list[tuple[int, int, int]]:
    """Segment an evenly sampled curve into notes: (first frame, end frame, MIDI pitch).

    A new note starts where voicing starts or where the curve, smoothed over a period of vibrato,
    leaves the present note by more than 0.7 semitone; notes under 80 ms are dropped.
    """
    from scipy.ndimage import median_filter

    if len(melody.times_s) < 2:
        return []
    hop_s = float(np.median(np.diff(melody.times_s)))
    midi = hz_to_midi(melody.f0_hz)
    edges = np.flatnonzero(np.diff(np.r_[False, melody.voiced, False].astype(int)))
    notes = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        smooth = median_filter(
            midi[start:end], max(1, int(MIDI_SMOOTHING_S / hop_s)), mode="nearest"
        )
        first, pitch = start, round(smooth[0])
        for frame, value in enumerate(smooth, start=start):
            if abs(value - pitch) > 0.7:
                notes.append((first, frame, pitch))
                first, pitch = frame, round(value)
        notes.append((first, end, pitch))
    shortest = MIDI_MIN_NOTE_S / hop_s
    return [(int(a), int(b), round(np.median(midi[a:b]))) for a, b, _ in notes if b - a >= shortest]


def write_midi(path: str | Path, melody: Melody) -> None:
    """Write the notes, with pitch bends for what lies between the semitones."""
    try:
        import mido
    except ImportError:
        raise ValueError("MIDI output needs mido: uv pip install mido") from None

    midi = hz_to_midi(melody.f0_hz)
    events = []  # (seconds, message)
    for first, end, pitch in find_notes(melody):
        bends = np.clip((midi[first:end] - pitch) / MIDI_BEND_SEMITONES, -1, 1) * 8191
        for frame in range(first, end, 2):  # every 12 ms is as fine as anybody hears
            bend = int(round(bends[frame - first]))
            events.append((melody.times_s[frame], mido.Message("pitchwheel", pitch=bend)))
        velocity = int(50 + 60 * melody.confidence[first:end].mean())
        at_s = melody.times_s[first]
        events.append((at_s, mido.Message("note_on", note=pitch, velocity=velocity)))
        end_s = melody.times_s[min(end, len(melody.times_s) - 1)]
        events.append((end_s - 1e-4, mido.Message("note_off", note=pitch)))
    song = mido.MidiFile()
    track = mido.MidiTrack()
    song.tracks.append(track)
    last_tick = 0
    for seconds, message in sorted(events, key=lambda event: event[0]):
        tick = round(mido.second2tick(seconds, song.ticks_per_beat, 500_000))
        track.append(message.copy(time=max(0, tick - last_tick)))
        last_tick = max(tick, last_tick)
    with atomic_path(path) as part:
        song.save(part)


def write_jams(path: str | Path, melody: Melody) -> None:
    """Write JAMS (E. Humphrey et al., ISMIR 2014), namespace pitch_contour."""
    try:
        import jams
    except ImportError:
        raise ValueError("JAMS output needs jams: uv pip install jams") from None

    hop_s = float(np.median(np.diff(melody.times_s))) if len(melody.times_s) > 1 else 0.0
    annotation = jams.Annotation(namespace="pitch_contour", time=0, duration=melody.times_s[-1])
    annotation.annotation_metadata.annotation_tools = "audio-melody-extraction"
    annotation.annotation_metadata.data_source = "program"
    contour = np.cumsum(np.diff(melody.voiced, prepend=False) & melody.voiced)  # counts onsets
    columns = (melody.times_s, contour, melody.f0_hz, melody.voiced, melody.confidence)
    for time_s, index, f0_hz, voiced, confidence in zip(
        *map(np.ndarray.tolist, columns), strict=True
    ):
        value = {"index": index, "frequency": f0_hz, "voiced": voiced}
        annotation.append(time=time_s, duration=hop_s, value=value, confidence=confidence)
    song = jams.JAMS()
    song.file_metadata.duration = float(melody.times_s[-1]) + hop_s
    song.annotations.append(annotation)
    with atomic_path(path) as part:
        song.save(str(part), fmt="jams")


def missing_package(fmt: str) -> str | None:
    """The optional package that writing a format needs, where it is not installed."""
    package = OPTIONAL_PACKAGES.get(fmt)
    return package if package and find_spec(package) is None else None


WRITERS = {
    "csv": (".csv", write_csv),
    "mirex": (".txt", write_mirex),
    "npz": (".npz", write_npz),
    "midi": (".mid", write_midi),
    "jams": (".jams", write_jams),
    "wav": (".melody.wav", write_wav),
}
