"""What became of each frame: octave errors, other harmonics, neighbours, voicing, edges.

A partition of the frames of a recording, counted, so that songs add up exactly; overall accuracy
is the share of two of its classes.
"""

import numpy as np

from metrics import Aligned

TOLERANCE_CENTS = 50.0
EDGE_S = 0.1  # this near to a voicing edge, a voicing error counts as one of onset or offset
BASE_HZ = 10.0  # mir_eval's 0 cents
HARMONIC_RATIOS = (1 / 5, 1 / 3, 2 / 3, 3 / 2, 3.0, 5.0)  # estimate / reference, beside octaves
PITCH_RANGES_HZ = {  # of the reference
    "below C3": (0.0, 130.81),
    "C3..B3": (130.81, 261.63),
    "C4..B4": (261.63, 523.25),
    "C5 and above": (523.25, np.inf),
}


def error_breakdown(aligned: Aligned) -> dict[str, dict[str, int]]:
    """Count every frame once, by what became of it; over all and by the reference's pitch.

    Returns
    -------
    dict from "all" and each of PITCH_RANGES_HZ (voiced reference frames only) to counts. The
    frames partition into correct, octave_up, octave_down, other_harmonic, semitone, other_pitch
    (voiced in both), missed_voicing, false_voicing, correct_unvoiced; OA is the share of correct
    and correct_unvoiced. Parts of others: missed_with_right_guess, and missed_ and false_ voicing
    near_onset, near_offset (within 100 ms of that edge of the reference, the nearest one).
    """
    in_frame = _frame_classes(aligned)
    ref_hz = BASE_HZ * 2.0 ** (aligned.ref_cents / 1200)
    voiced = aligned.ref_voicing > 0
    counts = {"all": {name: int(mask.sum()) for name, mask in in_frame.items()}}
    for name, (low_hz, high_hz) in PITCH_RANGES_HZ.items():
        inside = voiced & (ref_hz >= low_hz) & (ref_hz < high_hz)
        counts[name] = {k: int((mask & inside).sum()) for k, mask in in_frame.items()}
    return counts


def _frame_classes(aligned: Aligned) -> dict[str, np.ndarray]:
    """Boolean masks (n_frames,) of the classes of `error_breakdown`."""
    ref, est = aligned.ref_voicing > 0, aligned.est_voicing > 0
    guessed = (aligned.est_cents != 0) & (aligned.ref_cents != 0)
    cents = np.where(guessed, aligned.est_cents - aligned.ref_cents, np.inf)
    octaves = np.round(np.where(guessed, cents, 0) / 1200)
    right = np.abs(cents) < TOLERANCE_CENTS
    octave = (octaves != 0) & (np.abs(cents - 1200 * octaves) < TOLERANCE_CENTS)
    harmonic_cents = 1200 * np.log2(HARMONIC_RATIOS)
    harmonic = (np.abs(cents[:, None] - harmonic_cents) < TOLERANCE_CENTS).any(axis=1)
    semitone = ~right & (np.abs(cents) < 3 * TOLERANCE_CENTS)
    near_onset, near_offset = _near_edges(aligned.times_s, ref)
    both, missed, false = ref & est, ref & ~est, ~ref & est
    return {
        "correct": both & right,
        "octave_up": both & octave & (octaves > 0),
        "octave_down": both & octave & (octaves < 0),
        "other_harmonic": both & harmonic,
        "semitone": both & semitone,
        "other_pitch": both & ~(right | octave | harmonic | semitone),
        "missed_voicing": missed,
        "false_voicing": false,
        "correct_unvoiced": ~ref & ~est,
        "missed_with_right_guess": missed & right,
        "missed_near_onset": missed & near_onset,
        "missed_near_offset": missed & near_offset,
        "false_near_onset": false & near_onset,
        "false_near_offset": false & near_offset,
    }


def _near_edges(times_s: np.ndarray, voiced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n_frames,) of frames near a voicing edge: nearest is an onset, nearest an offset."""
    change = np.flatnonzero(np.diff(voiced.astype(int)))
    if len(change) == 0:
        return np.zeros(len(voiced), bool), np.zeros(len(voiced), bool)
    edges_s = (times_s[change] + times_s[change + 1]) / 2
    right = np.clip(np.searchsorted(edges_s, times_s), 1, max(len(edges_s) - 1, 1))
    right = np.minimum(right, len(edges_s) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(
        np.abs(times_s - edges_s[left]) <= np.abs(edges_s[right] - times_s), left, right
    )
    near = np.abs(times_s - edges_s[nearest]) <= EDGE_S
    onset = voiced[change + 1][nearest]
    return near & onset, near & ~onset


def add_counts(breakdowns: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Sum of the breakdowns of several songs."""
    first = breakdowns[0]
    return {
        part: {name: sum(b[part][name] for b in breakdowns) for name in first[part]}
        for part in first
    }
