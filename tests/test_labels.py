import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labels
from config import FeatureConfig
from melody_io import read_melody

CENTS = 2 ** (1 / 1200)


def test_every_class_goes_there_and_back():
    semitones = np.arange(labels.N_SEMITONES)
    targets = labels.frame_targets(labels.semitone_to_hz(semitones))
    assert targets["y_pitch_idx"].tolist() == (semitones + 1).tolist()
    assert (targets["y_chroma"] + 12 * targets["y_octave"]).tolist() == semitones.tolist()
    assert set(targets["y_octave"]) == {0, 1, 2, 3} and set(targets["y_chroma"]) == set(range(12))
    back = labels.hz_to_semitone(targets["y_pitch_hz"])
    np.testing.assert_allclose(back, semitones, atol=1e-4)


def test_reference_pitches():
    assert labels.midi_to_hz(69) == pytest.approx(440)
    assert pytest.approx(65.406, abs=1e-3) == labels.C2_HZ
    assert labels.frame_targets(np.array([440.0]))["y_pitch_idx"] == [34]  # A4: C2 + 33, and 1
    assert np.isnan(labels.hz_to_semitone([0.0, -220.0])).all()


@given(st.floats(-0.49, 47.49))
def test_the_class_is_the_nearest_semitone(semitone):
    f0_hz = labels.semitone_to_hz(np.array([semitone]))
    targets = labels.frame_targets(f0_hz)
    assert abs(targets["y_pitch_idx"][0] - 1 - semitone) <= 0.5 + 1e-9
    assert abs(1200 * np.log2(f0_hz[0] / targets["y_pitch_hz"][0])) <= 50.01


def test_quantisation_has_no_bias():
    hz = labels.semitone_to_hz(np.linspace(0, 47, 10_001))
    class_hz = labels.frame_targets(hz)["y_pitch_hz"]
    errors = labels.hz_to_semitone(class_hz) - labels.hz_to_semitone(hz)
    assert abs(errors.mean()) < 1e-3


def test_voiced_frames_out_of_range_stay_voiced_without_a_pitch():
    low_hz, high_hz = labels.C2_HZ / CENTS**60, labels.semitone_to_hz(47) * CENTS**60
    targets = labels.frame_targets(np.array([low_hz, high_hz, 30.0, 2000.0]))
    assert targets["y_voicing"].tolist() == [1, 1, 1, 1]
    assert targets["y_pitch_idx"].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(targets["y_pitch_hz"], [low_hz, high_hz, 30, 2000], rtol=1e-5)


def test_unvoiced_frames():
    targets = labels.frame_targets(np.zeros((2, 3)))
    assert all(v.shape == (2, 3) and not v.any() for v in targets.values())


def test_frame_times():
    features = FeatureConfig()
    assert labels.n_frames_of(132_300, features) == 517
    times_s = labels.frame_times_s(517, features)
    assert times_s[0] == 0 and times_s[516] == 516 * 256 / 44_100
    np.testing.assert_array_equal(labels.frame_times_s(7, features, 510), times_s[510:])


def test_nearest_never_invents_a_pitch_between_a_note_and_a_rest():
    times_s = np.arange(50) * 0.01
    values = np.where(np.arange(50) % 2, 440.0, 0.0)
    found = labels.nearest_on_grid(times_s, values, np.linspace(0, 0.49, 997))
    assert set(found) == {0.0, 440.0}


def test_nearest_takes_the_nearer_side():
    times_s, values = np.array([0.0, 0.1, 0.2]), np.array([1.0, 2.0, 3.0])
    found = labels.nearest_on_grid(times_s, values, np.array([0.0, 0.04, 0.06, 0.14, 0.16, 0.2]))
    assert found.tolist() == [1, 1, 2, 2, 3, 3]


def test_nearest_beyond_the_annotation_is_unvoiced():
    times_s, values = np.arange(10, 20) * 0.01, np.full(10, 220.0)
    found = labels.nearest_on_grid(times_s, values, np.array([0.0, 0.085, 0.095, 0.195, 0.205, 1]))
    assert found.tolist() == [0, 0, 220, 220, 0, 0]


def test_nearest_of_a_single_value():
    at_s = np.array([0.0, 0.5, 1.0])
    assert labels.nearest_on_grid([0.5], [7.0], at_s).tolist() == [0, 7, 0]


def test_mir1k_clock(tmp_path):
    """Value k of a .pv file is centred at 0.02 (k + 1) s: no drift, no offset, MIDI not Hz."""
    path = tmp_path / "a.pv"
    midi = np.where(np.arange(500) >= 250, 69.0, 57.0)  # changes between 5.00 s and 5.02 s
    path.write_text("\n".join(map(str, midi)))
    grid_s = labels.frame_times_s(1700, FeatureConfig())
    hz = labels.nearest_on_grid(*read_melody(path), grid_s)
    change_s = grid_s[np.argmax(hz > 300)]
    assert 5.01 <= change_s < 5.01 + 256 / 44_100
    assert hz[0] == pytest.approx(220) and hz[-1] == pytest.approx(440)


def test_who_leads_says_what_a_frame_may_be():
    f0_hz = np.array([220.0, 0.0])
    for kind, voiced in (
        (labels.UNKNOWN_LEAD, {labels.SUNG, labels.PLAYED}),
        (labels.SUNG, {labels.SUNG}),
        (labels.PLAYED, {labels.PLAYED}),
    ):
        for may_lead, unvoiced in ((False, {0}), (True, {0, labels.PLAYED})):
            targets = labels.voicing_targets(f0_hz, kind, may_lead)
            allowed = [set(np.flatnonzero(labels.ALLOWED_VOICINGS[t])) for t in targets]
            assert allowed == [voiced, unvoiced]
