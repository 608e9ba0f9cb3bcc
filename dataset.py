"""The .npz splits: schema, streaming writer, memory-mapped reader, torch data sets.

A split `ah1_{train,val,test}_set.npz` holds N windows:

- `X` (N, 1, 365, 517) float16, normalised log-CQT
- `y_pitch_idx`, `y_chroma`, `y_octave`, `y_voicing` (N, 517), see `labels.frame_targets`
- `y_pitch_hz` (N, 517) Hz of the class; `f0_hz` (N, 517) the exact F0, 0 unvoiced
- `valid` (N, 517) bool: not padding, and annotated reliably
- `lead_kind` (N,) who leads: `labels.UNKNOWN_LEAD`, `SUNG` or `PLAYED`
- `song_ids` (N,), `start_frame` (N,), `norm_mean`, `norm_std` (365, 1)
- `schema_version`, `settings` (JSON of the feature and preprocessing settings)

`ah1_train_stems.npz` holds complex windows of leads and backings apart, (M, 385, 517, 2) float16
(real, imaginary; 10 bins of margin on both sides): the transform is linear, so that any lead can be
mixed with any backing at any level during training. `backing_may_lead` (K,) says of a backing
whether an instrument in it may play a melody of its own (real accompaniments).

Members are stored uncompressed: plain `numpy.load` opens them, and `open_arrays` maps them.
"""

import contextlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

import labels
from config import SCHEMA_VERSION, FeatureConfig, TrainConfig

COPY_BYTES = 1 << 24
SPLIT_KEYS = ("X", "y_pitch_idx", "y_chroma", "y_octave", "y_voicing", "y_pitch_hz", "f0_hz",
              "valid", "lead_kind", "song_ids", "norm_mean", "norm_std")  # fmt: skip
STEM_KEYS = ("lead", "backing", "backing_index", "backing_may_lead", "f0_hz", "lead_kind", "valid")
LABEL_KEYS = ("y_pitch_idx", "y_chroma", "y_octave", "y_voicing", "y_pitch_hz")


def split_path(folder: str | Path, split: str) -> Path:
    """File of a split: "train", "val", "test"."""
    return Path(folder) / f"ah1_{split}_set.npz"


def stems_path(folder: str | Path) -> Path:
    """File of the training stems."""
    return Path(folder) / "ah1_train_stems.npz"


class NpzWriter:
    """Writes arrays of equal-shaped rows to an .npz, row by row, in constant memory.

    Rows go to temporary files beside the target; `close` joins them into the archive and renames
    it. Leaving the `with` block by an exception removes every trace.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.stem}.", dir=self.path.parent))
        self._rows: dict[str, tuple] = {}  # key -> (file, dtype, row shape)
        self._counts: dict[str, int] = {}

    def __enter__(self) -> "NpzWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for file, _, _ in self._rows.values():
            with contextlib.suppress(OSError):  # a full disk fails again at the flush
                file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, key: str, row: np.ndarray) -> None:
        """Append one row to the array `key`."""
        row = np.asarray(row, order="C")  # keeps scalars scalar
        if key not in self._rows:
            self._rows[key] = (open(self._folder / key, "wb"), row.dtype, row.shape)  # noqa: SIM115
            self._counts[key] = 0
        file, dtype, shape = self._rows[key]
        if (row.dtype, row.shape) != (dtype, shape):
            raise ValueError(f"{key}: row of {row.dtype} {row.shape}, expected {dtype} {shape}")
        file.write(row.tobytes())
        self._counts[key] += 1

    def count(self, key: str) -> int:
        """Rows added to `key` so far."""
        return self._counts.get(key, 0)

    def close(self, transforms: dict | None = None, **constants: np.ndarray) -> None:
        """Join everything into the archive; `transforms[key]` maps each row on its way."""
        part = self._folder / "archive"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for key, (file, dtype, shape) in self._rows.items():
                file.close()
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    self._copy(key, dtype, shape, member, (transforms or {}).get(key))
                os.unlink(self._folder / key)  # so that disk use peaks at one extra array
            for key, value in constants.items():
                with archive.open(f"{key}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)
        part.replace(self.path)

    def _copy(self, key, dtype, shape, member, transform) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._counts[key], *shape),
        }
        np.lib.format.write_array_header_1_0(member, header)
        with open(self._folder / key, "rb") as rows:
            if transform is None:
                shutil.copyfileobj(rows, member, COPY_BYTES)
                return
            for _ in range(self._counts[key]):
                row = np.fromfile(rows, dtype, int(np.prod(shape))).reshape(shape)
                member.write(np.ascontiguousarray(transform(row)).astype(dtype).tobytes())


def open_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, memory-mapped where they are stored uncompressed.

    Raises FileNotFoundError with the command to run, ValueError for a file that is not an .npz.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `uv run preprocessing.py` first")
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                if info.compress_type == zipfile.ZIP_STORED and info.file_size > COPY_BYTES:
                    arrays[key] = _map_member(path, file, info)
                else:
                    with archive.open(info) as member:
                        arrays[key] = np.lib.format.read_array(member, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, struct.error) as error:
        raise ValueError(f"{path} is not a readable .npz ({error}); make it again") from error
    return arrays


def _map_member(path: Path, file, info: zipfile.ZipInfo) -> np.ndarray:
    """Map a stored member: its data follow a local header of 30 bytes, a name and extra fields."""
    file.seek(info.header_offset)
    name_bytes, extra_bytes = struct.unpack("<26xHH", file.read(30))
    file.seek(info.header_offset + 30 + name_bytes + extra_bytes)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    order = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset=file.tell(), shape=shape, order=order)


def check_settings(
    arrays: dict, path: str | Path, feature_settings: dict, keys: tuple[str, ...] = SPLIT_KEYS
) -> None:
    """Raise ValueError, naming the field, when a file was made with other feature settings."""
    remedy = "run `uv run preprocessing.py` again"
    missing = [k for k in (*keys, "schema_version", "settings") if k not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; {remedy}")
    if int(arrays["schema_version"]) != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema {arrays['schema_version']}, this code {SCHEMA_VERSION}; {remedy}"
        )
    stored = json.loads(str(arrays["settings"]))["features"]
    for name, value in feature_settings.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{path} was made with {name} = {stored.get(name)}, config.py says {value}; "
                + remedy
            )


def cut_windows(array: np.ndarray, window_frames: int) -> list[np.ndarray]:
    """Windows along the last axis, the last one zero-padded; at least one."""
    n_windows = max(1, -(-array.shape[-1] // window_frames))
    short = n_windows * window_frames - array.shape[-1]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, short)])
    return np.split(padded, n_windows, axis=-1)


def joined(rows: np.ndarray, first: int, n_windows: int) -> np.ndarray:
    """`n_windows` windows from `first` on, end to end: (window, ..., frame) -> (..., frame).

    Neighbouring rows are of one recording, or of two that follow one another in the set.
    """
    first = max(0, min(first, len(rows) - n_windows))
    return np.concatenate(rows[first : first + n_windows], axis=-1)


def said_of_frames(values: np.ndarray, n_frames: int) -> np.ndarray:
    """What is said once a window, (window,), said of each of its frames, (window, frame)."""
    return np.broadcast_to(values[:, None], (len(values), n_frames))


class WindowDataset(torch.utils.data.Dataset):
    """Windows of a split as they stand, `windows_in_row` joined: (X, f0_hz, valid, voicing).

    `voicing` are rows of `labels.ALLOWED_VOICINGS`.
    """

    def __init__(self, path: str | Path, feature_settings: dict, windows_in_row: int = 1) -> None:
        self.arrays = open_arrays(path)
        self.windows_in_row = windows_in_row
        check_settings(self.arrays, path, feature_settings)

    def __len__(self) -> int:
        return max(1, len(self.arrays["X"]) // self.windows_in_row)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(X (1, bin, frame) float32, f0_hz, valid, voicing, each (frame,)), copies."""
        first = index * self.windows_in_row
        columns = [self.arrays[k] for k in ("X", "f0_hz", "valid")]
        columns.append(said_of_frames(self.arrays["lead_kind"], columns[1].shape[1]))
        x, f0_hz, valid, kind = (joined(rows, first, self.windows_in_row) for rows in columns)
        # Whole recordings of singers have real accompaniments.
        voicing = labels.voicing_targets(f0_hz, kind, kind == labels.SUNG)
        return x.astype(np.float32), f0_hz.astype(np.float32), valid, voicing

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.from_numpy, self.row(index)))


class TrainDataset(WindowDataset):
    """Training windows, augmented; where a stems file is at hand a share is mixed anew.

    Every random choice depends on (seed, epoch, index) alone, so that a resumed run, or one with
    another number of loader workers, sees the same windows.
    """

    def __init__(
        self,
        path: str | Path,
        stems: str | Path | None,
        features: FeatureConfig,
        feature_settings: dict,
        settings: TrainConfig,
    ) -> None:
        super().__init__(path, feature_settings, settings.windows_in_row)
        self.features = features
        self.settings = settings
        self.epoch = 0
        self.mixer = None
        if stems and Path(stems).exists() and settings.remix > 0:
            arrays = open_arrays(stems)
            check_settings(arrays, stems, feature_settings, STEM_KEYS)
            self.mixer = StemMixer(arrays, features, settings)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        rng = np.random.default_rng((self.settings.seed, self.epoch, index))
        if self.mixer and rng.random() < self.settings.remix:
            log_cqt, f0_hz, valid, voicing = self.mixer.draw(rng)
            window = (log_cqt - self.arrays["norm_mean"]) / self.arrays["norm_std"]
        else:
            x, f0_hz, valid, voicing = self.row(index)
            window = x[0]  # (bin, frame)
            bins = int(rng.integers(-self.settings.roll_bins, self.settings.roll_bins + 1))
            window, f0_hz = roll_bins(window, bins), self._transpose(f0_hz, bins)
            gain = random_gain_curve(rng, window.shape[0], self.settings)
            window = window + gain[:, None] / self.arrays["norm_std"]
        window = mask_bands(window, rng, self.settings)
        return (
            torch.from_numpy(window[None].astype(np.float32)),
            torch.from_numpy(f0_hz.astype(np.float32)),
            torch.from_numpy(valid),
            torch.from_numpy(voicing),
        )

    def _transpose(self, f0_hz: np.ndarray, bins: int) -> np.ndarray:
        return f0_hz * 2 ** (bins / self.features.bins_per_octave)


class StemMixer:
    """Draws a lead and a backing and mixes them in the complex CQT domain."""

    SILENT_LEAD = 0.10  # share of windows without any lead: accompaniment must not be voiced
    SILENT_ROW = 0.06  # and of whole rows: that nobody leads shows over longer stretches
    SAME_SONG = 0.6  # share of leads that keep the backing they were recorded with
    HARMONY = 0.12  # share of leads with a quieter doubling that is not the melody
    LONE_LEAD = 0.03
    HARMONY_BINS = (-60, -45, -25, -20, 15, 20, 35, 60)  # octaves, thirds, fourths, fifths, sixths

    def __init__(self, arrays: dict, features: FeatureConfig, settings: TrainConfig) -> None:
        self.arrays = arrays
        self.features = features
        self.settings = settings
        played = arrays["lead_kind"] == labels.PLAYED
        self.leads = (np.flatnonzero(~played), np.flatnonzero(played))
        self.margin = (arrays["lead"].shape[1] - features.n_bins) // 2
        if settings.roll_bins > self.margin:
            raise ValueError(
                f"config.py: roll_bins {settings.roll_bins} exceeds the {self.margin} bins of "
                "margin that stems are stored with"
            )
        n_windows = min(len(arrays["lead"]), len(arrays["backing"]))
        if n_windows < settings.windows_in_row:
            raise ValueError(
                f"config.py: windows_in_row {settings.windows_in_row} exceeds the {n_windows} "
                "windows of the stems; take more songs"
            )

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """(log-CQT (bin, frame), f0_hz, valid, voicing, each (frame,)) of a new mix."""
        n_windows = self.settings.windows_in_row
        i = self._draw_lead(rng)
        f0_hz = joined(self.arrays["f0_hz"], i, n_windows).astype(np.float32)
        valid = joined(self.arrays["valid"], i, n_windows)
        n_frames = self.arrays["f0_hz"].shape[1]
        kind = joined(said_of_frames(self.arrays["lead_kind"], n_frames), i, n_windows)
        own = int(self.arrays["backing_index"][i])
        same_song = own >= 0 and rng.random() < self.SAME_SONG
        j = own if same_song else int(rng.integers(len(self.arrays["backing"])))
        bins = int(rng.integers(-self.settings.roll_bins, self.settings.roll_bins + 1))
        backing_bins = int(rng.integers(-self.settings.roll_bins, self.settings.roll_bins + 1))
        if same_song and rng.random() < 0.5:
            backing_bins = bins
        lead_gain = 10 ** (rng.uniform(*self.settings.voice_gain_db) / 20)
        lead = self._stem("lead", i, bins, rng)
        if rng.random() < self.HARMONY:
            shift = int(rng.choice(self.HARMONY_BINS))
            lead = lead + roll_bins(lead, shift) * np.float32(10 ** (rng.uniform(-20, -9) / 20))
        if rng.random() < self.LONE_LEAD:
            lead_gain *= 30.0
        f0_hz = f0_hz * 2 ** (bins / self.features.bins_per_octave)
        share = 1.0 if rng.random() < self.SILENT_ROW else self.SILENT_LEAD
        silent = np.repeat(rng.random(n_windows) < share, len(f0_hz) // n_windows)
        f0_hz, valid = np.where(silent, np.float32(0), f0_hz), valid | silent
        if silent.all():
            lead_gain = 0.0
        lead = lead * np.where(silent, np.float32(0), np.float32(lead_gain))
        mix = lead + self._stem("backing", j, backing_bins, rng)
        # Stems come at one level, so the mix would be this much louder than a normalised one.
        level = 10 ** (rng.uniform(*self.settings.level_db) / 20) / np.sqrt(1 + lead_gain**2)
        log_cqt = np.log(np.abs(mix) * np.float32(level) + self.features.log_floor)
        may_lead = said_of_frames(self.arrays["backing_may_lead"], n_frames)
        may_lead = joined(may_lead, j, n_windows)
        return log_cqt, f0_hz, valid, labels.voicing_targets(f0_hz, kind, may_lead)

    def _draw_lead(self, rng: np.random.Generator) -> int:
        """First window of a lead, an instrument's in a share `played_share` of the draws."""
        played = rng.random() < self.settings.played_share
        choices = self.leads[played if len(self.leads[played]) else not played]
        return int(rng.choice(choices))

    def _stem(self, kind: str, i: int, bins: int, rng: np.random.Generator) -> np.ndarray:
        """Complex (bin, frame) of a stem, transposed by `bins`, with a random gain curve."""
        low = self.margin - bins
        near = self.arrays[kind][:, low : low + self.features.n_bins]
        halves = np.moveaxis(near, 3, 1)  # (window, bin, frame, 2) -> (window, 2, bin, frame)
        real, imaginary = joined(halves, i, self.settings.windows_in_row).astype(np.float32)
        stem = real + 1j * imaginary  # complex (bin, frame)
        curve = random_gain_curve(rng, self.features.n_bins, self.settings, level=False)
        return stem * np.exp(curve)[:, None].astype(np.float32)


def random_gain_curve(
    rng: np.random.Generator, n_bins: int, settings: TrainConfig, level: bool = True
) -> np.ndarray:
    """Natural log of a random gain, tilt and low-pass over the bins, shape (n_bins,)."""
    position = np.linspace(-0.5, 0.5, n_bins)
    gain_db = rng.uniform(-settings.tilt_db, settings.tilt_db) * position
    gain_db += rng.uniform(0, settings.tilt_db / 2) * np.cos(
        2 * np.pi * (rng.uniform(0.5, 2) * position + rng.random())
    )
    if level:
        gain_db += rng.uniform(*settings.level_db)
    return gain_db * np.log(10) / 20


def roll_bins(window: np.ndarray, bins: int) -> np.ndarray:
    """`window` (bin, frame) moved up by `bins`, the freed edge filled with zeros."""
    if bins == 0:
        return window
    rolled = np.zeros_like(window)
    if bins > 0:
        rolled[bins:] = window[:-bins]
    else:
        rolled[:bins] = window[-bins:]
    return rolled


def mask_bands(window: np.ndarray, rng: np.random.Generator, settings: TrainConfig) -> np.ndarray:
    """SpecAugment (Park et al., Interspeech 2019): one frequency and one time mask, half the time.

    The masked value 0 is the mean of the training split.
    """
    if rng.random() < 0.5:
        return window
    window = window.copy()
    n_bins, n_frames = window.shape
    width = int(rng.integers(0, min(settings.mask_bins, n_bins - 1) + 1))
    low = int(rng.integers(0, n_bins - width))
    window[low : low + width] = 0
    width = int(rng.integers(0, min(settings.mask_frames, n_frames - 1) + 1))
    start = int(rng.integers(0, n_frames - width))
    window[:, start : start + width] = 0
    return window


def class_targets(f0_hz: torch.Tensor) -> dict[str, torch.Tensor]:
    """`labels.frame_targets` of a batch (batch, frame), as tensors on its device."""
    targets = labels.frame_targets(f0_hz.cpu().numpy())
    return {key: torch.from_numpy(value).to(f0_hz.device) for key, value in targets.items()}
