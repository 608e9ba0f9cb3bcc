"""The best path through pitch and voicing (Viterbi, 1967), compiled by numba.

States are the semitones, each voiced and unvoiced, so that a pitch guess goes on through unvoiced
frames. A step costs in proportion to its interval, up to a bound, and for entering or leaving
voicing. Such costs need no table of all pairs: the cheapest way to every semitone comes from one
sweep up, one sweep down and the best semitone of all (P. Felzenszwalb and D. Huttenlocher, 2012).
"""

import numba
import numpy as np


@numba.njit(cache=True)
def _cheapest_sources(
    score: np.ndarray, step_cost: float, max_cost: float, reached: np.ndarray, source: np.ndarray
) -> None:
    """Fill, for each semitone, the best score that reaches it and where that came from."""
    n = len(score)
    top = 0
    for p in range(n):
        reached[p], source[p] = score[p], p
        if score[p] > score[top]:
            top = p
        if p and reached[p - 1] - step_cost > reached[p]:
            reached[p], source[p] = reached[p - 1] - step_cost, source[p - 1]
    for p in range(n - 2, -1, -1):
        if reached[p + 1] - step_cost > reached[p]:
            reached[p], source[p] = reached[p + 1] - step_cost, source[p + 1]
    for p in range(n):
        if score[top] - max_cost > reached[p]:
            reached[p], source[p] = score[top] - max_cost, top


@numba.njit(cache=True)
def best_path(
    pitch_scores: np.ndarray,
    voicing_scores: np.ndarray,
    step_cost: float,
    max_cost: float,
    switch_cost: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Semitone and voicing of every frame on the path with the highest sum of scores.

    Parameters
    ----------
    pitch_scores : np.ndarray [shape=(n_frames, n_semitones), dtype=float64]
        Log scores.
    voicing_scores : np.ndarray [shape=(n_frames, 2), dtype=float64]
        Log scores of unvoiced and voiced.
    step_cost, max_cost, switch_cost : float
        Nats for a semitone, for any interval at most, and for a change of voicing.

    Returns
    -------
    semitone : np.ndarray [shape=(n_frames,), dtype=int64]
    voiced : np.ndarray [shape=(n_frames,), dtype=bool]
    """
    n_frames, n = pitch_scores.shape
    score = np.zeros((2, n))
    for v in range(2):
        score[v] = pitch_scores[0] + voicing_scores[0, v]
    source = np.zeros((n_frames, 2, n), dtype=np.int8)
    switched = np.zeros((n_frames, 2, n), dtype=np.bool_)
    entered, reached = np.zeros((2, n)), np.zeros(n)
    for t in range(1, n_frames):
        for v in range(2):
            for p in range(n):
                switched[t, v, p] = score[1 - v, p] - switch_cost > score[v, p]
                entered[v, p] = max(score[1 - v, p] - switch_cost, score[v, p])
        for v in range(2):
            _cheapest_sources(entered[v], step_cost, max_cost, reached, source[t, v])
            for p in range(n):
                score[v, p] = reached[p] + pitch_scores[t, p] + voicing_scores[t, v]
    semitone = np.zeros(n_frames, dtype=np.int64)
    voiced = np.zeros(n_frames, dtype=np.bool_)
    v = 1 if score[1].max() > score[0].max() else 0
    p = score[v].argmax()
    for t in range(n_frames - 1, -1, -1):
        semitone[t], voiced[t] = p, v == 1
        before = source[t, v, p]
        if switched[t, v, before]:
            v = 1 - v
        p = before
    return semitone, voiced
