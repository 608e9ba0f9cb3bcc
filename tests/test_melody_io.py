import numpy as np
import pytest

from labels import midi_to_hz
from melody_io import (
    WRITERS,
    Melody,
    atomic_path,
    find_notes,
    read_melody,
    regrid,
    write_csv,
    write_jams,
    write_midi,
    write_mirex,
    write_npz,
    write_wav,
)

HOP_S = 256 / 44_100


def melody_of(f0_hz, voiced=None, confidence=0.8) -> Melody:
    f0_hz = np.asarray(f0_hz, dtype=float)
    voiced = np.ones(len(f0_hz), dtype=bool) if voiced is None else np.asarray(voiced, dtype=bool)
    times_s = np.arange(len(f0_hz)) * HOP_S
    return Melody(times_s, f0_hz, np.full(len(f0_hz), confidence), voiced)


@pytest.fixture
def melody() -> Melody:
    frames = np.arange(700)
    return melody_of(220 * 2 ** (np.sin(frames / 40) / 12), frames % 200 > 50)


def test_csv_keeps_guess_positive_and_reads_back_signed(tmp_path, melody):
    write_csv(tmp_path / "song.csv", melody)
    text = (tmp_path / "song.csv").read_text().splitlines()
    assert text[0] == "time,frequency,confidence,voiced"
    table = np.loadtxt(text[1:], delimiter=",")
    assert (table[:, 1] > 0).all() and set(table[:, 3]) == {0, 1}
    times_s, f0_hz = read_melody(tmp_path / "song.csv")
    np.testing.assert_allclose(times_s, melody.times_s, atol=1e-6)
    np.testing.assert_allclose(f0_hz, melody.signed_hz, atol=1e-3)


def test_mirex_lies_on_an_exact_10_ms_grid_by_nearest_frame(tmp_path, melody):
    write_mirex(tmp_path / "song.txt", melody)
    lines = (tmp_path / "song.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [f"{k / 100:.2f}" for k in range(len(lines))]
    assert len(lines) == int(melody.times_s[-1] / 0.01) + 1
    for k in (0, 7, 123, len(lines) - 1):
        nearest = np.abs(melody.times_s - k / 100).argmin()
        assert float(lines[k].split("\t")[1]) == pytest.approx(melody.signed_hz[nearest], abs=1e-3)


def test_npz_opens_with_plain_numpy(tmp_path, melody):
    write_npz(tmp_path / "song.npz", melody)
    with np.load(tmp_path / "song.npz") as file:
        assert sorted(file) == ["confidence", "frequency", "times", "voiced"]
        np.testing.assert_array_equal(file["frequency"], melody.f0_hz)
        assert file["voiced"].dtype == bool


def test_wav_sings_the_pitch_and_is_silent_where_unvoiced(tmp_path):
    import soundfile

    frames = np.arange(2200)  # 12.8 s: over the edge of a block
    melody = melody_of(np.full(2200, 330.0), (frames < 800) | (frames > 1000))
    write_wav(tmp_path / "tone.wav", melody)
    tone, rate = soundfile.read(tmp_path / "tone.wav")
    assert len(tone) == round(melody.times_s[-1] * rate) + 1
    assert np.abs(tone[int(801 * 256) : int(999 * 256)]).max() == 0
    assert np.abs(tone).max() > 0.2
    around_edge = tone[10 * rate - 8192 : 10 * rate + 8192]
    spectrum = np.abs(np.fft.rfft(around_edge * np.hanning(len(around_edge))))
    assert spectrum.argmax() * rate / len(around_edge) == pytest.approx(330, abs=3)
    assert np.abs(np.diff(around_edge)).max() < 0.1  # no jump of phase at the block's edge


def test_notes_follow_steps_and_ignore_vibrato():
    frames = np.arange(150)
    vibrato = 0.6 * np.sin(2 * np.pi * 5.5 * frames * HOP_S)  # semitones
    midi = np.concatenate([60 + vibrato, 64 + vibrato, np.full(5, 70.0), np.full(100, 62.0)])
    voiced = np.ones(len(midi), dtype=bool)
    voiced[[299, 305]] = False  # the five frames at 70 stand alone, 29 ms: no note
    notes = find_notes(melody_of(midi_to_hz(midi), voiced))
    assert [pitch for *_, pitch in notes] == [60, 64, 62]
    assert abs(notes[0][1] - 150) < 12 and notes[1][0] == notes[0][1]


def test_midi_holds_notes_at_their_times_with_bends(tmp_path):
    mido = pytest.importorskip("mido")
    voiced = np.ones(400, dtype=bool)
    voiced[:100] = voiced[300:] = False
    write_midi(tmp_path / "song.mid", melody_of(np.full(400, midi_to_hz(69.25)), voiced))
    now_s, seen = 0.0, {}
    for message in mido.MidiFile(tmp_path / "song.mid"):
        now_s += message.time
        seen.setdefault(message.type, (now_s, message))
    assert seen["note_on"][0] == pytest.approx(100 * HOP_S, abs=2e-3)
    assert seen["note_off"][0] == pytest.approx(300 * HOP_S, abs=2e-3)
    assert seen["note_on"][1].note == 69 and 0 < seen["note_on"][1].velocity < 128
    assert seen["pitchwheel"][1].pitch == pytest.approx(0.25 / 2 * 8191, abs=2)


def test_regrid_takes_the_nearest_frame(melody):
    grid = regrid(melody, 0.05)
    np.testing.assert_allclose(np.diff(grid.times_s), 0.05)
    nearest = [np.abs(melody.times_s - t).argmin() for t in grid.times_s]
    np.testing.assert_array_equal(grid.f0_hz, melody.f0_hz[nearest])
    np.testing.assert_array_equal(grid.voiced, melody.voiced[nearest])
    with pytest.raises(ValueError, match="hop"):
        regrid(melody, 0.0)


@pytest.mark.parametrize("fmt", WRITERS)
def test_shortest_melody_can_be_written(tmp_path, fmt):
    suffix, write = WRITERS[fmt]
    write(tmp_path / f"short{suffix}", melody_of([200.0, 201.0], [False, False]))
    assert [path.name for path in tmp_path.iterdir()] == [f"short{suffix}"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "song.csv"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_pv_is_midi_semitones_every_20_ms_from_20_ms_on(tmp_path):
    (tmp_path / "clip.pv").write_text("0\n69\n57.5\n0\n")
    times_s, f0_hz = read_melody(tmp_path / "clip.pv")
    np.testing.assert_allclose(times_s, [0.02, 0.04, 0.06, 0.08])
    np.testing.assert_allclose(f0_hz, [0, 440, 440 * 2 ** (-11.5 / 12), 0])


@pytest.mark.parametrize(
    "text",
    [
        "0.00\t0\n0.01\t220\n0.02\t-221.5\n",
        "0.00   0\n  0.01  220\n0.02 -221.5",
        "0.00,0\r\n0.01,220\r\n0.02,-221.5\r\n",
        "0;0\n0.01;220\n0.02;-221.5\n",
        "\ufefftime,frequency\n# a comment\n0,0\n\n0.01,220\n0.02,-221.5\n",
        "time,frequency,confidence\n0,0,0.1\n0.01,220,0.2\n0.02,-221.5,0.3\n",
        "frequency,time\n0,0\n220,0.01\n-221.5,0.02\n",
        "time,frequency,confidence,voiced\n0,0,0,0\n0.01,220,1,1\n0.02,221.5,0,0\n",
    ],
)
def test_two_column_text_in_its_usual_forms(tmp_path, text):
    (tmp_path / "song.txt").write_bytes(text.encode())
    times_s, f0_hz = read_melody(tmp_path / "song.txt")
    np.testing.assert_allclose(times_s, [0, 0.01, 0.02])
    np.testing.assert_allclose(f0_hz, [0, 220, -221.5])


def test_adc2004_times_rounded_in_print_get_their_grid_back(tmp_path):
    exact_s = np.arange(400) * HOP_S
    np.savetxt(tmp_path / "daisy1REF.txt", np.c_[exact_s, np.full(400, 200.0)], fmt="%.2f")
    times_s, _ = read_melody(tmp_path / "daisy1REF.txt")
    np.testing.assert_allclose(times_s, exact_s)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "no values"),
        ("a.csv", "time,frequency\n", "no values"),
        ("a.txt", "0 100\n0.01 nan\n", "line 2: NaN"),
        ("a.txt", "nan 100\n0.01 5\n", "line 1: NaN"),
        ("a.txt", "0 100\n0.01 inf\n", "line 2: NaN or infinite"),
        ("a.txt", "0 100\n0.02 100\n0.01 100\n", "line 3: time 0.01 s does not come after 0.02"),
        ("a.txt", "0 100\n5 100\n5 100\n", "line 3: time 5 s does not come after"),
        ("a.txt", "-0.01 100\n0 100\n", "line 1: negative time"),
        ("a.csv", "0,100\n,100\n", "line 2: '' is not a number"),
        ("a.csv", "0,100\n0.01,abc\n", "line 2: 'abc' is not a number"),
        ("a.csv", "0,100\n0.01\n", "line 2: 1 column"),
        ("a.txt", "0 1 60\n1 2 62\n", "line 1: 3 column"),
        ("a.csv", "onset,midi\n0,60\n", "header: needs columns named time and frequency"),
        ("a.pv", "60 1\n", "line 1: 2 column"),
        ("a.pv", "60\n220.5\n", "line 2: 220.5 is no MIDI pitch"),
        ("a.pv", "60\nnan\n", "line 2: NaN"),
    ],
)
def test_bad_annotations_say_file_line_and_remedy(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_melody(tmp_path / name)
    assert name in str(caught.value)


def test_missing_and_binary_annotations(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_melody(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_melody(tmp_path / "b.csv")


def test_jams_is_valid_and_holds_the_curve(tmp_path, melody):
    jams = pytest.importorskip("jams", reason="optional: uv sync --group jams")
    write_jams(tmp_path / "song.jams", melody)
    song = jams.load(str(tmp_path / "song.jams"), validate=True, strict=True)
    values = [observation.value for observation in song.annotations[0].data]
    np.testing.assert_allclose([v["frequency"] for v in values], melody.f0_hz)
    assert [v["voiced"] for v in values] == melody.voiced.tolist()
    times_s = [observation.time for observation in song.annotations[0].data]
    np.testing.assert_allclose(times_s, melody.times_s)


def test_melody_answers_to_the_names_of_the_csv(melody):
    assert melody.times is melody.times_s and melody.frequency is melody.f0_hz
