"""Pictures: a recording's CQT with the melody over it, and the curves of a training run.

matplotlib is optional: `uv sync` installs it, or `uv pip install matplotlib`.
"""

import csv
from pathlib import Path

import numpy as np

from config import FeatureConfig, feature_config
from features import complex_cqt, normalise_level
from labels import frame_times_s
from melody_io import Melody, atomic_path

MAX_COLUMNS = 2000  # of the image; longer recordings are thinned out
CHUNK_S = 60.0  # transformed at once
DYNAMIC_RANGE_DB = 60.0
ESTIMATE, REFERENCE = "#39e0ff", "#ffffff"
OCTAVE_HZ = 440.0 * 2.0 ** (np.arange(-33, 64, 12) / 12)  # C2, C3, ..., C10


def _pyplot() -> "matplotlib.pyplot":  # noqa: F821
    try:
        import matplotlib
    except ImportError:
        raise ValueError("pictures need matplotlib: uv pip install matplotlib") from None
    matplotlib.use("Agg")  # files only, no window
    import matplotlib.pyplot as plt

    return plt


def plot_melody(
    png_path: str | Path,
    audio: np.ndarray,
    sample_rate: int,
    melody: Melody,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Draw the CQT of `audio` (n_samples,) at `sample_rate` Hz with the melody over it.

    `reference` is (times_s, f0_hz), f0_hz <= 0 in unvoiced frames. Raises ValueError when
    matplotlib is missing.
    """
    plt = _pyplot()
    features = (
        FeatureConfig(sample_rate=sample_rate)
        if sample_rate != feature_config.sample_rate
        else feature_config
    )
    image_db, times_s, bins_hz = cqt_image(audio, features)
    figure, axes = plt.subplots(figsize=(12, 5), layout="constrained")
    axes.pcolormesh(times_s, bins_hz, image_db, cmap="magma", rasterized=True, shading="nearest")
    axes.set_yscale("log")
    if reference is not None:
        reference_hz = np.where(np.asarray(reference[1]) > 0, reference[1], np.nan)
        axes.plot(reference[0], reference_hz, color=REFERENCE, lw=5, alpha=0.7, label="reference")
    curve_hz = np.where(melody.voiced, melody.f0_hz, np.nan)
    axes.plot(melody.times_s, curve_hz, color=ESTIMATE, lw=1.3, label="melody")
    _note_axis(axes, bins_hz)
    axes.set(xlabel="time (s)", xlim=(times_s[0], max(times_s[-1], times_s[0] + 1e-3)))
    legend = axes.legend(loc="upper right", facecolor="#222222", labelcolor="white")
    legend.set_zorder(5)
    _save(figure, png_path)


def cqt_image(
    audio: np.ndarray, features: FeatureConfig, max_columns: int = MAX_COLUMNS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decibels (bin, column) below the loudest, the columns' times in s and the bins' Hz."""
    audio = normalise_level(audio, features)
    hop = features.hop_samples
    chunk = max(1, int(CHUNK_S * features.sample_rate / hop)) * hop
    step = max(1, int(np.ceil(len(audio) / hop / max_columns)))
    columns, times_s = [], []
    for start in range(0, len(audio), chunk):
        magnitude = np.abs(complex_cqt(audio[start : start + chunk], features))
        columns.append(magnitude[:, ::step].copy())  # lets go of the rest
        first_frame = start // hop
        times_s.append(frame_times_s(magnitude.shape[1], features, first_frame)[::step])
    times_s, first = np.unique(np.concatenate(times_s), return_index=True)
    magnitude = np.concatenate(columns, axis=1)[:, first]
    decibel = 20 * np.log10(np.maximum(magnitude, 1e-6))
    image_db = np.maximum(decibel, decibel.max() - DYNAMIC_RANGE_DB)
    bins = np.arange(features.n_bins)
    return image_db, times_s, features.fmin_hz * 2 ** (bins / features.bins_per_octave)


def _note_axis(axes: "matplotlib.axes.Axes", bins_hz: np.ndarray) -> None:  # noqa: F821
    inside = [(hz, f"C{i + 2}  {hz:.0f} Hz") for i, hz in enumerate(OCTAVE_HZ) if hz < bins_hz[-1]]
    axes.set_yticks([hz for hz, _ in inside], [name for _, name in inside])
    axes.minorticks_off()
    axes.set_ylim(bins_hz[0], bins_hz[-1])


def plot_training_log(csv_path: str | Path, png_path: str | Path) -> None:
    """Draw every numeric column of a training log against `epoch`: losses, scores, rates.

    Raises ValueError for a log without a column `epoch` or without rows, or when matplotlib is
    missing.
    """
    plt = _pyplot()
    log = _read_log(Path(csv_path))
    epochs = log.pop("epoch")
    groups = {}
    for name, values in log.items():
        groups.setdefault(_panel(name), {})[name] = values
    figure, panels = plt.subplots(
        1,
        max(len(groups), 1),
        figsize=(5 * max(len(groups), 1), 5),
        layout="constrained",
        squeeze=False,
    )
    for axes, (kind, curves) in zip(panels[0], groups.items(), strict=True):
        for name, values in curves.items():
            style = "--" if name.startswith("train_") else "-"
            axes.plot(epochs, values, style, marker="o", ms=3, label=name)
        axes.set(xlabel="epoch", title=kind)
        axes.grid(alpha=0.3)
        # Below the axes: inside, it would cover the ends of the curves.
        axes.legend(fontsize="small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    _save(figure, png_path)


def _panel(name: str) -> str:
    """Where a column is drawn: `val_OA` is a score, `val_total` a loss; others stand alone."""
    part, _, what = name.partition("_")
    if part not in ("train", "val"):
        return name
    return "score" if what[:1].isupper() else "loss"


def _read_log(path: Path) -> dict[str, np.ndarray]:
    """Read the columns that hold numbers, NaN where a cell is empty."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "epoch" not in rows[0]:
        raise ValueError(f"{path}: no training log with a column 'epoch' and at least one row")
    log = {}
    for name in rows[0]:
        try:
            log[name] = np.array([float(row[name] or "nan") for row in rows])
        except (TypeError, ValueError):
            continue  # text, such as the time of day
    return log


def _save(figure: "matplotlib.figure.Figure", png_path: str | Path) -> None:  # noqa: F821
    import matplotlib.pyplot as plt

    try:
        with atomic_path(png_path) as part:
            figure.savefig(part, format="png", dpi=110)
    finally:
        plt.close(figure)
