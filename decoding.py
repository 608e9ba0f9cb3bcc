"""Posteriors to F0: Viterbi over pitch and voicing, refinement inside the semitone, long audio.

The network's input is analysed in chunks with context on both sides, so that memory for it does not
grow with the recording.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

import features as front_end
import labels
from checkpoint import LoadedModel
from config import DecodingConfig
from labels import N_CHROMA, N_SEMITONES
from melody_io import Melody
from model import SUB_BINS
from viterbi import best_path

TINY = 1e-9


@dataclass(frozen=True)
class Posteriors:
    """What the network says of each frame."""

    pitch: np.ndarray  # (n_frames, 240) sums to 1, steps of 20 cents from C2 - 40 cents
    factored: np.ndarray  # (n_frames, 48) chroma times octave, sums to 1
    voicing: np.ndarray  # (n_frames,) 0..1


def posteriors_from_logits(logits: dict[str, torch.Tensor]) -> Posteriors:
    """Posteriors of one recording from logits of shape (n_frames, class)."""
    soft = {name: torch.softmax(y.float(), -1).cpu().numpy() for name, y in logits.items()}
    semitones = np.arange(N_SEMITONES)
    factored = soft["chroma"][:, semitones % N_CHROMA] * soft["octave"][:, semitones // N_CHROMA]
    return Posteriors(soft["pitch"], factored, soft["voicing"][:, 1])


@torch.inference_mode()
def network_logits(audio: np.ndarray, loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """Logits (n_frames, class) of level-normalised mono audio, analysed at once."""
    transform = front_end.complex_cqt(audio, loaded.features)
    log_cqt = front_end.log_magnitude(transform, loaded.features)
    x = front_end.normalise(log_cqt, loaded.norm_mean, loaded.norm_std)
    device = next(loaded.model.parameters()).device
    logits = loaded.model(torch.from_numpy(x[None, None]).to(device))
    return {name: y[0].cpu() for name, y in logits.items()}


def chunk_bounds(n_samples: int, loaded: LoadedModel) -> Iterator[tuple[int, int, int, int]]:
    """(first sample, last sample, first kept frame, last kept frame) of each chunk.

    Chunks start on multiples of 2**10 hops of the grid's pooling, so that every chunk's frames are
    frames of the whole recording; each carries `overlap_seconds` of context on both sides.
    """
    settings, hop = loaded.decoding, loaded.features.hop_samples
    rate = loaded.features.sample_rate
    unit = 2 * hop  # pooled frames
    length = max(unit, int(settings.chunk_seconds * rate) // unit * unit)
    overlap = int(settings.overlap_seconds * rate) // unit * unit
    n_frames = labels.n_frames_of(n_samples, loaded.features)
    for start in range(0, max(n_samples, 1), length):
        last = start + length >= n_samples
        keep_to = n_frames if last else (start + length) // hop
        yield (
            max(0, start - overlap),
            n_samples if last else min(n_samples, start + length + overlap),
            start // hop,
            keep_to,
        )
        if last:
            return


def predict_posteriors(
    audio: np.ndarray,
    loaded: LoadedModel,
    progress: Callable[[float, float], None] | None = None,
) -> Posteriors:
    """Posteriors of a whole recording, chunk by chunk.

    `audio` is mono float32 at `loaded.features.sample_rate`, shape (n_samples,).
    """
    rate, hop = loaded.features.sample_rate, loaded.features.hop_samples
    audio = front_end.normalise_level(audio, loaded.features)
    parts = []
    for first, last, keep_from, keep_to in chunk_bounds(len(audio), loaded):
        logits = network_logits(audio[first:last], loaded)
        offset = first // hop
        parts.append(
            posteriors_from_logits(
                {name: y[keep_from - offset : keep_to - offset] for name, y in logits.items()}
            )
        )
        if progress:
            progress(keep_to * hop / rate, len(audio) / rate)
    return Posteriors(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("pitch", "factored", "voicing"))
    )


def semitone_scores(posteriors: Posteriors, settings: DecodingConfig) -> np.ndarray:
    """Log scores of the 48 semitones, (n_frames, 48): joint salience and factored heads."""
    # (frame, 240) -> (frame, semitone, sub-bin)
    joint = posteriors.pitch.reshape(-1, N_SEMITONES, SUB_BINS).sum(axis=2)
    weight = settings.factored_weight
    return (1 - weight) * np.log(joint + TINY) + weight * np.log(posteriors.factored + TINY)


def viterbi_path(
    pitch_scores: np.ndarray, voicing: np.ndarray, settings: DecodingConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Best semitone (0..47) and voicing of every frame.

    The voicing threshold enters as prior odds: at 0.5 the posterior counts as it is.
    """
    threshold = np.clip(settings.voicing_threshold, 1e-6, 1 - 1e-6)
    voiced_score = np.log(voicing + TINY) - np.log(threshold)
    unvoiced_score = np.log(1 - voicing + TINY) - np.log(1 - threshold)
    return best_path(
        pitch_scores.astype(np.float64),
        np.stack([unvoiced_score, voiced_score], axis=1).astype(np.float64),
        settings.semitone_cost,
        settings.max_jump_cost,
        settings.switch_cost,
    )


def refine_hz(pitch: np.ndarray, semitone: np.ndarray) -> np.ndarray:
    """F0 in Hz: the posterior's mean within 60 cents of its peak near the chosen semitone."""
    n_bins = pitch.shape[1]
    frames = np.arange(len(pitch))[:, None]
    near = semitone[:, None] * SUB_BINS + np.arange(-1, SUB_BINS + 1)  # the semitone +-1 bin
    peak = np.take_along_axis(
        near, pitch[frames, np.clip(near, 0, n_bins - 1)].argmax(1)[:, None], 1
    )
    around = np.clip(peak, 0, n_bins - 1) + np.arange(-3, 4)
    weight = pitch[frames, np.clip(around, 0, n_bins - 1)] * ((around >= 0) & (around < n_bins))
    mean_bin = (weight * around).sum(1) / (weight.sum(1) + TINY)
    return labels.semitone_to_hz((mean_bin - SUB_BINS // 2) / SUB_BINS)


def decode(
    posteriors: Posteriors,
    loaded: LoadedModel,
    settings: DecodingConfig | None = None,
    fmin_hz: float | None = None,
    fmax_hz: float | None = None,
) -> Melody:
    """The melody of posteriors; pitches outside [fmin_hz, fmax_hz] are never chosen."""
    settings = settings or loaded.decoding
    scores = semitone_scores(posteriors, settings)
    class_hz = labels.semitone_to_hz(np.arange(N_SEMITONES))
    half = 2 ** (0.5 / 12)
    allowed = (class_hz * half >= (fmin_hz or 0)) & (class_hz / half <= (fmax_hz or np.inf))
    if not allowed.any():
        raise ValueError(f"no pitch of C2..B5 lies between {fmin_hz} and {fmax_hz} Hz")
    scores = np.where(allowed, scores, -1e3)
    if settings.viterbi:
        semitone, voiced = viterbi_path(scores, posteriors.voicing, settings)
    else:
        semitone = scores.argmax(axis=1)
        voiced = posteriors.voicing > settings.voicing_threshold
    f0_hz = labels.semitone_to_hz(semitone)
    if settings.refine:
        f0_hz = refine_hz(posteriors.pitch, semitone)
    return Melody(
        times_s=labels.frame_times_s(len(f0_hz), loaded.features),
        f0_hz=np.clip(f0_hz, fmin_hz, fmax_hz) if fmin_hz or fmax_hz else f0_hz,
        confidence=posteriors.voicing.astype(np.float64),
        voiced=voiced,
    )


def extract_melody(
    audio: np.ndarray,
    loaded: LoadedModel,
    decoding: DecodingConfig | None = None,
    fmin_hz: float | None = None,
    fmax_hz: float | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Melody:
    """The melody of mono float32 audio (n_samples,) at `loaded.features.sample_rate`.

    `decoding` replaces the checkpoint's own settings; `progress(done_s, total_s)` is called after
    each chunk. Silence is unvoiced.
    """
    posteriors = predict_posteriors(audio, loaded, progress)
    if front_end.is_silent(audio):
        posteriors = replace(posteriors, voicing=np.zeros_like(posteriors.voicing))
    return decode(posteriors, loaded, decoding, fmin_hz, fmax_hz)
