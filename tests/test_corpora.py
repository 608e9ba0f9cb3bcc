import json
import sys
import types

import numpy as np
import pytest
import soundfile

import corpora
from corpora import Track, find_tracks, read_annotation

RATE = 16_000


@pytest.fixture
def datasets_dir(tmp_path):
    return tmp_path / "datasets"


def write_wav(path, audio, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate)


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_mir1k(datasets_dir, *clips):
    """Stereo clips with a low tone left (accompaniment) and a high one right (voice)."""
    time_s = np.arange(RATE // 2) / RATE
    stereo = np.stack([0.1 * np.sin(700 * time_s), 0.3 * np.sin(2800 * time_s)], axis=1)
    folder = datasets_dir / "MIR-1K"
    for clip in clips:
        write_wav(folder / "Wavfile" / f"{clip}.wav", stereo)
        write_text(folder / "PitchLabel" / f"{clip}.pv", "0\n57\n57.5\n69\n" * 6)
    return folder


def songs(tracks):
    return [t.song_id for t in tracks]


def test_mir1k_has_the_voice_on_the_right(datasets_dir):
    write_mir1k(datasets_dir, "abjones_1_01")
    (track,) = find_tracks("mir1k", datasets_dir)
    lead, backing = corpora.read_stems(track, RATE)
    time_s = np.arange(RATE // 2) / RATE
    np.testing.assert_allclose(lead, 0.3 * np.sin(2800 * time_s), atol=1e-3)
    np.testing.assert_allclose(backing, 0.1 * np.sin(700 * time_s), atol=1e-3)
    np.testing.assert_allclose(corpora.read_audio(track, RATE), lead + backing, atol=1e-6)
    louder = corpora.read_audio(track, RATE, voice_gain_db=20.0)
    np.testing.assert_allclose(louder, 10 * lead + backing, atol=1e-5)


def test_mir1k_labels_are_midi_on_a_clock_of_20_ms(datasets_dir):
    write_mir1k(datasets_dir, "abjones_1_01")
    times_s, f0_hz, reliable = read_annotation(find_tracks("mir1k", datasets_dir)[0])
    np.testing.assert_allclose(times_s, 0.02 * np.arange(1, 25))
    np.testing.assert_allclose(f0_hz[:4], [0, 220, 220 * 2 ** (0.5 / 12), 440])
    assert reliable.all()


def test_a_mono_file_is_no_mir1k_clip(datasets_dir):
    folder = write_mir1k(datasets_dir, "abjones_1_01")
    write_wav(folder / "Wavfile" / "abjones_1_01.wav", np.zeros(100))
    with pytest.raises(ValueError, match=r"abjones_1_01.wav: 1 channel\(s\), expected 2"):
        corpora.read_audio(find_tracks("mir1k", datasets_dir)[0], RATE)


def test_mir1k_is_split_by_singer(datasets_dir):
    singers = ["abjones", "amy", "Kenshin", "ariel", "bug", "jmzen", "davidson", "heycat", "yifen"]
    write_mir1k(datasets_dir, *(f"{s}_{song}_0{clip}" for s in singers for song in (1, 2)
                                for clip in (1, 2)))  # fmt: skip
    groups = {
        part: {t.group for t in find_tracks("mir1k", datasets_dir, part)}
        for part in ("train", "val", "test")
    }
    assert groups == {
        "train": {"abjones", "amy", "Kenshin"},
        "val": {"ariel", "bug", "jmzen"},
        "test": {"davidson", "heycat", "yifen"},
    }
    parts = [find_tracks("mir1k", datasets_dir, part) for part in groups]
    assert sum(map(len, parts)) == len(find_tracks("mir1k", datasets_dir)) == 36


def test_the_committed_splits_are_disjoint_and_those_of_the_design():
    splits = json.loads(corpora.SPLITS_FILE.read_text())
    for parts in splits.values():
        listed = [group for groups in parts.values() for group in groups]
        assert len(listed) == len(set(listed))
    assert splits["mir1k"]["test"] == ["davidson", "heycat", "khair", "yifen"]
    assert splits["mir1k"]["val"] == ["ariel", "bug", "jmzen"]
    assert len(splits["mir1k"]["train"]) == 12
    assert sum(map(len, splits["mirex05"].values())) == 13
    assert "adc2004" not in splits


def test_mirex05_naming(datasets_dir):
    folder = datasets_dir / "mirex05TrainFiles"
    for stem, ref in (("train01", "train01"), ("train03", "train03"), ("train13MIDI", "train13")):
        write_wav(folder / f"{stem}.wav", np.full(441, 0.1), 44_100)
        write_text(folder / f"{ref}REF.txt", "0.00\t0\n0.01\t220.5\n0.02\t0\n")
    tracks = find_tracks("mirex05", datasets_dir)
    assert songs(tracks) == ["mirex05/train01", "mirex05/train03", "mirex05/train13MIDI"]
    assert tracks[2].annotation_path.name == "train13REF.txt"
    times_s, f0_hz, _ = read_annotation(tracks[0])
    assert times_s.tolist() == [0, 0.01, 0.02] and f0_hz.tolist() == [0, 220.5, 0]
    assert songs(find_tracks("mirex05", datasets_dir, "val")) == ["mirex05/train03"]
    assert corpora.read_audio(tracks[0], 44_100) == pytest.approx(0.1, abs=1e-3)
    assert corpora.unpaired_files("mirex05", datasets_dir) == []


def test_adc2004_naming_and_its_clock(datasets_dir):
    folder = datasets_dir / "adc2004_full_set"
    write_wav(folder / "daisy1.wav", np.zeros(441), 44_100)
    grid_s = np.arange(200) * 256 / 44_100
    write_text(folder / "daisy1REF.txt", "".join(f"  {t:.2f}   330.0\n" for t in grid_s))
    (track,) = find_tracks("adc2004", datasets_dir)
    assert track.song_id == "adc2004/daisy1"
    assert track.song_id in corpora.SUBSETS["adc2004/vocal12"]
    np.testing.assert_allclose(read_annotation(track)[0], grid_s)


def test_subsets_of_the_literature():
    assert len(corpora.SUBSETS["mirex05/vocal9"]) == 9
    assert len(corpora.SUBSETS["adc2004/vocal12"]) == 12


def test_partial_sets_are_listed(datasets_dir):
    write_mir1k(datasets_dir, "abjones_1_01", "ariel_1_01")
    line = corpora.missing_clips("mir1k", find_tracks("mir1k", datasets_dir))
    assert "2 of 1000 recordings are present" in line
    assert "amy" in line and "ariel" not in line
    assert corpora.missing_clips("mysongs", []) == ""


def test_files_without_their_partner_are_listed_and_left_out(datasets_dir):
    folder = write_mir1k(datasets_dir, "abjones_1_01", "abjones_1_02", "abjones_1_03")
    (folder / "Wavfile" / "abjones_1_02.wav").unlink()
    (folder / "PitchLabel" / "abjones_1_03.pv").unlink()
    write_wav(folder / "UndividedWavfile" / "abjones_1.wav", np.zeros(9))  # belongs to the set
    write_text(folder / "vocal-nonvocalLabel" / "abjones_1_01.vocal", "0")
    assert songs(find_tracks("mir1k", datasets_dir)) == ["mir1k/abjones_1_01"]
    assert corpora.unpaired_files("mir1k", datasets_dir) == [
        "Wavfile/abjones_1_03.wav", "PitchLabel/abjones_1_02.pv",
    ]  # fmt: skip


def test_any_folder(datasets_dir, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    for name, suffix in (("a.wav", ".csv"), ("deep/b.flac", ".f0"), ("c.WAV", ".txt")):
        write_wav((folder / name), np.zeros(160))
        write_text((folder / name).with_suffix(suffix), "0.0,220\n0.01,-220\n")
    write_wav(folder / "lone.wav", np.zeros(160))
    write_text(folder / "orphan.csv", "0,0\n")
    tracks = find_tracks(str(folder), datasets_dir)
    assert songs(tracks) == ["mine/a", "mine/c", "mine/deep/b"]
    assert read_annotation(tracks[0])[1].tolist() == [220, 0]  # a reference has no guesses
    monkeypatch.chdir(tmp_path)
    for name in (str(folder), "mine"):
        assert corpora.unpaired_files(name, datasets_dir) == ["lone.wav", "orphan.csv"]


def test_ssvd_takes_flac_and_keeps_songs_of_one_name_apart(datasets_dir):
    folder = datasets_dir / "SSVD-v2.0"
    for name in ("train/1217.wav", "test/1217.flac", "test/88.flac", "99.ogg"):
        write_wav(folder / name, np.zeros(160))
        write_text((folder / name).with_suffix(".txt"), "0.0 0.5 60\n")
    write_wav(folder / "lone.wav", np.zeros(160))
    write_text(folder / "99.f0.csv", "time,frequency,reliable\n0,220,1\n0.01,0,0\n")
    tracks = find_tracks("ssvd", datasets_dir)
    assert songs(tracks) == ["ssvd/99", "ssvd/test/1217", "ssvd/88", "ssvd/train/1217"]
    assert corpora.unpaired_files("ssvd", datasets_dir) == ["lone.wav"]
    times_s, f0_hz, reliable = read_annotation(tracks[0])
    assert (f0_hz.tolist(), reliable.tolist()) == ([220, 0], [True, False])


def test_a_lone_voice_is_tracked_once_and_doubted_against_its_notes(datasets_dir, tone):
    folder = datasets_dir / "SSVD-v2.0"
    voice = np.concatenate([tone(220, 0.8, 22_050), np.zeros(11_025, np.float32)])
    write_wav(folder / "1.wav", voice, 22_050)
    # The second note is wrong: nothing sounds there.
    write_text(folder / "1.txt", "0.0 0.8 57.25\n1.0 1.25 58.25\n")
    (track,) = find_tracks("ssvd", datasets_dir)
    times_s, f0_hz, reliable = read_annotation(track)
    inside = (times_s > 0.1) & (times_s < 0.7)
    np.testing.assert_allclose(f0_hz[inside], 220, rtol=0.01)
    assert reliable[inside].all()
    assert not reliable[(times_s > 1.05) & (times_s < 1.2)].any()
    written = (folder / "1.f0.csv").stat().st_mtime_ns
    read_annotation(track)
    assert (folder / "1.f0.csv").stat().st_mtime_ns == written
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [("mir1k", "get_data.sh mir1k"), ("synthetic", "synthesis.py"), ("nowhere", "name a folder")],
)
def test_absent_sets_say_what_to_run(datasets_dir, dataset, message):
    with pytest.raises(FileNotFoundError, match=message):
        find_tracks(dataset, datasets_dir)


def test_a_folder_without_recordings(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recording with an annotation"):
        find_tracks(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,220\nnan,220\n", "line 2: NaN"),
        ("-0.1,220\n0,220\n", "negative time"),
        ("0.2,220\n0.1,220\n", "line 2: .*does not come after"),
        ("220\n230\n", r"line 1: 1 column"),
    ],
)
def test_bad_annotations_name_file_and_line(tmp_path, text, message):
    write_text(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match=f"a.csv, {message}|a.csv.*{message}"):
        read_annotation(Track("x/a", "x", tmp_path / "a.wav", tmp_path / "a.csv"))


def test_synthetic_songs_are_split_by_their_names(datasets_dir):
    for name in ("train_0000", "val_0000", "test_0003"):
        write_wav(datasets_dir / "synthetic" / f"{name}.wav", np.zeros(9))
        write_text(datasets_dir / "synthetic" / f"{name}.csv", "0,0\n")
    for part in ("train", "val", "test"):
        (track,) = find_tracks("synthetic", datasets_dir, part)
        assert track.group.startswith(part)


def test_contours(datasets_dir):
    folder = datasets_dir / "melody_contours"
    with pytest.raises(FileNotFoundError, match="get_data.sh contours"):
        corpora.find_contours(datasets_dir)
    write_text(folder / "a.csv", "0.00,0\n0.01,220\n0.02,0\n")
    np.savez(folder / "b.npz", f0_hz=np.array([0, 330], np.float32))
    csv_path, npz_path = corpora.find_contours(datasets_dir)
    assert set(corpora.read_contour(csv_path, 0.005)) == {0.0, 220.0}
    assert corpora.read_contour(npz_path, 0.005).tolist() == [0, 330]


@pytest.fixture
def fake_mirdata(tmp_path, monkeypatch):
    """The part of mirdata's interface that is used, over two tracks, one of them without audio."""
    audio_path = tmp_path / "a.wav"
    soundfile.write(audio_path, np.c_[np.full(4410, 0.1), np.full(4410, 0.3)], 44_100)
    times_s, hz = np.arange(4) * 0.01, np.array([0.0, 220.0, 230.0, 240.0])
    melody = types.SimpleNamespace(times=times_s, frequencies=hz, voicing=np.array([0, 1, 0, 1]))
    tracks = {
        "a": types.SimpleNamespace(audio_path=str(audio_path), f0=melody),
        "b": types.SimpleNamespace(audio_path=str(tmp_path / "absent.wav"), f0=melody),
    }
    loader = types.SimpleNamespace(load_tracks=lambda: tracks)
    module = types.SimpleNamespace(initialize=lambda name, data_home: loader)
    monkeypatch.setitem(sys.modules, "mirdata", module)
    return tracks


def test_mirdata_sets_are_read_by_its_loaders(fake_mirdata, tmp_path):
    (track,) = corpora.find_tracks("mirdata:ikala", tmp_path)
    assert track.song_id == "ikala/a" and corpora.has_stems(track)
    times_s, f0_hz, reliable = corpora.read_annotation(track)
    np.testing.assert_allclose(times_s, np.arange(4) * 0.01)
    np.testing.assert_allclose(f0_hz, [0, 220, 0, 240])
    assert reliable.all() and corpora.unpaired_files("mirdata:ikala", tmp_path) == []
    lead, backing = corpora.read_stems(track, 44_100)
    assert lead.mean() == pytest.approx(0.3, abs=0.01)
    assert backing.mean() == pytest.approx(0.1, abs=0.01)


def test_mirdata_says_what_to_do(fake_mirdata, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="choose from orchset"):
        corpora.find_tracks("mirdata:nothing", tmp_path)
    fake_mirdata.clear()
    with pytest.raises(FileNotFoundError, match=r"mirdata.initialize\('ikala'.*download"):
        corpora.find_tracks("mirdata:ikala", tmp_path)
    monkeypatch.setitem(sys.modules, "mirdata", None)
    with pytest.raises(ValueError, match="uv pip install mirdata"):
        corpora.find_tracks("mirdata:ikala", tmp_path)
