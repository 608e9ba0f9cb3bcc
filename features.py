"""Audio to normalised log-CQT: one front end for training and inference.

With `gamma_hz` > 0 the transform is the variable-Q transform of Schörkhuber et al. (AES 2014):
bandwidths of the CQT plus gamma, so that low filters are shorter. The frame grid is that of
`labels.frame_times_s`.
"""

import numpy as np

from config import FeatureConfig
from labels import n_frames_of

SILENCE_RMS = 1e-5  # below this a recording is left as it is
RMS_BLOCK = 1 << 20  # samples


def rms(audio: "np.ndarray | SpooledAudio") -> float:  # noqa: F821
    """Root mean square of mono audio (n_samples,), read block by block; 0 without samples."""
    blocks = (audio[first : first + RMS_BLOCK] for first in range(0, len(audio), RMS_BLOCK))
    energy = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
    return (energy / max(len(audio), 1)) ** 0.5


def level_gain(rms_of_audio: float, features: FeatureConfig) -> float:
    """Factor that brings a recording of this root mean square to the level of training."""
    return features.rms_level / rms_of_audio if rms_of_audio > SILENCE_RMS else 1.0


def normalise_level(audio: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """`audio` (n_samples,) scaled to `features.rms_level`; silence stays silent."""
    return (audio * level_gain(rms(audio), features)).astype(np.float32)


def complex_cqt(audio: np.ndarray, features: FeatureConfig, margin_bins: int = 0) -> np.ndarray:
    """Complex transform, linear in `audio`.

    Parameters
    ----------
    audio : np.ndarray [shape=(n_samples,), dtype=float32]
        Mono at `features.sample_rate`; at least one sample.
    margin_bins : int
        Bins added below and above, for pitch shifts by slicing.

    Returns
    -------
    np.ndarray [shape=(n_bins + 2 * margin_bins, 1 + n_samples // hop), dtype=complex64]
    """
    import librosa

    # The lowest filters need some signal to stand on: pad short audio, then cut.
    n_frames = n_frames_of(len(audio), features)
    padded = np.pad(audio, (0, max(0, features.sample_rate - len(audio))))
    transform = librosa.vqt(
        padded,
        sr=features.sample_rate,
        hop_length=features.hop_samples,
        fmin=features.fmin_hz * 2 ** (-margin_bins / features.bins_per_octave),
        n_bins=features.n_bins + 2 * margin_bins,
        bins_per_octave=features.bins_per_octave,
        gamma=features.gamma_hz,
    )
    return transform[:, :n_frames].astype(np.complex64)


def log_magnitude(transform: np.ndarray, features: FeatureConfig) -> np.ndarray:
    """Natural log of the magnitude plus the floor, float32, same shape."""
    return np.log(np.abs(transform) + features.log_floor, dtype=np.float32)


def normalise(log_cqt: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Per-frequency normalisation with the training split's statistics, shape (..., bin, frame)."""
    return ((log_cqt - mean) / std).astype(np.float32)


class RunningStats:
    """Per-frequency mean and standard deviation, accumulated window by window."""

    def __init__(self, n_bins: int) -> None:
        self._n_frames = 0
        self._sum = np.zeros(n_bins)
        self._sum_squares = np.zeros(n_bins)

    def add(self, log_cqt: np.ndarray) -> None:
        """Count the frames of `log_cqt`, shape (n_bins, n_frames)."""
        values = log_cqt.astype(np.float64)
        self._n_frames += values.shape[1]
        self._sum += values.sum(axis=1)
        self._sum_squares += np.square(values).sum(axis=1)

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Both of shape (n_bins, 1), float32; the deviation is at least 1e-3."""
        if not self._n_frames:
            raise ValueError("no training window: normalisation statistics are undefined")
        mean = self._sum / self._n_frames
        variance = np.maximum(self._sum_squares / self._n_frames - mean**2, 1e-6)
        return mean[:, None].astype(np.float32), np.sqrt(variance)[:, None].astype(np.float32)
