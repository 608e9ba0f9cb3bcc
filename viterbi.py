"""The best path through pitch and voicing (Viterbi, 1967), compiled by numba.

States are the semitones, each voiced and unvoiced, so that a pitch guess goes on through unvoiced
frames. A step costs in proportion to its interval, up to a bound, and for entering or leaving
voicing. Such costs need no table of all pairs: the cheapest way to every semitone comes from one
sweep up, one sweep down and the best semitone of all (P. Felzenszwalb and D. Huttenlocher, 2012).
"""

from collections.abc import Iterable

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
def _advance(
    pitch_scores: np.ndarray,
    voicing_scores: np.ndarray,
    step_cost: float,
    max_cost: float,
    switch_cost: float,
    score: np.ndarray,
    source: np.ndarray,
) -> None:
    """Move `score` (2, n_semitones) over a block; fill `source` (n_frames, 2, n_semitones).

    A source p is the semitone of the frame before, ~p the same with the other voicing.
    """
    n = pitch_scores.shape[1]
    entered, reached = np.zeros((2, n)), np.zeros(n)
    switched = np.zeros((2, n), dtype=np.bool_)
    for t in range(len(pitch_scores)):
        for v in range(2):
            for p in range(n):
                switched[v, p] = score[1 - v, p] - switch_cost > score[v, p]
                entered[v, p] = max(score[1 - v, p] - switch_cost, score[v, p])
        for v in range(2):
            _cheapest_sources(entered[v], step_cost, max_cost, reached, source[t, v])
            for p in range(n):
                score[v, p] = reached[p] + pitch_scores[t, p] + voicing_scores[t, v]
                if switched[v, source[t, v, p]]:
                    source[t, v, p] = ~source[t, v, p]


@numba.njit(cache=True)
def _trace_back(
    source: np.ndarray, v: int, p: int, semitone: np.ndarray, voiced: np.ndarray
) -> tuple[int, int]:
    """Fill a block's path, which ends in voicing v and semitone p; the state before the block."""
    for t in range(len(source) - 1, -1, -1):
        semitone[t], voiced[t] = p, v == 1
        p = int(source[t, v, p])
        if p < 0:
            v, p = 1 - v, ~p
    return v, p


def best_path(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    step_cost: float,
    max_cost: float,
    switch_cost: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Semitone and voicing of every frame on the path with the highest sum of scores.

    Parameters
    ----------
    blocks : iterable of (pitch_scores, voicing_scores), in order of time
        Log scores, float64: of the semitones, shape (n_frames, n_semitones), and of unvoiced and
        voiced, shape (n_frames, 2).
    step_cost, max_cost, switch_cost : float
        Nats for a semitone, for any interval at most, and for a change of voicing.

    Returns
    -------
    semitone : np.ndarray [shape=(n_frames,), dtype=int64]
    voiced : np.ndarray [shape=(n_frames,), dtype=bool]
    """
    sources, score = [], None
    for pitch_scores, voicing_scores in blocks:
        n_frames, n_semitones = pitch_scores.shape
        score = np.zeros((2, n_semitones)) if score is None else score
        sources.append(np.empty((n_frames, 2, n_semitones), dtype=np.int8))
        _advance(pitch_scores, voicing_scores, step_cost, max_cost, switch_cost, score, sources[-1])
    v = int(score[1].max() > score[0].max())
    p = int(score[v].argmax())
    path = []
    for source in reversed(sources):
        path.append((np.empty(len(source), np.int64), np.empty(len(source), np.bool_)))
        v, p = _trace_back(source, v, p, *path[-1])
    semitone, voiced = (np.concatenate(part[::-1]) for part in zip(*path, strict=True))
    return semitone, voiced
