"""Hz, semitones, classes and frame times: the one place that converts between them.

Semitone n counts from C2 (65.406 Hz); classes 1..48 are C2..B5 and class 0 is unvoiced.
Frame k lies at k * hop / sample_rate seconds, the centre of its analysis window.
"""

import numpy as np

from config import FeatureConfig

C2_HZ = 440.0 * 2.0 ** (-33 / 12)  # 65.406 Hz
N_SEMITONES = 48  # C2..B5
N_CHROMA = 12
N_OCTAVES = 4
SUB_BINS = 5  # pitches inside a semitone: -40, -20, 0, 20, 40 cents
N_PITCHES = N_SEMITONES * SUB_BINS

# Who leads a recording. Where it is not known, a voiced frame may be of either class.
UNKNOWN_LEAD, SUNG, PLAYED = range(3)
N_VOICINGS = 3  # classes of a frame: 0 unvoiced, SUNG, PLAYED
# What a frame may be, a row for each target of `voicing_targets`.
UNVOICED_TARGET, SUNG_TARGET, PLAYED_TARGET, VOICED_TARGET, NOT_SUNG_TARGET = range(5)
ALLOWED_VOICINGS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1))


def frame_times_s(n_frames: int, features: FeatureConfig, first_frame: int = 0) -> np.ndarray:
    """Times in seconds of `n_frames` frames from `first_frame` on, shape (n_frames,)."""
    frames = np.arange(first_frame, first_frame + n_frames)
    return frames * features.hop_samples / features.sample_rate


def n_frames_of(n_samples: int, features: FeatureConfig) -> int:
    """Number of frames of a centred transform over `n_samples` samples."""
    return 1 + n_samples // features.hop_samples


def hz_to_semitone(f0_hz: np.ndarray) -> np.ndarray:
    """Fractional semitones above C2; f0_hz <= 0 gives NaN."""
    f0_hz = np.asarray(f0_hz, dtype=np.float64)
    return 12 * np.log2(np.where(f0_hz > 0, f0_hz, np.nan) / C2_HZ)


def semitone_to_hz(semitone: np.ndarray) -> np.ndarray:
    """Hz of (fractional) semitones above C2."""
    return C2_HZ * 2.0 ** (np.asarray(semitone, dtype=np.float64) / 12)


def midi_to_hz(midi: np.ndarray) -> np.ndarray:
    """Hz of (fractional) MIDI numbers (A4 = 69 = 440 Hz)."""
    return semitone_to_hz(np.asarray(midi, dtype=np.float64) - 36)


def hz_to_midi(f0_hz: np.ndarray) -> np.ndarray:
    """Fractional MIDI numbers (A4 = 69 = 440 Hz); f0_hz <= 0 gives NaN."""
    return hz_to_semitone(f0_hz) + 36


def frame_targets(f0_hz: np.ndarray) -> dict[str, np.ndarray]:
    """Class labels of an F0 curve on the frame grid.

    Parameters
    ----------
    f0_hz : np.ndarray [shape=(..., n_frames)]
        Hz, 0 in unvoiced frames.

    Returns
    -------
    dict of arrays of the same shape: `y_voicing` 0/1; `y_pitch_idx` 0..48, 0 for unvoiced frames
    and for voiced frames outside C2..B5; `y_chroma` 0..11 and `y_octave` 0..3 (0 where
    `y_pitch_idx` is 0: the losses ignore them there); `y_pitch_hz`, Hz of the class, 0 unvoiced.
    """
    voiced = np.asarray(f0_hz) > 0
    semitone = np.round(np.where(voiced, hz_to_semitone(f0_hz), -1)).astype(np.int64)
    in_range = voiced & (semitone >= 0) & (semitone < N_SEMITONES)
    semitone = np.where(in_range, semitone, 0)
    class_hz = np.where(in_range, semitone_to_hz(semitone), np.where(voiced, f0_hz, 0.0))
    return {
        "y_pitch_idx": np.where(in_range, semitone + 1, 0).astype(np.int64),
        "y_chroma": (semitone % N_CHROMA).astype(np.int64),
        "y_octave": (semitone // N_CHROMA).astype(np.int64),
        "y_voicing": voiced.astype(np.int64),
        "y_pitch_hz": class_hz.astype(np.float32),
    }


def voicing_targets(
    f0_hz: np.ndarray, lead_kind: np.ndarray, backing_may_lead: np.ndarray
) -> np.ndarray:
    """Rows of ALLOWED_VOICINGS for frames (..., n_frames), int64.

    `lead_kind` (UNKNOWN_LEAD, SUNG or PLAYED) and `backing_may_lead` broadcast to `f0_hz`. While a
    singer is silent, an instrument of a real accompaniment may play what would be the melody if
    nobody sang: `backing_may_lead` says that nobody knows, so such a frame is only not sung.
    """
    unvoiced = np.where(backing_may_lead, NOT_SUNG_TARGET, UNVOICED_TARGET)
    voiced = np.where(np.equal(lead_kind, UNKNOWN_LEAD), VOICED_TARGET, lead_kind)
    return np.where(np.asarray(f0_hz) > 0, voiced, unvoiced).astype(np.int64)


def nearest_on_grid(times_s: np.ndarray, values: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Values of the annotation nearest in time to each of `at_s`, without interpolation.

    `times_s` must be sorted and not empty. Beyond the annotation's ends by more than its own
    median step the value is 0 (unvoiced).
    """
    times_s = np.asarray(times_s, dtype=np.float64)
    right = np.clip(np.searchsorted(times_s, at_s), 1, max(len(times_s) - 1, 1))
    right = np.minimum(right, len(times_s) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(at_s - times_s[left] <= times_s[right] - at_s, left, right)
    step_s = np.median(np.diff(times_s)) if len(times_s) > 1 else 0.0
    inside = (at_s >= times_s[0] - step_s) & (at_s <= times_s[-1] + step_s)
    return np.where(inside, np.asarray(values)[nearest], 0)
