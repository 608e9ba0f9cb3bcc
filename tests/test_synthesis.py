"""The synthetic corpus: the F0 told is the F0 that sounds, and songs come from their seed alone."""

import numpy as np
import pytest
import soundfile

import synthesis
from config import SynthesisConfig, feature_config
from corpora import find_tracks, read_annotation
from instruments import INSTRUMENTS, TEMPERED, render_instrument
from labels import frame_times_s
from melody import Lead, choose_lead, compose_notes, note_starts
from synthesis import corpus_jobs, corpus_songs, render_song, write_corpus
from tones import FRAME_S, HOP, SAMPLE_RATE, shaped_noise
from voices import random_voice, render_voice

TINY = SynthesisConfig(seed=3, n_songs=(2, 1, 1), song_seconds=4.0)


def steady_note(f0_hz: float, n_frames: int = 500) -> np.ndarray:
    """An F0 curve with a rest on either side of a note."""
    curve = np.zeros(n_frames)
    curve[50:-50] = f0_hz
    return curve


def deviation_cents(audio: np.ndarray, f0_hz: np.ndarray, frames: slice) -> float:
    """How far the partial of `audio` next to its F0 curve lies from it, by demodulation."""
    sample_hz = np.interp(np.arange(len(audio)) / HOP, np.flatnonzero(f0_hz), f0_hz[f0_hz > 0])
    phase = np.cumsum(sample_hz) / SAMPLE_RATE  # not the code under test
    base = audio * np.exp(-2j * np.pi * phase)
    window = base[frames.start * HOP : frames.stop * HOP] * np.hanning(
        (frames.stop - frames.start) * HOP
    )
    spectrum = np.fft.fftshift(np.abs(np.fft.fft(window, 4 * len(window))))
    offset_hz = np.fft.fftshift(np.fft.fftfreq(4 * len(window), 1 / SAMPLE_RATE))
    near = np.abs(offset_hz) < 0.06 * np.median(f0_hz[frames])  # a semitone either way
    peak_hz = offset_hz[near][np.argmax(spectrum[near])]
    return 1200 * np.log2(1 + peak_hz / np.median(f0_hz[frames]))


@pytest.mark.parametrize("kind", sorted(INSTRUMENTS))
@pytest.mark.parametrize("key", [52, 69, 81])
def test_instruments_sound_at_their_f0(kind, key):
    f0_hz = steady_note(440 * 2 ** ((key - 69) / 12))
    audio, sounding = render_instrument(kind, f0_hz, [50], np.random.default_rng(key))
    assert abs(deviation_cents(audio, f0_hz, slice(60, 200))) < 3
    assert sounding[51:100].all() and not sounding[:50].any() and not sounding[-49:].any()


@pytest.mark.parametrize("hz", [90.0, 220.0, 700.0, 2000.0])
def test_voices_sound_at_their_f0(hz):
    rng = np.random.default_rng(1)
    f0_hz = steady_note(hz)
    audio = render_voice(f0_hz, [50], random_voice(1.1, False, rng), rng)
    assert abs(deviation_cents(audio, f0_hz, slice(60, 440))) < 3
    assert np.std(audio[100 * HOP : 400 * HOP]) > 0.1


def test_the_phase_follows_a_glide():
    f0_hz = np.geomspace(110, 440, 400)
    rng = np.random.default_rng(0)
    audio = render_voice(f0_hz, [0], random_voice(1.0, False, rng)._replace(jitter=0.0), rng)
    for first in (50, 200, 350):
        assert abs(deviation_cents(audio, f0_hz, slice(first, first + 40))) < 10


def test_a_decayed_note_becomes_unvoiced():
    f0_hz = steady_note(660.0, 2000)
    rng = np.random.default_rng(2)
    audio, sounding = render_instrument("marimba", f0_hz, [50], rng)
    last = np.flatnonzero(sounding)[-1]
    assert 60 < last < 1000
    level = np.sqrt(np.mean(audio[: 1990 * HOP].reshape(-1, HOP) ** 2, axis=1))
    assert level[last] > 10 ** (-41 / 20) * level.max() > level[last + 200]


def test_noise_has_the_power_of_its_envelope():
    envelope = np.full((800, HOP + 1), 0.5, dtype=np.float32)
    noise = shaped_noise(envelope, np.random.default_rng(0))
    assert len(noise) == 800 * HOP
    assert np.std(noise[HOP:-HOP]) == pytest.approx(0.5, rel=0.02)


def test_a_seed_gives_one_song_and_another_gives_another():
    a, b, c = render_song(11, 4.0), render_song(11, 4.0), render_song(12, 4.0)
    assert np.array_equal(a.lead, b.lead) and np.array_equal(a.backing, b.backing)
    assert np.array_equal(a.f0_hz, b.f0_hz)
    assert not np.array_equal(a.lead, c.lead)


@pytest.mark.parametrize("seed", range(8))
def test_songs_are_sound(seed):
    song = render_song(seed, 5.0, "synthetic/x")
    n_frames = 1 + 5 * 44_100 // 256
    assert song.song_id == "synthetic/x" and song.sample_rate == 44_100
    for stem in (song.lead, song.backing):
        assert stem.dtype == np.float32 and stem.shape == (5 * 44_100,)
        assert np.isfinite(stem).all()
    assert 0.1 < np.abs(song.lead + song.backing).max() < 1
    assert np.array_equal(song.times_s, frame_times_s(n_frames, feature_config))
    voiced_hz = song.f0_hz[song.f0_hz > 0]
    assert len(voiced_hz) and voiced_hz.min() > 60 and voiced_hz.max() < 1100


def test_the_lead_rests_where_it_is_unvoiced_while_the_backing_goes_on():
    quiet_db, backing_db = [], []
    for seed in range(12):
        song = render_song(seed, 12.0)
        voiced = np.repeat(song.f0_hz > 0, HOP)[: len(song.lead)]
        reach = int(0.8 / FRAME_S)  # reverberation and consonants stay near the notes
        far = np.convolve(song.f0_hz > 0, np.ones(2 * reach), "same") < 0.5
        far = np.repeat(far, HOP)[: len(song.lead)]
        if far.sum() < SAMPLE_RATE or not voiced.any():
            continue
        loud = np.mean(song.lead[voiced] ** 2)
        quiet_db.append(10 * np.log10(np.mean(song.lead[far] ** 2) / loud + 1e-12))
        backing_db.append(10 * np.log10(np.mean(song.backing[far] ** 2) / loud + 1e-12))
    assert len(quiet_db) >= 4
    assert max(quiet_db) < -30
    assert np.median(backing_db) > -20


@pytest.mark.parametrize("seed", range(4))
def test_the_lead_follows_a_contour(seed):
    contour_hz = np.zeros(1000, dtype=np.float32)
    glide = 250 * 2 ** (np.sin(np.arange(600) / 60) / 12)
    contour_hz[100:700] = glide
    song = render_song(seed, 6.0, contour_hz=contour_hz)
    heard = song.f0_hz[:1000] > 0
    assert heard[100:700].mean() > 0.6
    assert np.array_equal(song.f0_hz[:1000][heard], contour_hz[heard].astype(float))
    assert not song.f0_hz[1000:].any()
    energy = song.lead[: 1000 * HOP].reshape(-1, HOP).astype(float)
    assert np.mean(energy[100:700] ** 2) > 100 * np.mean(energy[:60] ** 2)


def test_contours_may_be_silent_but_not_wrong():
    silent = render_song(0, 4.0, contour_hz=np.zeros(700))
    assert not silent.f0_hz.any() and np.isfinite(silent.lead).all()
    with pytest.raises(ValueError, match="contour_hz"):
        render_song(0, 4.0, contour_hz=np.array([220.0, np.nan]))
    with pytest.raises(ValueError, match="contour_hz"):
        render_song(0, 4.0, contour_hz=np.array([220.0, -1.0]))
    with pytest.raises(ValueError, match="4 s"):
        render_song(0, 1.0)


def test_every_kind_of_lead_occurs_and_half_of_them_sing():
    leads = [choose_lead(np.random.default_rng(seed)) for seed in range(800)]
    assert {lead.kind for lead in leads} == {"voice", *INSTRUMENTS}
    assert {lead.opera for lead in leads} == {True, False}
    assert 0.4 < np.mean([lead.kind == "voice" for lead in leads]) < 0.6


def test_a_contour_gets_a_lead_that_can_play_it():
    midi = np.r_[np.full(50, np.nan), np.linspace(40, 52, 200)]
    leads = [choose_lead(np.random.default_rng(seed), midi) for seed in range(200)]
    assert not {lead.kind for lead in leads} & set(TEMPERED)
    assert all(lead.range_midi[0] <= 44 for lead in leads)


def test_composed_notes_stay_in_range_and_do_not_overlap():
    for seed in range(20):
        notes = compose_notes((50, 70), 0.12, 4000, np.random.default_rng(seed))
        assert all(50 <= key <= 70 for *_, key in notes)
        assert all(a[1] <= b[0] for a, b in zip(notes, notes[1:], strict=False))


def test_vibrato_does_not_cut_notes_but_steps_do():
    time_s = np.arange(300) * FRAME_S
    vibrato = 440 * 2 ** (np.sin(2 * np.pi * 6 * time_s) / 12)
    assert note_starts(np.r_[np.zeros(20), vibrato, np.zeros(20)]) == [20]
    starts = note_starts(np.r_[np.full(200, 440.0), np.full(200, 523.25)])
    assert len(starts) == 2 and abs(starts[1] - 200) < 20


def test_splits_have_their_own_seeds():
    large = SynthesisConfig(n_songs=(500, 500, 500))
    seeds = {s: {job.args[0] for job in corpus_jobs(s, large)} for s in ("train", "val", "test")}
    assert len(set().union(*seeds.values())) == 1500
    other = {job.args[0] for job in corpus_jobs("train", SynthesisConfig(seed=2021))}
    assert not other & set().union(*seeds.values())
    with pytest.raises(ValueError, match="dev"):
        corpus_jobs("dev", large)


def test_the_written_corpus_reads_back(tmp_path):
    folder = tmp_path / "synthetic"
    write_corpus("train", folder, TINY)
    songs = list(corpus_songs("train", TINY))
    tracks = find_tracks("synthetic", tmp_path, "train")
    assert [t.song_id for t in tracks] == [s.song_id for s in songs]
    for track, song in zip(tracks, songs, strict=True):
        times_s, f0_hz, _ = read_annotation(track)
        assert np.allclose(times_s, song.times_s, atol=1e-6)
        assert np.allclose(f0_hz, song.f0_hz, atol=1e-5)
        audio, rate = soundfile.read(track.audio_path)
        assert rate == 44_100
        assert np.allclose(audio, song.lead + song.backing, atol=1e-4)


def test_songs_of_other_settings_are_rendered_anew(tmp_path, monkeypatch):
    write_corpus("val", tmp_path, TINY)
    first = (tmp_path / "val_0000.csv").read_bytes()
    monkeypatch.setattr(synthesis, "write_song", lambda *_: pytest.fail("rendered again"))
    write_corpus("val", tmp_path, TINY)
    monkeypatch.undo()
    write_corpus("val", tmp_path, SynthesisConfig(seed=4, n_songs=(2, 1, 1), song_seconds=4.0))
    assert (tmp_path / "val_0000.csv").read_bytes() != first


def test_a_silent_lead_renders_as_silence():
    audio, f0_hz = Lead("piano", (48, 83)).render(np.zeros(100), [], np.random.default_rng(0))
    assert not audio.any() and not f0_hz.any()
