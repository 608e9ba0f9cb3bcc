"""Scores of a melody against its reference, their averages and intervals.

Every accuracy comes from `mir_eval.melody` on the reference's own time grid (50 cents unless the
name says otherwise). Conventions:

- 0 Hz is unvoiced; in an estimate a negative value is unvoiced with a pitch guess.
- `RPA`, `RCA` count the guesses of unvoiced frames. `RPA_no_guess`, `RCA_no_guess` are the same
  with those guesses set to 0, as systems that output 0 Hz in unvoiced frames are scored: RPA then
  cannot much exceed VR. The literature mixes the two.
- mir_eval holds the last value of an estimate that ends early, and interpolates across missing
  rows. Here, where rows are missing for longer than `MISSING_S`, those frames are unvoiced
  without a guess, and `missing_s` says how much. All other inputs score as
  `mir_eval.melody.evaluate` does, which includes its frame at 0 s for grids that start later.
- A measure without a frame to count (RPA of a song with no voiced reference frame) is NaN and is
  left out of means, where mir_eval says 0 or 1.

References: Salamon et al., IEEE Signal Processing Magazine 31(2), 2014; Poliner et al., IEEE TASLP
15(4), 2007; d': Hautus, Behavior Research Methods 27, 1995 (log-linear correction).
"""

import warnings
from dataclasses import dataclass

import mir_eval.melody
import numpy as np
from scipy.special import ndtri

MISSING_S = 0.1  # estimates without rows for longer than this are unvoiced there
COUNTS = ("n_frames", "n_voiced", "missing_s", "missing_tail_s")  # in a score, not measures


@dataclass(frozen=True)
class Aligned:
    """A reference and an estimate on the reference's grid, unreliable frames removed.

    All arrays have shape (n_frames,): times in s; voicing 0.0 or 1.0; pitch in cents above 10 Hz,
    0 where there is none. `missing_s` and `missing_tail_s` are the seconds of the reference that
    the estimate has no rows for, in all and after its end.
    """

    times_s: np.ndarray
    ref_voicing: np.ndarray
    ref_cents: np.ndarray
    est_voicing: np.ndarray
    est_cents: np.ndarray
    missing_s: float
    missing_tail_s: float

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The four arguments of mir_eval's measures."""
        return self.ref_voicing, self.ref_cents, self.est_voicing, self.est_cents


def check_series(times_s: np.ndarray, f0_hz: np.ndarray, name: str) -> None:
    """Raise ValueError, naming the row, unless this is a finite melody with increasing times."""
    if np.ndim(times_s) != 1 or np.shape(times_s) != np.shape(f0_hz):
        raise ValueError(
            f"{name}: times have shape {np.shape(times_s)} and frequencies {np.shape(f0_hz)}; "
            "both must be (n_frames,)"
        )
    if len(times_s) == 0:
        raise ValueError(f"{name}: no frames")
    broken = ~(np.isfinite(times_s) & np.isfinite(f0_hz))
    if broken.any():
        raise ValueError(f"{name}: NaN or infinity in row {int(np.argmax(broken)) + 1}")
    steps_s = np.diff(times_s)
    if (steps_s <= 0).any():
        row = int(np.argmax(steps_s <= 0)) + 1
        trouble = "duplicate time" if steps_s[row - 1] == 0 else "times go back"
        raise ValueError(f"{name}: {trouble} {times_s[row]:.6g} s in row {row + 1}")


def fill_missing(
    times_s: np.ndarray, f0_hz: np.ndarray, end_s: float
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Mark stretches from 0 s to `end_s` that have no rows as unvoiced.

    Returns the times and Hz with one 0 Hz row at the start of each such stretch, the missing
    seconds in all, and those after the last row.
    """
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    limit_s = max(MISSING_S, 2.5 * step_s)
    starts_s = times_s + step_s  # where the validity of each row ends
    gaps_s = np.append(np.minimum(times_s[1:], end_s), end_s) - starts_s
    is_gap = gaps_s + step_s > limit_s
    head = [0.0] if times_s[0] > limit_s else []
    new_times_s = np.concatenate([times_s, starts_s[is_gap], head])
    new_hz = np.concatenate([f0_hz, np.zeros(int(is_gap.sum()) + len(head))])
    order = np.argsort(new_times_s, kind="stable")
    missing_s = float(gaps_s[is_gap].sum()) + (float(times_s[0]) if head else 0.0)
    tail_s = float(gaps_s[-1]) if is_gap[-1] else 0.0
    return new_times_s[order], new_hz[order], missing_s, tail_s


def align(
    ref_times_s: np.ndarray,
    ref_hz: np.ndarray,
    est_times_s: np.ndarray,
    est_hz: np.ndarray,
    reliable: np.ndarray | None = None,
) -> Aligned:
    """Bring an estimate to the reference's grid with mir_eval.

    Parameters
    ----------
    ref_times_s, ref_hz : np.ndarray [shape=(n_ref,)]
        Seconds, increasing; Hz, 0 (or negative) in unvoiced frames.
    est_times_s, est_hz : np.ndarray [shape=(n_est,)]
        On any clock; Hz, negative: unvoiced with a guess, 0: unvoiced.
    reliable : np.ndarray of bool [shape=(n_ref,)], optional
        False: this frame is not scored.

    Raises
    ------
    ValueError
        Shapes differ, no frames, NaN, duplicate or unsorted times.
    """
    ref_times_s, ref_hz, est_times_s, est_hz = (
        np.asarray(a, dtype=np.float64) for a in (ref_times_s, ref_hz, est_times_s, est_hz)
    )
    check_series(ref_times_s, ref_hz, "reference")
    check_series(est_times_s, est_hz, "estimate")
    est_times_s, est_hz, missing_s, tail_s = fill_missing(est_times_s, est_hz, ref_times_s[-1])
    with warnings.catch_warnings():  # on uneven steps, which fill_missing has dealt with
        warnings.simplefilter("ignore")
        arrays = mir_eval.melody.to_cent_voicing(ref_times_s, ref_hz, est_times_s, est_hz)
    keep = np.ones(len(ref_times_s), bool) if reliable is None else np.asarray(reliable, bool)
    if keep.shape != ref_times_s.shape:
        raise ValueError(f"reliable has shape {keep.shape}, the reference {ref_times_s.shape}")
    if ref_times_s[0] > 0:  # mir_eval has put a copy of the first frame at 0 s
        ref_times_s, keep = np.insert(ref_times_s, 0, 0.0), np.insert(keep, 0, keep[0])
    return Aligned(ref_times_s[keep], *(a[keep] for a in arrays), missing_s, tail_s)


def score_song(
    ref_times_s: np.ndarray,
    ref_hz: np.ndarray,
    est_times_s: np.ndarray,
    est_hz: np.ndarray,
    reliable: np.ndarray | None = None,
    tolerances_cents: tuple[float, ...] = (25.0, 10.0),
) -> dict[str, float]:
    """All measures of one song, 0..1; see `align` for the arguments and errors.

    Returns
    -------
    dict with VR, VFA, RPA, RCA, OA at 50 cents; RPA25, RPA10 at other tolerances; RPA_no_guess,
    RCA_no_guess; VF (F-measure of voicing) and d_prime; the counts n_frames and n_voiced of the
    reference that `pooled` needs; missing_s and missing_tail_s, seconds without an estimate.
    """
    aligned = align(ref_times_s, ref_hz, est_times_s, est_hz, reliable)
    no_guess = align(ref_times_s, ref_hz, est_times_s, np.maximum(est_hz, 0), reliable)
    melody = mir_eval.melody
    with warnings.catch_warnings():  # on melodies without a voiced frame: NaN below says it
        warnings.simplefilter("ignore")
        recall, false_alarm = melody.voicing_measures(aligned.ref_voicing, aligned.est_voicing)
        scores = {
            "VR": recall,
            "VFA": false_alarm,
            "RPA": melody.raw_pitch_accuracy(*aligned.arrays),
            "RCA": melody.raw_chroma_accuracy(*aligned.arrays),
            "OA": melody.overall_accuracy(*aligned.arrays),
            "RPA_no_guess": melody.raw_pitch_accuracy(*no_guess.arrays),
            "RCA_no_guess": melody.raw_chroma_accuracy(*no_guess.arrays),
        }
        for cents in tolerances_cents:
            name = f"RPA{cents:g}"
            scores[name] = melody.raw_pitch_accuracy(*aligned.arrays, cent_tolerance=cents)
    n_frames, n_voiced = len(aligned.times_s), int(aligned.ref_voicing.sum())
    scores = {
        k: float(v) if _denominator(k, n_frames, n_voiced) else np.nan for k, v in scores.items()
    }
    scores |= _voicing_summary(scores["VR"], scores["VFA"], n_frames, n_voiced)
    counts = (n_frames, n_voiced, aligned.missing_s, aligned.missing_tail_s)
    return scores | dict(zip(COUNTS, counts, strict=True))


def _denominator(measure: str, n_frames: int, n_voiced: int) -> int:
    """Count the reference frames that a measure is a share of."""
    return {"OA": n_frames, "VFA": n_frames - n_voiced}.get(measure, n_voiced)


def _voicing_summary(
    recall: float, false_alarm: float, n_frames: int, n_voiced: int
) -> dict[str, float]:
    """F-measure and d' of voicing; NaN where the reference has one class only."""
    n_unvoiced = n_frames - n_voiced
    if not (n_voiced and n_unvoiced):
        return {"VF": np.nan, "d_prime": np.nan}
    hits, false_alarms = recall * n_voiced, false_alarm * n_unvoiced
    z_hits = ndtri((hits + 0.5) / (n_voiced + 1))  # corrected, so that 0 and 1 stay finite
    z_false_alarms = ndtri((false_alarms + 0.5) / (n_unvoiced + 1))
    f_measure = 2 * hits / (n_voiced + hits + false_alarms)
    return {"VF": float(f_measure), "d_prime": float(z_hits - z_false_alarms)}


def measures_of(scores: list[dict]) -> list[str]:
    """List the names of the measures in scores of `score_song`, without the counts."""
    return [name for name in scores[0] if name not in COUNTS]


def song_mean(scores: list[dict]) -> dict[str, float]:
    """Mean over songs of each measure; songs where it is NaN are left out."""
    means = {}
    for measure in measures_of(scores):
        values = np.array([s[measure] for s in scores])
        values = values[~np.isnan(values)]
        means[measure] = float(values.mean()) if len(values) else np.nan
    return means


def pooled(scores: list[dict]) -> dict[str, float]:
    """Each measure over the frames of all songs together, from the songs' counts."""
    n_frames, n_voiced = (sum(s[key] for s in scores) for key in ("n_frames", "n_voiced"))
    result = {}
    for measure in measures_of(scores):
        n_all = _denominator(measure, n_frames, n_voiced)
        weights = [_denominator(measure, s["n_frames"], s["n_voiced"]) for s in scores]
        hits = sum(s[measure] * n for s, n in zip(scores, weights, strict=True) if n)
        result[measure] = hits / n_all if n_all else np.nan
    return result | _voicing_summary(result["VR"], result["VFA"], n_frames, n_voiced)


def bootstrap_interval(
    values: np.ndarray, n_bootstrap: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over songs, by resampling songs; NaN values are left out.

    (NaN, NaN) with fewer than two songs. Clips of one singer are not independent, so that the
    interval of MIR-1K is too narrow as a statement about new singers.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(n_bootstrap, len(values)))
    tail = (1 - level) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    first: dict[str, float], second: dict[str, float], n_bootstrap: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean of first minus second over the songs that both have, with its 95 % interval.

    Parameters
    ----------
    first, second : dict
        song_id -> value of one measure; NaN counts as absent.

    Returns
    -------
    dict with difference, low, high, n_songs.
    """
    songs = sorted(set(first) & set(second))
    differences = np.array([first[s] - second[s] for s in songs], dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    low, high = bootstrap_interval(differences, n_bootstrap, seed)
    mean = float(differences.mean()) if len(differences) else np.nan
    return {"difference": mean, "low": low, "high": high, "n_songs": len(differences)}
