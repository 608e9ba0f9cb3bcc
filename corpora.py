"""Readers of the data sets: recordings, their annotations, their splits.

Layouts and traps are those of the public archives (README.md, "Data"):

- MIR-1K: 16 kHz stereo, left accompaniment, right voice; `PitchLabel/*.pv` holds MIDI semitones,
  one value each 20 ms, frame k centred at 0.02 (k + 1) s. C. Hsu and J. Jang, IEEE TASLP 2010.
- MIREX05 and ADC2004: mono 44.1 kHz with `*REF.txt` (seconds, Hz, 0 unvoiced).
- SSVD-v2.0: unaccompanied voices with note labels; their F0 is tracked once (pYIN, M. Mauch and
  S. Dixon, ICASSP 2014) and kept beside the audio as `NAME.f0.csv`.
- `mirdata:NAME`: a set of `MIRDATA` through mirdata's own loader (R. Bittner et al., ISMIR 2019).
- any other folder: `name.(wav|flac|mp3|ogg|m4a)` beside `name.(csv|txt|pv|f0)`.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio import AUDIO_SUFFIXES, read_audio_channels
from labels import SUNG, UNKNOWN_LEAD, nearest_on_grid
from melody_io import atomic_path, read_melody

SPLITS_FILE = Path(__file__).with_name("splits.json")
FOLDERS = {
    "mir1k": "MIR-1K",
    "mirex05": "mirex05TrainFiles",
    "adc2004": "adc2004_full_set",
    "ssvd": "SSVD-v2.0",
    "synthetic": "synthetic",
    "instruments_val": "instruments_val",
    "scores_val": "scores_val",
}
MADE_BY = {  # what is rendered here, not fetched
    "synthetic": "uv run synthesis.py",
    "instruments_val": "uv run tuning.py CHECKPOINT --dry-run (with the soundfont group)",
    "scores_val": "uv run tuning.py CHECKPOINT --dry-run (with the soundfont group)",
}
MIRDATA = {  # attributes of mirdata's tracks: path of the audio, melody
    "orchset": ("audio_path_mono", "melody"),
    "medleydb_melody": ("audio_path", "melody2"),
    "ikala": ("audio_path", "f0"),
}
N_CLIPS = {"mir1k": 1000, "mirex05": 13, "adc2004": 20}
ANNOTATION_SUFFIXES = (".csv", ".txt", ".pv", ".f0")
LABEL_SUFFIXES = {"mir1k": (".pv",), "ssvd": (".txt",)}  # where they are fewer
SUBSETS = {
    "mirex05/vocal9": tuple(f"mirex05/train{i:02d}" for i in range(1, 10)),
    "adc2004/vocal12": tuple(
        f"adc2004/{name}"
        for name in (
            *("daisy1", "daisy2", "daisy3", "daisy4", "opera_fem2", "opera_fem4"),
            *("opera_male3", "opera_male5", "pop1", "pop2", "pop3", "pop4"),
        )
    ),
}


@dataclass(frozen=True)
class Track:
    """One annotated recording."""

    song_id: str  # "mirex05/train01"
    dataset: str  # "mirex05"
    audio_path: Path
    annotation_path: Path

    @property
    def group(self) -> str:
        """What splits keep together: the singer in MIR-1K, else the song."""
        name = self.song_id.split("/", 1)[1]
        return name.split("_")[0] if self.dataset == "mir1k" else name


def find_tracks(dataset: str, datasets_dir: str | Path, part: str = "all") -> list[Track]:
    """Recordings of a named set (`FOLDERS`) or of a folder, sorted by song id.

    `part` is "train", "val" or "test" of splits.json, or "all". Raises FileNotFoundError with the
    command to run when the set is not there, ValueError for unknown names.
    """
    if dataset.startswith("mirdata:"):
        return _find_mirdata(dataset.removeprefix("mirdata:"), Path(datasets_dir))
    folder = dataset_folder(dataset, datasets_dir)
    if not folder.is_dir():
        hint = MADE_BY.get(dataset, f"bash get_data.sh {dataset}")
        if dataset not in FOLDERS:
            hint = f"name a folder, or one of {', '.join(FOLDERS)}"
        raise FileNotFoundError(f"no recordings in {folder}: {hint}")
    finder = {"mir1k": _find_mir1k, "ssvd": _find_ssvd}.get(dataset, _find_pairs)
    name = dataset if dataset in FOLDERS else folder.resolve().name
    tracks = finder(name, folder)
    if not tracks:
        raise FileNotFoundError(f"{folder} holds no recording with an annotation beside it")
    if part == "all":
        return tracks
    return [t for t in tracks if part_of(t) == part]


def dataset_folder(dataset: str, datasets_dir: str | Path) -> Path:
    """Where a named set lies, or the folder itself."""
    return Path(datasets_dir) / FOLDERS[dataset] if dataset in FOLDERS else Path(dataset)


def part_of(track: Track) -> str:
    """The split of a track by its singer or song: what splits.json lists, else "train"."""
    splits = json.loads(SPLITS_FILE.read_text()).get(track.dataset, {})
    if track.dataset == "synthetic":  # named by split: train_0007
        return track.group.split("_")[0]
    return next((part for part, groups in splits.items() if track.group in groups), "train")


def missing_clips(dataset: str, tracks: list[Track]) -> str:
    """A line about what a partial set lacks, empty when it is whole."""
    expected = N_CLIPS.get(dataset, len(tracks))
    if len(tracks) >= expected:
        return ""
    line = f"{dataset}: {len(tracks)} of {expected} recordings are present"
    listed = json.loads(SPLITS_FILE.read_text()).get(dataset, {})
    present = {t.group for t in tracks}
    absent = sorted(g for groups in listed.values() for g in groups if g not in present)
    return line + (f"; nothing of {', '.join(absent)}" if absent else "")


def _find_mir1k(name: str, folder: Path) -> list[Track]:
    tracks = []
    for audio_path in sorted((folder / "Wavfile").glob("*.wav")):
        annotation_path = folder / "PitchLabel" / f"{audio_path.stem}.pv"
        if annotation_path.exists():
            tracks.append(Track(f"{name}/{audio_path.stem}", name, audio_path, annotation_path))
    return tracks


def _find_ssvd(name: str, folder: Path) -> list[Track]:
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES and path.with_suffix(".txt").exists()
    ]
    stems = Counter(path.stem for path in found)
    tracks = []
    for path in found:
        place = path.relative_to(folder).with_suffix("").as_posix()
        song = path.stem if stems[path.stem] == 1 else place  # some songs stand in two folders
        tracks.append(Track(f"{name}/{song}", name, path, path.with_suffix(".txt")))
    return tracks


def _find_pairs(name: str, folder: Path) -> list[Track]:
    """Audio with an annotation of the same name, or NAMEREF.txt as MIREX calls it."""
    tracks = []
    for audio_path in sorted(folder.rglob("*")):
        if audio_path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        stem = audio_path.stem
        candidates = [audio_path.with_suffix(s) for s in ANNOTATION_SUFFIXES]
        candidates += [
            audio_path.with_name(f"{s}REF.txt") for s in (stem, stem.replace("MIDI", ""))
        ]
        found = next((c for c in candidates if c.exists()), None)
        if found:
            song = audio_path.relative_to(folder).with_suffix("").as_posix()
            tracks.append(Track(f"{name}/{song}", name, audio_path, found))
    return tracks


def _find_mirdata(name: str, datasets_dir: Path) -> list[Track]:
    """Tracks of a mirdata set with a melody, which is kept as a csv beside the set."""
    if name not in MIRDATA:
        raise ValueError(f"mirdata:{name} is not known; choose from {', '.join(MIRDATA)}")
    try:
        import mirdata
    except ImportError:
        raise ValueError(f"mirdata:{name} needs mirdata: uv pip install mirdata") from None
    home = datasets_dir / f"mirdata_{name}"
    command = f"mirdata.initialize('{name}', data_home='{home}').download()"
    try:
        loaded = mirdata.initialize(name, data_home=str(home)).load_tracks()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no mirdata:{name} in {home}; in Python: {command}") from error
    audio_attribute, melody_attribute = MIRDATA[name]
    tracks = []
    for track_id, track in sorted(loaded.items()):
        audio_path = getattr(track, audio_attribute)
        if not audio_path or not Path(audio_path).exists():
            continue
        csv_path = home / "melody_csv" / f"{track_id}.csv"
        if not csv_path.exists() and not _write_mirdata_melody(csv_path, track, melody_attribute):
            continue
        tracks.append(Track(f"{name}/{track_id}", name, Path(audio_path), csv_path))
    if not tracks:
        raise FileNotFoundError(f"no recording of mirdata:{name} in {home}; in Python: {command}")
    return tracks


def _write_mirdata_melody(path: Path, track: object, attribute: str) -> bool:
    """Times and Hz (0 unvoiced) of a mirdata F0Data as csv; whether there is one."""
    melody = getattr(track, attribute)
    if melody is None:
        return False
    f0_hz = np.where(melody.voicing > 0, np.maximum(melody.frequencies, 0.0), 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.column_stack([melody.times, f0_hz])
    with atomic_path(path) as part:
        np.savetxt(part, table, "%.6f", ",", header="time,frequency", comments="")
    return True


def unpaired_files(dataset: str, datasets_dir: str | Path) -> list[str]:
    """Audio without annotation and annotation without audio, as file names."""
    if dataset.startswith("mirdata:"):
        return []
    folder = dataset_folder(dataset, datasets_dir)
    used = {
        p for t in find_tracks(dataset, datasets_dir) for p in (t.audio_path, t.annotation_path)
    }
    kinds = AUDIO_SUFFIXES + LABEL_SUFFIXES.get(dataset, ANNOTATION_SUFFIXES)
    # MIR-1K has whole songs and labels of other kinds in further folders.
    places = ("Wavfile", "PitchLabel") if dataset == "mir1k" else (".",)
    return [
        p.relative_to(folder).as_posix()
        for place in places
        for p in sorted((folder / place).rglob("*"))
        if p.suffix.lower() in kinds and p not in used
    ]


def find_contours(datasets_dir: str | Path) -> list[Path]:
    """Files of melody contours without audio (MedleyDB's MELODY2 annotations)."""
    folder = Path(datasets_dir) / "melody_contours"
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".npz", ".csv"))
    if not found:
        raise FileNotFoundError(f"no melody contours in {folder}: bash get_data.sh contours")
    return found


def read_contour(path: Path, hop_seconds: float) -> np.ndarray:
    """F0 in Hz of a contour file on the frame grid, 0 unvoiced, shape (n_frames,)."""
    if path.suffix == ".npz":
        return np.load(path)["f0_hz"].astype(np.float64)
    times_s, f0_hz = read_melody(path)
    grid_s = np.arange(int(times_s[-1] / hop_seconds) + 1) * hop_seconds
    return np.maximum(nearest_on_grid(times_s, f0_hz, grid_s), 0.0)


def has_stems(track: Track) -> bool:
    """Whether lead and backing stand on separate channels."""
    return track.dataset in ("mir1k", "open_stems", "ikala")


def lead_kind(track: Track) -> int:
    """Who leads: labels.SUNG where the whole set is of singers, else UNKNOWN_LEAD."""
    return SUNG if track.dataset in ("mir1k", "ssvd", "ikala") else UNKNOWN_LEAD


def read_stems(track: Track, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Lead and backing, each (n_samples,) float32; a lone voice has a silent backing."""
    channels = read_audio_channels(track.audio_path, sample_rate)  # (channel, sample)
    if has_stems(track):
        if len(channels) != 2:
            raise ValueError(
                f"{track.audio_path}: {len(channels)} channel(s), "
                "expected 2 (left backing, right lead)"
            )
        return channels[1], channels[0]
    lead = channels.mean(axis=0)
    return lead, np.zeros_like(lead)


def read_audio(track: Track, sample_rate: int, voice_gain_db: float = 0.0) -> np.ndarray:
    """The mix, (n_samples,) float32; `voice_gain_db` applies where the stems are separate."""
    if not has_stems(track):
        return read_audio_channels(track.audio_path, sample_rate).mean(axis=0)
    lead, backing = read_stems(track, sample_rate)
    return lead * np.float32(10 ** (voice_gain_db / 20)) + backing


def read_annotation(track: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The original annotation: times_s, f0_hz (0 unvoiced), reliable (bool), each (n,)."""
    if track.dataset == "ssvd":
        return _read_ssvd(track)
    if track.dataset == "open_stems":
        table = np.loadtxt(track.annotation_path, delimiter=",", skiprows=1, ndmin=2)
        return table[:, 0], table[:, 1], table[:, 2] > 0
    times_s, f0_hz = read_melody(track.annotation_path)
    return times_s, np.maximum(f0_hz, 0.0), np.ones(len(times_s), dtype=bool)


def _read_ssvd(track: Track) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F0 tracked on the lone voice; not reliable where it contradicts the note labels."""
    cache = track.audio_path.with_suffix(".f0.csv")
    if not cache.exists():
        _track_lone_voice(track, cache)
    table = np.loadtxt(cache, delimiter=",", skiprows=1, ndmin=2)
    return table[:, 0], table[:, 1], table[:, 2] > 0


def _track_lone_voice(track: Track, cache: Path) -> None:
    """PYIN within the range of the song's notes, checked against them, written to `cache`."""
    import librosa

    from labels import hz_to_semitone, midi_to_hz

    notes = np.loadtxt(track.annotation_path, ndmin=2)  # onset s, offset s, MIDI (about 1/4 high)
    rate = 22_050
    voice = read_audio_channels(track.audio_path, rate).mean(axis=0)
    notes = notes[notes[:, 2] > 36]  # a few labels near 0 stand for notes without a pitch
    low_hz, high_hz = midi_to_hz(notes[:, 2].min() - 5), midi_to_hz(notes[:, 2].max() + 4)
    f0_hz, voiced, _ = librosa.pyin(
        voice, fmin=low_hz, fmax=high_hz, sr=rate, frame_length=1024, hop_length=220, resolution=0.2
    )
    times_s = np.arange(len(f0_hz)) * 220 / rate
    f0_hz = np.where(voiced, np.nan_to_num(f0_hz), 0.0)
    note_hz = np.zeros_like(f0_hz)
    for onset_s, offset_s, midi in notes:
        note_hz[(times_s >= onset_s) & (times_s <= offset_s)] = midi_to_hz(midi - 0.25)
    off = np.abs(hz_to_semitone(f0_hz) - hz_to_semitone(note_hz))
    # Sound between the notes, silence within them, or another pitch: nobody knows what it is.
    reliable = np.where((f0_hz > 0) & (note_hz > 0), off < 1.0, (f0_hz > 0) == (note_hz > 0))
    part = cache.with_suffix(".part")
    np.savetxt(
        part,
        np.column_stack([times_s, f0_hz, reliable]),
        fmt=("%.5f", "%.3f", "%d"),
        delimiter=",",
        header="time,frequency,reliable",
        comments="",
    )
    part.rename(cache)
