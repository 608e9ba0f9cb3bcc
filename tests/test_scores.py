"""Scores as songs: which line is the melody, when its notes sound, who plays what."""

import sys

import numpy as np
import pytest

import scores
from config import feature_config
from labels import PLAYED, UNKNOWN_LEAD, hz_to_midi
from soundfont_leads import LEADS


def score_of(*notes):
    """A score of (onset, end, key, part)."""
    onsets, ends, keys, parts = np.array(sorted(notes)).T
    return scores.Score(onsets.astype(float), ends.astype(float), keys.astype(int), parts)


@pytest.fixture
def chords():
    """A tune of 64 quarters over held thirds and a bass, all of it part 0 but the bass."""
    tune = [60, 62, 64, 65, 67, 69, 71, 72] * 8
    return score_of(
        *((k, k + 1, key, 0) for k, key in enumerate(tune)),
        *((k, k + 1, key - 4, 0) for k, key in enumerate(tune)),
        *((k, k + 4, 40, 1) for k in range(0, 64, 4)),
    )


@pytest.fixture
def fonts():
    for name in ("tinysoundfont", "pretty_midi"):
        pytest.importorskip(name, reason=f"{name} is optional: uv sync --group soundfont")


def test_the_melody_is_the_top_of_the_chords(chords):
    line = scores.top_line(chords)
    assert chords.keys[line].tolist() == [60, 62, 64, 65, 67, 69, 71, 72] * 8
    assert not chords.parts[line].any()


def test_a_note_under_a_sounding_one_is_not_of_the_melody():
    score = score_of((0, 4, 72, 0), (1, 2, 60, 0), (2, 3, 76, 0), (5, 6, 60, 0), (5, 6, 80, 1))
    assert score.keys[scores.top_line(score)].tolist() == [72, 76, 60]


def test_time_goes_on_at_the_tempo():
    timing = scores.Timing(8.0, 0.5, np.random.default_rng(0))
    times_s = timing(np.arange(8, 40, 0.5))
    assert times_s[0] == 0 and np.all(np.diff(times_s) > 0)
    assert times_s[-1] == pytest.approx(15.75, rel=0.15)
    assert timing(np.array([7.9]))[0] < 0  # before the excerpt


def test_the_excerpt_is_where_the_melody_sounds():
    tune = [(k, k + 1, 60, 0) for k in range(100, 164)]
    score = score_of((0, 1, 60, 0), *tune, *((k, k + 1, 40, 1) for k in range(164)))
    line = scores.top_line(score)
    firsts = [scores.choose_excerpt(score, line, 32, np.random.default_rng(s)) for s in range(10)]
    assert min(firsts) > 90 and len(set(firsts)) > 3


@pytest.mark.parametrize("kind", scores.CASTS)
def test_the_lead_can_play_its_line(kind):
    keys = np.arange(60, 73)
    casts = [
        scores.choose_cast(kind, keys, LEADS, np.random.default_rng(seed)) for seed in range(60)
    ]
    for lead, programs, shift in casts:
        assert programs and lead.low_key <= 60 + shift and 72 + shift <= lead.high_key
    alone = np.mean([programs == (lead.program,) for lead, programs, _ in casts])
    assert alone == pytest.approx(scores.CASTS[kind][0], abs=0.25)


def test_a_line_wider_than_the_instrument_is_moved_into_its_middle():
    lead, _, shift = scores.choose_cast(
        scores.PIANO, np.array([20, 100]), LEADS, np.random.default_rng(1)
    )
    assert abs((60 + shift) - (lead.low_key + lead.high_key) / 2) <= 1


def test_a_song_follows_its_score(fonts, chords):
    song = scores.render_score(3, chords, scores.PIANO, 8.0, "tune")
    again = scores.render_score(3, chords, scores.PIANO, 8.0, "tune")
    assert np.array_equal(song.lead, again.lead) and np.array_equal(song.backing, again.backing)
    assert song.song_id == "tune" and song.lead_kind in (PLAYED, UNKNOWN_LEAD)
    assert len(song.lead) == len(song.backing) == 8 * feature_config.sample_rate
    voiced = song.f0_hz > 0
    assert voiced.mean() > 0.6
    steps = np.diff(hz_to_midi(song.f0_hz[voiced]))
    leaps = np.round(steps[np.abs(steps) > 0.5])
    assert set(np.abs(leaps)) <= {1, 2, 12} and len(leaps) > 6  # those of the scale


def test_a_lead_pauses_over_its_accompaniment(fonts, chords):
    gaps_s = []
    for seed in range(6):
        whole = scores.render_score(seed, chords, scores.PIANO, 16.0)
        song = scores.render_score(seed, chords, scores.PIANO, 16.0, pauses=True)
        edges = np.flatnonzero(np.diff(np.r_[1, song.f0_hz > 0, 1]))
        gaps = np.array(edges).reshape(-1, 2)
        longest = gaps[np.argmax(gaps[:, 1] - gaps[:, 0])]
        gaps_s.append((longest[1] - longest[0]) * 256 / 44_100)
        assert (song.f0_hz > 0).mean() <= (whole.f0_hz > 0).mean() + 0.1
        if gaps_s[-1] > 2:
            silent = slice((longest[0] + 150) * 256, (longest[1] - 20) * 256)
            assert np.abs(song.backing[silent]).max() > 10 * np.abs(song.lead[silent]).max()
    assert max(gaps_s) > 2 and min(gaps_s) < 1.5


@pytest.mark.parametrize("seconds", [0.0, 91.0])
def test_a_length_that_no_tempo_covers_is_refused(chords, seconds):
    with pytest.raises(ValueError, match="0 to 90"):
        scores.render_score(0, chords, scores.PIANO, seconds)


def test_the_sound_of_the_lead_has_the_f0_told(fonts, chords):
    for seed in range(4):
        song = scores.render_score(seed, chords, scores.PIANO, 8.0)
        edges = np.flatnonzero(np.abs(np.diff(song.f0_hz)) > 5)
        longest = np.argmax(np.diff(edges))
        first, end = edges[longest] + 8, edges[longest + 1] - 4
        f0_hz = np.median(song.f0_hz[first:end])
        cut = song.lead[first * 256 : end * 256] * np.hanning((end - first) * 256)
        spectrum = np.abs(np.fft.rfft(cut, 1 << 18))
        cents = 1200 * np.log2(np.arange(1, len(spectrum)) * 44_100 / 2**18 / f0_hz)
        peak = np.where(np.abs(cents) < 300, spectrum[1:], 0).argmax()
        assert abs(cents[peak]) < 30, seed


def test_accompaniment_is_every_other_note(chords):
    line = scores.top_line(chords)
    rng = np.random.default_rng(0)
    timing = scores.Timing(0.0, 0.5, rng)
    (part,) = scores.accompany(chords, line, timing, (30,), 2, 40.0, rng)
    assert len(part.notes) == 64 + 16
    assert {note.key for note in part.notes} == {
        k - 2 for k in (60, 62, 64, 65, 67, 69, 71, 72)
    } | {42}
    assert all(note.end_s > note.start_s >= 0 for note in part.notes)


def test_a_piece_is_read_once(tmp_path, monkeypatch, chords):
    calls = []
    monkeypatch.setattr(scores, "_parse", lambda piece: calls.append(piece) or chords)
    first, second = (scores.read_score("a/b", tmp_path) for _ in range(2))
    assert calls == ["a/b"] and [p.name for p in tmp_path.rglob("*.*")] == ["a_b.npz"]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_music21_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(ImportError, match="uv sync --group soundfont"):
        scores.read_score("joplin/maple_leaf_rag", tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_a_real_score_is_read(tmp_path):
    pytest.importorskip("music21", reason="music21 is optional: uv sync --group soundfont")
    score = scores.read_score("mozart/k545", tmp_path)
    melody = score.keys[scores.top_line(score)]
    assert melody[:7].tolist() == [72, 76, 79, 71, 72, 74, 72]  # the sonata facile
    assert np.all(score.ends > score.onsets) and np.all(np.diff(score.onsets) >= 0)


def test_no_piece_is_for_training_and_for_validation():
    assert not set(scores.TRAIN_PIECES) & set(scores.VAL_PIECES)
    assert set(scores.TRAIN_PIECES.values()) | set(scores.VAL_PIECES.values()) == set(scores.CASTS)
