import mir_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from error_analysis import PITCH_RANGES_HZ, add_counts, error_breakdown
from metrics import (
    align,
    bootstrap_interval,
    paired_difference,
    pooled,
    score_song,
    song_mean,
)

TIMES_S = np.arange(200) * 0.01
MIR_EVAL_NAMES = {
    "VR": "Voicing Recall",
    "VFA": "Voicing False Alarm",
    "RPA": "Raw Pitch Accuracy",
    "RCA": "Raw Chroma Accuracy",
    "OA": "Overall Accuracy",
}
PARTITION = (
    *("correct", "octave_up", "octave_down", "other_harmonic", "semitone", "other_pitch"),
    *("missed_voicing", "false_voicing", "correct_unvoiced"),
)


def reference():
    """Frames 50..149 of 200 voiced, at a pitch that moves."""
    voiced = (np.arange(200) >= 50) & (np.arange(200) < 150)
    return np.where(voiced, 220 * 2 ** (np.sin(TIMES_S) / 4), 0.0)


def transposed(cents):
    return reference() * 2 ** (cents / 1200)


def scores_of(est_hz, est_times_s=TIMES_S, **kwargs):
    return score_song(TIMES_S, reference(), est_times_s, est_hz, **kwargs)


def expect(scores, **expected):
    assert {k: scores[k] for k in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_perfect():
    expect(scores_of(reference()), VR=1, VFA=0, RPA=1, RCA=1, OA=1, RPA25=1, RPA10=1, VF=1)
    expect(scores_of(reference()), RPA_no_guess=1, n_frames=200, n_voiced=100, missing_s=0)


def test_all_unvoiced():
    expect(scores_of(np.zeros(200)), VR=0, VFA=0, RPA=0, RCA=0, OA=0.5, VF=0)


def test_guesses_without_voicing_tell_the_two_conventions_apart():
    expect(scores_of(-reference()), VR=0, RPA=1, RCA=1, RPA_no_guess=0, RCA_no_guess=0, OA=0.5)


def test_octave_up():
    expect(scores_of(transposed(1200)), VR=1, VFA=0, RPA=0, RCA=1, OA=0.5)


@pytest.mark.parametrize(
    ("cents", "rpa", "rpa25", "rpa10"), [(5, 1, 1, 1), (20, 1, 1, 0), (40, 1, 0, 0), (60, 0, 0, 0)]
)
def test_sharp(cents, rpa, rpa25, rpa10):
    scores = scores_of(transposed(cents))
    expect(scores, RPA=rpa, RPA25=rpa25, RPA10=rpa10, RCA=rpa, VR=1, OA=0.5 + 0.5 * rpa)


def test_shifted_by_one_hop():
    expect(scores_of(np.roll(reference(), 1)), VR=0.99, VFA=0.01, RPA=0.99, OA=0.99)


def test_resampled_grid():
    fine_s = np.arange(2000) * 0.001
    fine_hz = np.interp(fine_s, TIMES_S, np.where(reference() > 0, reference(), 220))
    fine_hz[(fine_s < 0.4995) | (fine_s > 1.4995)] = 0
    expect(scores_of(fine_hz, fine_s), VR=1, VFA=0, RPA=1, RPA10=1, OA=1)


def test_swapped_voicing():
    guess = np.where(reference() > 0, -reference(), 220.0)
    scores = scores_of(guess)
    expect(scores, VR=0, VFA=1, RPA=1, OA=0, VF=0)
    assert scores["d_prime"] == pytest.approx(-scores_of(reference())["d_prime"]) and (
        scores["d_prime"] < -4
    )


def test_unreliable_frames_are_not_scored():
    estimate = reference()
    estimate[60:70] *= 1.5
    reliable = np.ones(200, bool)
    reliable[60:70] = False
    expect(scores_of(estimate), RPA=0.9)
    expect(scores_of(estimate, reliable=reliable), RPA=1, n_frames=190, n_voiced=90)


def test_unreliable_frames_on_a_grid_that_starts_late():
    late_s = TIMES_S + 0.02
    reliable = np.ones(200, bool)
    reliable[10:] = False
    scores = score_song(late_s, reference(), late_s, reference(), reliable)
    assert scores["n_frames"] == 11  # mir_eval's frame at 0 s follows the first


def test_reference_of_one_class_gives_nan():
    silent = score_song(TIMES_S, np.zeros(200), TIMES_S, np.full(200, 220.0))
    expect(silent, VR=np.nan, RPA=np.nan, RCA=np.nan, VFA=1, OA=0, VF=np.nan, d_prime=np.nan)
    voiced = score_song(TIMES_S, np.full(200, 220.0), TIMES_S, np.full(200, 220.0))
    expect(voiced, VR=1, RPA=1, VFA=np.nan, OA=1)
    expect(song_mean([silent, voiced]), VR=1, VFA=1, OA=0.5)
    expect(pooled([silent, voiced]), VR=1, VFA=1, OA=0.5, VF=2 / 3)


def test_short_estimate_is_unvoiced_after_its_end():
    scores = scores_of(reference()[:100], TIMES_S[:100])  # ends voiced; mir_eval would hold it
    expect(scores, VR=0.5, VFA=0, RPA=0.5, OA=0.75, missing_tail_s=0.99, missing_s=0.99)


def test_gap_and_late_start_are_unvoiced():
    keep = (np.arange(200) >= 60) & ((np.arange(200) < 80) | (np.arange(200) >= 120))
    scores = scores_of(reference()[keep], TIMES_S[keep])
    expect(scores, VR=0.5, VFA=0, RPA=0.5, missing_s=1.0, missing_tail_s=0)


def test_gap_that_reaches_beyond_the_reference_counts_up_to_its_end():
    times_s = np.append(TIMES_S[:100], 3 + TIMES_S)
    scores = scores_of(np.append(reference()[:100], reference()), times_s)
    expect(scores, VR=0.5, missing_s=0.99)


def test_a_few_missing_rows_score_as_mir_eval_does():
    scores = scores_of(reference()[3:-3], TIMES_S[3:-3])
    theirs = mir_eval.melody.evaluate(TIMES_S, reference(), TIMES_S[3:-3], reference()[3:-3])
    assert scores["missing_s"] == 0
    assert scores["OA"] == theirs["Overall Accuracy"]


@pytest.mark.parametrize(
    ("times_s", "f0_hz", "message"),
    [
        ([0.0, 0.01, 0.01], [0, 1, 2], "estimate: duplicate time 0.01 s in row 3"),
        ([0.0, 0.02, 0.01], [0, 1, 2], "estimate: times go back 0.01 s in row 3"),
        ([0.0, 0.01, 0.02], [0, np.nan, 2], "estimate: NaN or infinity in row 2"),
        ([0.0, np.inf, 0.02], [0, 1, 2], "estimate: NaN or infinity in row 2"),
        ([0.0, 0.01], [0, 1, 2], "estimate: times have shape"),
        ([], [], "estimate: no frames"),
    ],
)
def test_bad_series_are_named(times_s, f0_hz, message):
    with pytest.raises(ValueError, match=message):
        score_song(TIMES_S, reference(), np.array(times_s), np.array(f0_hz))


def test_callers_arrays_stay_as_they_are():
    arrays = [TIMES_S.copy(), reference(), TIMES_S[:150].copy(), -reference()[:150]]
    before = [a.copy() for a in arrays]
    score_song(*arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@st.composite
def melody_pairs(draw):
    """A reference and an estimate that covers it, each on a grid of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_ref = draw(st.integers(2, 120))
    ref_times_s = draw(st.sampled_from([0.0, 0.02, 0.3])) + np.arange(n_ref) * draw(
        st.sampled_from([0.01, 0.02, 256 / 44_100])
    )
    hop_s = draw(st.sampled_from([0.01, 128 / 44_100, 256 / 22_050]))
    n_est = int(ref_times_s[-1] / hop_s) + draw(st.integers(1, 20))
    est_times_s = np.arange(n_est) * hop_s
    ref_hz = rng.choice([0, 1], n_ref) * 110 * 2 ** rng.uniform(0, 3, n_ref)
    near = np.interp(est_times_s, ref_times_s, np.where(ref_hz > 0, ref_hz, 200))
    ratio = rng.choice([1, 1, 1, 2, 0.5, 1.5], n_est) * 2 ** (rng.normal(0, 40, n_est) / 1200)
    return ref_times_s, ref_hz, est_times_s, near * ratio * rng.choice([-1, 0, 1], n_est)


@settings(max_examples=150, deadline=None)
@given(melody_pairs())
@pytest.mark.filterwarnings("ignore")
def test_equal_to_mir_eval(pair):
    ours = score_song(*pair)
    theirs = mir_eval.melody.evaluate(*pair)
    without = mir_eval.melody.evaluate(*pair[:3], np.maximum(pair[3], 0))
    for cents in (25, 10):
        strict = mir_eval.melody.evaluate(*pair, cent_tolerance=cents)
        theirs[f"RPA{cents}"] = strict["Raw Pitch Accuracy"]
    expected = {k: theirs[v] for k, v in MIR_EVAL_NAMES.items()}
    expected |= {"RPA25": theirs["RPA25"], "RPA10": theirs["RPA10"]}
    expected |= {f"{k}_no_guess": without[MIR_EVAL_NAMES[k]] for k in ("RPA", "RCA")}
    for name, value in expected.items():
        assert np.isnan(ours[name]) or abs(ours[name] - value) < 1e-12, name
    voiced = ours["n_voiced"]
    assert np.isnan(ours["RPA"]) == (voiced == 0)
    assert np.isnan(ours["VFA"]) == (voiced == ours["n_frames"])


@settings(max_examples=50, deadline=None)
@given(st.lists(melody_pairs(), min_size=1, max_size=4))
@pytest.mark.filterwarnings("ignore")
def test_pooled_equals_mir_eval_on_all_frames(pairs):
    aligned = [align(*pair).arrays for pair in pairs]
    together = [np.concatenate(arrays) for arrays in zip(*aligned, strict=True)]
    ours = pooled([score_song(*pair) for pair in pairs])
    assert abs(ours["OA"] - mir_eval.melody.overall_accuracy(*together)) < 1e-12
    if together[0].any():
        assert abs(ours["RPA"] - mir_eval.melody.raw_pitch_accuracy(*together)) < 1e-12
        assert abs(ours["VR"] - mir_eval.melody.voicing_recall(*together[::2])) < 1e-12
    if not together[0].all():
        false_alarm = mir_eval.melody.voicing_false_alarm(*together[::2])
        assert abs(ours["VFA"] - false_alarm) < 1e-12


@settings(max_examples=50, deadline=None)
@given(melody_pairs())
def test_breakdown_partitions_the_frames_and_agrees_with_the_scores(pair):
    scores, errors = score_song(*pair), error_breakdown(align(*pair))
    counts = errors["all"]
    assert sum(counts[k] for k in PARTITION) == scores["n_frames"]
    right = counts["correct"] + counts["correct_unvoiced"]
    assert right == pytest.approx(scores["OA"] * scores["n_frames"])
    in_ranges = sum(errors[r][k] for r in PITCH_RANGES_HZ for k in PARTITION)
    assert in_ranges == scores["n_voiced"]
    if scores["n_voiced"]:
        pitch_hits = counts["correct"] + counts["missed_with_right_guess"]
        assert pitch_hits == pytest.approx(scores["RPA"] * scores["n_voiced"])


@pytest.mark.parametrize(
    ("cents", "name"),
    [
        (0, "correct"),
        (1200, "octave_up"),
        (2410, "octave_up"),
        (-1190, "octave_down"),
        (1902, "other_harmonic"),
        (-1902, "other_harmonic"),
        (702, "other_harmonic"),
        (100, "semitone"),
        (-60, "semitone"),
        (300, "other_pitch"),
        (1100, "other_pitch"),
    ],
)
def test_errors_are_named(cents, name):
    aligned = align(TIMES_S, reference(), TIMES_S, transposed(cents))
    assert error_breakdown(aligned)["all"][name] == 100
    assert error_breakdown(aligned)["all"]["correct_unvoiced"] == 100


def test_edges():
    estimate = reference()
    estimate[50:53] = 0  # late: 3 frames at the onset
    estimate[98:102] = 0  # 4 frames in the middle of a note
    estimate[150:152] = 220  # late: 2 frames after the offset
    counts = error_breakdown(align(TIMES_S, reference(), TIMES_S, estimate))["all"]
    assert (counts["missed_voicing"], counts["missed_near_onset"]) == (7, 3)
    assert (counts["false_voicing"], counts["false_near_offset"]) == (2, 2)
    assert counts["missed_near_offset"] == counts["false_near_onset"] == 0


def test_breakdowns_add_up_by_range():
    one = error_breakdown(align(TIMES_S, np.full(200, 100.0), TIMES_S, np.full(200, 100.0)))
    two = error_breakdown(align(TIMES_S, np.full(200, 600.0), TIMES_S, np.zeros(200)))
    total = add_counts([one, two])
    assert total["below C3"]["correct"] == total["C5 and above"]["missed_voicing"] == 200
    assert sum(total["C4..B4"].values()) == 0


def test_bootstrap_interval_of_normal_values():
    values = np.random.default_rng(3).normal(0.7, 0.1, 400)
    low, high = bootstrap_interval(values, seed=1)
    assert (low, high) == bootstrap_interval(values, seed=1)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
    assert bootstrap_interval(np.append(values, np.nan), seed=1) == (low, high)
    assert np.isnan(bootstrap_interval([0.5])).all()


def test_paired_difference_uses_common_songs():
    rng = np.random.default_rng(5)
    hard = rng.uniform(0, 1, 50)  # songs differ far more than the systems do
    first = {f"s{i}": hard[i] + 0.02 + rng.normal(0, 0.005) for i in range(50)}
    second = {f"s{i}": hard[i] for i in range(50)} | {"only_here": 1.0}
    result = paired_difference(first, second)
    assert result["n_songs"] == 50
    assert 0.015 < result["low"] < result["difference"] < result["high"] < 0.025
    opposite = paired_difference(second, first)
    assert opposite["difference"] == pytest.approx(-result["difference"])
