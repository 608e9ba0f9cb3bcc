import sys

import librosa
import numpy as np
import pytest

import arrangement
import soundfont_leads as leads
import soundfonts
from labels import PLAYED, UNKNOWN_LEAD, midi_to_hz, semitone_to_hz
from styles import STYLES

HOP_S = leads.HOP / leads.SAMPLE_RATE


@pytest.fixture
def font():
    for name in ("tinysoundfont", "pretty_midi"):
        pytest.importorskip(name, reason=f"{name} is optional: uv sync --group soundfont")
    return soundfonts.SoundFont()


def instrument(program: int) -> leads.Instrument:
    return next(lead for lead in leads.LEADS if lead.program == program)


def vibrato_contour(n_frames: int) -> np.ndarray:
    time_s = np.arange(n_frames) * HOP_S
    return 62 + 4 * np.sin(2 * np.pi * 0.3 * time_s) + 0.4 * np.sin(2 * np.pi * 5 * time_s)


def cents_off(audio: np.ndarray, f0_hz: np.ndarray) -> np.ndarray:
    """YIN against the labels, where they are voiced and so are the frames around."""
    found = librosa.yin(audio, fmin=80, fmax=1200, sr=44_100, frame_length=2048, hop_length=256)
    voiced = np.convolve(f0_hz > 0, np.ones(9), "same") == 9
    return 1200 * np.log2(found[: len(f0_hz)][voiced] / f0_hz[voiced])


@pytest.mark.parametrize("program", [71, 40, 66, 80])
def test_bent_lead_sounds_at_its_contour(font, program):
    midi = vibrato_contour(700)
    rng = np.random.default_rng(0)
    audio, f0_hz, _ = soundfonts.play_contour(font, instrument(program), midi, 699 * 256, rng)
    assert np.mean(f0_hz > 0) > 0.9
    assert np.allclose(f0_hz[f0_hz > 0], midi_to_hz(midi)[f0_hz > 0])
    cents = cents_off(audio, f0_hz)
    assert abs(np.median(cents)) < 6
    assert np.mean(np.abs(cents) < 25) > 0.9


def test_wide_bends_reach_their_pitch(font):
    midi = np.r_[np.full(60, 62.0), np.linspace(62, 69, 100), np.full(60, 69.0)]
    audio = font.play_lead(instrument(71), [leads.LeadNote(0, 220, 62, 95)], midi, 219 * 256)
    cents = cents_off(audio, midi_to_hz(midi))
    assert abs(np.median(cents[-50:])) < 8


@pytest.mark.parametrize("lead", leads.LEADS, ids=lambda lead: str(lead.program))
def test_every_instrument_is_in_tune_and_sounds(font, lead):
    middle = (lead.low_key + lead.high_key) // 2
    for key in {lead.low_key, middle, 64 if lead.program == 65 else middle, lead.high_key}:
        midi = np.full(200, float(key))
        rng = np.random.default_rng(key)
        audio, f0_hz, _ = soundfonts.play_contour(font, lead, midi, 199 * 256, rng)
        assert np.mean(f0_hz > 0) > 0.3
        found = librosa.yin(audio, fmin=40, fmax=1200, sr=44_100, frame_length=4096, hop_length=256)
        cents = 1200 * np.log2(found[40:150] / midi_to_hz(midi[40:150]))
        assert abs(np.median(cents)) < 10


def test_struck_lead_plays_tempered_notes_and_falls_silent(font):
    midi = np.full(1400, 64.0)  # 8 s: an electric piano dies away long before
    midi[:20] = midi[900:] = np.nan
    lead, rng = instrument(25), np.random.default_rng(0)
    audio, f0_hz, notes = soundfonts.play_contour(font, lead, midi, 1399 * 256, rng)
    assert [(note.start, note.key) for note in notes] == [(20, 64)]
    assert np.allclose(f0_hz[f0_hz > 0], midi_to_hz(64))
    last = np.flatnonzero(f0_hz)[-1]
    level_db = leads.frame_level_db(audio, 1400)
    assert 100 < last < 890  # dead before the note ends
    assert -38 < level_db[last] - level_db[20:].max() < -32
    assert not np.any(f0_hz[:20])


def test_release_tails_and_slow_attacks_are_unvoiced():
    notes = [leads.LeadNote(100, 200, 60, 90)]
    midi = np.full(400, 60.0)
    gain = np.zeros(400)
    gain[100:130] = np.linspace(0, 1, 30)
    gain[130:350] = 1.0
    tone = np.repeat(gain, 256) * np.sin(2 * np.pi * 262 * np.arange(400 * 256) / 44_100)
    voiced = np.flatnonzero(leads.sounding_f0(tone, notes, midi))
    assert 102 <= voiced[0] <= 106  # -18 dB is an eighth of the way up
    assert 0.05 < (voiced[-1] + 1 - 200) * HOP_S < 0.08


def test_notes_follow_steps_but_not_vibrato():
    time_s = np.arange(200) * HOP_S
    held = 60 + 0.9 * np.sin(2 * np.pi * 5.5 * time_s)
    midi = np.r_[np.full(30, np.nan), held, np.full(100, 64.0), np.full(50, np.nan)]
    notes = leads.segment_notes(midi)
    assert [key for *_, key in notes] == [60, 64]
    assert notes[0][0] == 30 and notes[1][1] == 330
    assert abs(notes[1][0] - 230) < leads.VIBRATO_FRAMES


def test_transposed_contour_keeps_its_shape_and_fits_the_instrument():
    contour_hz = np.where(np.arange(3000) % 500 < 400, midi_to_hz(vibrato_contour(3000) - 20), 0.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        midi, lead = leads.fit_contour(contour_hz, 3000, leads.LEADS, rng)
        kept = np.isfinite(midi)
        shift = midi[kept] - (vibrato_contour(3000) - 20)[kept]
        assert np.allclose(shift, np.round(shift[0]), atol=1e-4)
        assert lead.low_key - 1 <= midi[kept].min() and midi[kept].max() <= lead.high_key + 1
        assert midi_to_hz(midi[kept]).min() >= 65 and midi_to_hz(midi[kept]).max() < 1050


def test_song_is_deterministic_and_whole(font):
    contour_hz = midi_to_hz(vibrato_contour(2000))
    song = soundfonts.render_song(7, contour_hz, 6.0, "one")
    again = soundfonts.render_song(7, contour_hz, 6.0, "one")
    other = soundfonts.render_song(8, contour_hz, 6.0, "one")
    assert np.array_equal(song.lead, again.lead) and np.array_equal(song.backing, again.backing)
    assert not np.array_equal(song.lead, other.lead)
    assert song.song_id == "one" and song.sample_rate == 44_100
    assert len(song.lead) == len(song.backing) == 6 * 44_100
    assert len(song.f0_hz) == len(song.times_s) == 1 + 6 * 44_100 // 256
    assert np.abs(song.lead + song.backing).max() == pytest.approx(0.5, rel=1e-3)
    assert song.backing.std() > 1e-3


def test_composed_song_has_a_lead(font):
    song = soundfonts.render_song(3, None, 12.0)
    assert 0.2 < np.mean(song.f0_hz > 0) <= 1
    assert song.lead_kind in (PLAYED, UNKNOWN_LEAD)


def test_song_of_a_silent_contour_is_backing_alone(font):
    song = soundfonts.render_song(1, np.zeros(5000), 6.0)
    assert not song.f0_hz.any() and not song.lead.any() and song.backing.std() > 1e-3


@pytest.fixture
def fluid_font(font):
    if not soundfonts.FLUID_FONT.exists():
        pytest.skip("optional: apt-get install fluid-soundfont-gm")
    return soundfonts.SoundFont(soundfonts.FLUID_FONT)


@pytest.mark.parametrize("lead", leads.FLUID_LEADS, ids=lambda lead: str(lead.program))
def test_the_second_font_is_in_tune(fluid_font, lead):
    for key in (lead.low_key + 3, (lead.low_key + lead.high_key) // 2, lead.high_key - 3):
        midi = np.full(170, float(key))
        audio = fluid_font.play_lead(lead, [leads.LeadNote(0, 170, key, 95)], midi, 169 * 256)
        # The first partial: those of pianos and bars are not harmonic, which YIN cannot judge.
        spectrum = np.abs(np.fft.rfft(audio[4410:40_000] * np.hanning(35_590), 1 << 19))
        cents = 1200 * np.log2(np.arange(1, len(spectrum)) * 44_100 / 2**19 / midi_to_hz(key))
        peak = np.where(np.abs(cents) < 60, spectrum[1:], 0).argmax()
        assert abs(cents[peak]) < 25, key
        assert spectrum[peak + 1] > 0.02 * spectrum.max(), key  # it is there: no octave too high


def test_the_second_font_plays_songs_of_its_own(fluid_font):
    ours, theirs = (soundfonts.render_song(5, None, 6.0, fluid=f) for f in (True, False))
    assert np.abs(ours.backing).max() > 0.05 and not np.array_equal(ours.backing, theirs.backing)


def test_a_missing_font_is_named(font, monkeypatch, tmp_path):
    monkeypatch.setattr(soundfonts, "FLUID_FONT", tmp_path / "none.sf2")
    with pytest.raises(FileNotFoundError, match=r"none.sf2: apt-get install fluid-soundfont-gm"):
        soundfonts.render_song(0, None, 6.0, fluid=True)


def test_missing_packages_and_bad_lengths_are_told(monkeypatch):
    with pytest.raises(ValueError, match="positive length"):
        soundfonts.render_song(0, None, 0.0)
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(ImportError, match="uv sync --group soundfont"):
        soundfonts.render_song(0, None, 6.0)


@pytest.mark.parametrize("tonic", [0, 3, 10])
def test_chords_come_from_the_key_of_the_melody(tonic):
    scale = (arrangement.MAJOR + tonic) % 12
    degrees = [0, 2, 4, 0, 3, 4, 6, 4, 0, 0, 5, 4, 2, 1, 0, 0]
    midi = np.repeat(60 + tonic + arrangement.MAJOR[degrees], 60).astype(float)
    rng = np.random.default_rng(tonic)
    harmony = arrangement.choose_harmony(midi, 0.1, 16, STYLES["rock"], rng)
    assert set(harmony.scale) == set(scale)
    assert all(set(chord) <= set(scale) for chord in harmony.chords)
    assert len(harmony.chords) == int(np.ceil(960 * HOP_S / 1.6))


def test_minor_melody_gets_the_chords_of_its_relative_major():
    midi = np.repeat([57.0, 60, 64, 57, 59, 57, 60, 62, 64, 64, 57, 65, 64, 60, 57, 57], 60)
    harmony = arrangement.choose_harmony(midi, 0.1, 16, STYLES["rock"], np.random.default_rng(0))
    assert set(harmony.scale) == {0, 2, 4, 5, 7, 9, 11}  # A minor, the keys of C major


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("steps", [12, 16])
def test_every_style_arranges(style, steps):
    rng = np.random.default_rng(5)
    midi = np.full(2000, 62.0)
    harmony = arrangement.choose_harmony(midi, 0.12, steps, STYLES[style], rng)
    share = np.zeros(len(harmony.chords))
    parts = arrangement.arrange(
        harmony, STYLES[style], [(k / 2, k / 2 + 0.4, 62) for k in range(22)], share, rng
    )
    assert 2 <= len(parts) <= 8
    for part in parts:
        assert all(n.end_s > n.start_s >= 0 for n in part.notes)
        assert all(20 <= n.key <= 110 and 1 <= n.velocity <= 127 for n in part.notes)
        assert max(n.start_s for n in part.notes) > 2000 * HOP_S / 2


def test_composed_melody_rests_and_stays_in_range():
    contours = [
        arrangement.compose_contour(np.random.default_rng(seed), 4000, 0.12) for seed in range(10)
    ]
    voiced = np.concatenate(contours) > 0
    assert 0.5 < voiced.mean() < 0.98
    assert semitone_to_hz(12) < np.concatenate(contours)[voiced].min()
