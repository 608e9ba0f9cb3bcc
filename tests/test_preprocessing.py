import errno
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import config
import corpora
import dataset
import features
import labels
import preprocessing
from config import FeatureConfig, PreprocConfig

RATE = 44_100
SINGERS = {"abjones": 196.0, "ariel": 262.0, "davidson": 330.0}  # train, val, test
SONGS = {"train01": 220.0, "train03": 247.0, "train06": 294.0}


def write_data(folder, seconds=0.4, train_seconds=0.4, rate=RATE):
    """MIR-1K and MIREX05 in small: one voiced tone each, silent at first."""
    for name in ("MIR-1K/Wavfile", "MIR-1K/PitchLabel", "mirex05TrainFiles"):
        (folder / name).mkdir(parents=True)
    for singer, f0_hz in SINGERS.items():
        length = train_seconds if singer == "abjones" else seconds
        time_s = np.arange(round(length * rate)) / rate
        voice = np.where(time_s > 0.1, 0.3 * np.sin(2 * np.pi * f0_hz * time_s), 0)
        stereo = np.stack([0.1 * np.sin(2 * np.pi * 98 * time_s), voice], axis=1)
        soundfile.write(folder / f"MIR-1K/Wavfile/{singer}_1_01.wav", stereo, rate)
        midi = 69 + 12 * np.log2(f0_hz / 440)
        values = [midi if 0.02 * (k + 1) > 0.1 else 0 for k in range(int(length / 0.02))]
        path = folder / f"MIR-1K/PitchLabel/{singer}_1_01.pv"
        path.write_text("\n".join(f"{v:.4f}" for v in values))
    for song, f0_hz in SONGS.items():
        time_s = np.arange(round(seconds * rate)) / rate
        audio = np.where(time_s > 0.1, 0.2 * np.sin(2 * np.pi * f0_hz * time_s), 0)
        soundfile.write(folder / f"mirex05TrainFiles/{song}.wav", audio, rate)
        grid_s = np.arange(int(seconds * 100)) / 100
        lines = [f"{t:.2f}\t{f0_hz if t > 0.1 else 0}" for t in grid_s]
        (folder / f"mirex05TrainFiles/{song}REF.txt").write_text("\n".join(lines))


def call_main(monkeypatch, datasets_dir, output_dir, *more):
    arguments = ["--datasets-dir", datasets_dir, "--output-dir", output_dir, *more]
    monkeypatch.setattr(sys, "argv", ["preprocessing.py", *map(str, arguments)])
    return preprocessing.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The three splits and the stems with the settings of the design, by real processes."""
    root = tmp_path_factory.mktemp("preprocessing")
    write_data(root / "datasets", train_seconds=3.2)
    prep = PreprocConfig(
        datasets_dir=str(root / "datasets"), output_dir=str(root / "out"),
        pitch_shifts=(-2, 0, 1), n_workers=1,
    )  # fmt: skip
    preprocessing.run(prep)
    splits = {s: open_split(root / "out", s) for s in ("train", "val", "test")}
    return SimpleNamespace(prep=prep, folder=root / "out", splits=splits)


def open_split(folder, split):
    with np.load(dataset.split_path(folder, split), allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.parametrize(("split", "n"), [("train", 9), ("val", 2), ("test", 2)])
def test_keys_and_shapes_of_the_design(made, split, n):
    arrays = made.splits[split]
    shapes = {key: value.shape for key, value in arrays.items()}
    per_frame = dict.fromkeys(
        ("y_pitch_idx", "y_chroma", "y_octave", "y_voicing", "y_pitch_hz", "f0_hz", "valid"),
        (n, 517),
    )
    assert shapes == per_frame | {
        "X": (n, 1, 365, 517), "song_ids": (n,), "start_frame": (n,), "lead_kind": (n,),
        "norm_mean": (365, 1), "norm_std": (365, 1), "schema_version": (), "settings": (),
    }  # fmt: skip
    assert arrays["X"].dtype == np.float16
    np.broadcast_shapes(arrays["norm_mean"].shape, arrays["X"].shape)
    stored = json.loads(str(arrays["settings"]))
    assert stored["features"] == config.to_plain(config.feature_config)
    assert stored["preproc"]["protocol"] == "ah1"
    assert sorted(p.name for p in made.folder.iterdir()) == [
        "ah1_test_set.npz", "ah1_train_set.npz", "ah1_train_stems.npz", "ah1_val_set.npz",
    ]  # fmt: skip


def test_only_the_training_split_is_shifted_and_no_singer_is_on_both_sides(made):
    ids = {split: sorted(set(a["song_ids"].tolist())) for split, a in made.splits.items()}
    assert ids == {
        "train": [f"{song}{tag}" for song in ("mir1k/abjones_1_01", "mirex05/train01")
                  for tag in ("+0", "+1", "-2")],
        "val": ["mir1k/ariel_1_01+0", "mirex05/train03+0"],
        "test": ["mir1k/davidson_1_01+0", "mirex05/train06+0"],
    }  # fmt: skip
    assert made.splits["train"]["start_frame"].tolist() == [0, 517] * 3 + [0] * 3


def test_statistics_are_those_of_the_training_split(made):
    train = made.splits["train"]
    frames = (
        np.arange(517) < np.array([np.flatnonzero(v).max() + 1 for v in train["valid"]])[:, None]
    )
    inside = train["X"][:, 0].astype(np.float64).transpose(1, 0, 2)[:, frames]
    assert np.abs(inside.mean(axis=1)).max() < 0.01
    assert np.abs(inside.std(axis=1) - 1).max() < 0.01
    for split in ("val", "test"):
        other = made.splits[split]
        np.testing.assert_array_equal(other["norm_mean"], train["norm_mean"])
        np.testing.assert_array_equal(other["norm_std"], train["norm_std"])
        assert np.abs(other["X"][other["valid"].any(axis=1)].mean(axis=(0, 1, 3))).max() > 0.05


def test_windows_are_the_normalised_transform_of_the_recording(made):
    val = made.splits["val"]
    (track,) = corpora.find_tracks("mir1k", made.prep.datasets_dir, "val")
    audio = features.normalise_level(corpora.read_audio(track, RATE), config.feature_config)
    log_cqt = features.log_magnitude(
        features.complex_cqt(audio, config.feature_config), config.feature_config
    )
    expected = features.normalise(log_cqt, val["norm_mean"], val["norm_std"])
    difference = np.abs(val["X"][0, 0, :, : log_cqt.shape[1]] - expected)
    assert difference.mean() < 0.02


def test_labels_follow_the_annotation_and_padding_is_not_valid(made):
    val = made.splits["val"]
    times_s = labels.frame_times_s(517, config.feature_config)
    voiced = val["y_voicing"][0].astype(bool)
    assert times_s[voiced].min() == pytest.approx(0.11, abs=0.006)  # 0.12 is the first voiced value
    assert times_s[val["valid"][0]].max() < 0.43 and not voiced[times_s > 0.43].any()
    np.testing.assert_allclose(val["f0_hz"][0][voiced], 262, rtol=1e-3)
    assert set(val["y_pitch_idx"][0][voiced]) == {25}  # C4: C2 + 24, and 1
    assert set(val["y_chroma"][0][voiced]) == {0} and set(val["y_octave"][0][voiced]) == {2}
    np.testing.assert_allclose(val["y_pitch_hz"][0][voiced], 261.63, atol=0.01)


def test_labels_move_with_the_pitch_shift(made):
    train = made.splits["train"]
    for tag, semitones in (("-2", -2), ("+0", 0), ("+1", 1)):
        row = train["song_ids"].tolist().index(f"mirex05/train01{tag}")
        voiced = train["y_voicing"][row] == 1
        np.testing.assert_allclose(train["f0_hz"][row][voiced], 220 * 2 ** (semitones / 12))
        assert set(train["y_pitch_idx"][row][voiced]) == {22 + semitones}  # A3: C2 + 21, and 1
        log_cqt = train["X"][row, 0].astype(float) * train["norm_std"] + train["norm_mean"]
        expected_bin = 60 * np.log2(220 * 2 ** (semitones / 12) / 65)
        assert abs(log_cqt[:, 50].argmax() - expected_bin) <= 1


def test_stems_stand_apart(made):
    arrays = dataset.open_arrays(dataset.stems_path(made.folder))
    assert set(dataset.STEM_KEYS) < set(arrays)
    assert arrays["lead"].shape == arrays["backing"].shape == (2, 385, 517, 2)  # training alone
    assert arrays["backing_index"].tolist() == [0, 1]
    assert arrays["lead_kind"].tolist() == [labels.SUNG] * 2 and arrays["backing_may_lead"].all()
    peaks = {}
    for kind in ("lead", "backing"):
        window = arrays[kind][0].astype(np.float32)
        peaks[kind] = np.hypot(window[..., 0], window[..., 1])[10:-10, 300].argmax()
    assert abs(peaks["lead"] - 60 * np.log2(196 / 65)) <= 1
    assert abs(peaks["backing"] - 60 * np.log2(98 / 65)) <= 1
    np.testing.assert_allclose(arrays["f0_hz"][0][300], 196, rtol=1e-3)


def test_voices_varied_stand_beside_the_voices_as_they_are(made):
    prep = replace(made.prep, stems=("mir1k", "varied:mir1k"), room_share=0.0)
    (kind, _), varied = preprocessing.stem_sources(prep)
    assert (kind, varied[0]) == ("track", "varied")
    rows = preprocessing.stem_rows(varied, prep)
    assert rows["backing"] == [] and rows["lead_kind"] == [labels.SUNG] * len(rows["lead"])
    f0_hz = rows["f0_hz"][0]
    window = rows["lead"][0].astype(np.float32)
    voiced = np.flatnonzero(f0_hz > 0)[60:400]
    peaks = np.hypot(window[..., 0], window[..., 1])[10:-10, voiced].argmax(axis=0)
    assert np.abs(peaks - 60 * np.log2(f0_hz[voiced] / 65)).max() < 2
    assert abs(12 * np.log2(np.median(f0_hz[voiced]) / 196)) > 1


def test_scores_are_stems_of_exact_pitch(made, monkeypatch):
    for name in ("music21", "tinysoundfont", "pretty_midi"):
        pytest.importorskip(name, reason=f"{name} is optional: uv sync --group soundfont")
    import scores

    monkeypatch.setattr(scores, "TRAIN_PIECES", {"mozart/k545": scores.PIANO})
    prep = replace(made.prep, stems=("scores",))
    sources = preprocessing.stem_sources(prep)
    assert len(sources) == preprocessing.EXCERPTS_PER_SCORE
    rows = preprocessing.stem_rows(sources[0], prep)
    assert len(rows["lead"]) == len(rows["backing"]) == 8 and not any(rows["backing_may_lead"])
    window, f0_hz = rows["lead"][2].astype(np.float32), rows["f0_hz"][2]
    level = np.hypot(window[..., 0], window[..., 1])[10:-10]
    voiced = np.flatnonzero(f0_hz > 0)
    bins = np.round(60 * np.log2(f0_hz[voiced] / 65.406)).astype(int)
    at_pitch = np.max([level[bins + k, voiced] for k in (-1, 0, 1)], axis=0)
    assert np.median(at_pitch / level[:, voiced].max(axis=0)) > 0.3


def test_a_missing_package_is_told(small, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "music21", None)
    monkeypatch.setattr(
        preprocessing.config, "preproc_config",
        replace(preprocessing.config.preproc_config, stems=("scores",), n_workers=1),
    )  # fmt: skip
    assert call_main(monkeypatch, small / "datasets", small / "out") == 1
    assert "uv sync --group soundfont" in capsys.readouterr().err


def test_unknown_kinds_of_stems_are_refused(made):
    with pytest.raises(ValueError, match="'louder:mir1k' is neither a data set nor varied:SET"):
        preprocessing.stem_sources(replace(made.prep, stems=("louder:mir1k",)))


@pytest.mark.parametrize("shift", [-2, 1, 2])
def test_shifting_by_bins_equals_shifting_the_tone(tone, shift):
    settings = config.feature_config
    (moved,) = preprocessing.shifted_cqts(tone(200.0, 0.5), (shift,), PreprocConfig())
    played = tone(200.0 * 2 ** (shift / 12), 0.5)
    expected = features.log_magnitude(
        features.complex_cqt(features.normalise_level(played, settings), settings), settings
    )
    assert moved.shape == expected.shape
    middle = slice(20, -20)
    off_by = {k: np.abs(np.roll(moved, k, axis=0) - expected)[:, middle].mean() for k in (-1, 0, 1)}
    assert off_by[0] < 0.1 and 2 * off_by[0] < min(off_by[-1], off_by[1])
    assert (moved.argmax(axis=0) == expected.argmax(axis=0))[middle].all()


def test_shifting_the_audio_moves_the_same_peak(tone):
    prep = PreprocConfig(shift_method="audio")
    plain, moved = preprocessing.shifted_cqts(tone(200.0, 0.5), (0, 2), prep)
    assert plain.shape == moved.shape
    assert abs(int(moved[:, 40].argmax()) - int(plain[:, 40].argmax()) - 10) <= 1


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_features):
    """Tiny settings, threads instead of processes, and a small data set."""
    monkeypatch.setattr(config, "feature_config", tiny_features)
    monkeypatch.setattr(preprocessing, "open_pool", lambda n, scheduler: ThreadPoolExecutor(n))
    write_data(tmp_path / "datasets", rate=8000)
    return tmp_path


def test_main_writes_all_and_lists_what_is_missing(small, monkeypatch, capsys):
    (small / "datasets/MIR-1K/Wavfile/amy_1_01.wav").write_bytes(b"")  # no label: never opened
    (small / "datasets/MIR-1K/PitchLabel/amy_1_02.pv").write_text("60\n")
    assert call_main(monkeypatch, small / "datasets", small / "out") == 0
    out = capsys.readouterr().out
    assert "mir1k: 3 of 1000 recordings are present; nothing of Ani, Kenshin" in out
    assert "mirex05: 3 of 13 recordings" in out
    assert "no partner file: Wavfile/amy_1_01.wav, PitchLabel/amy_1_02.pv" in out
    assert open_split(small / "out", "val")["X"].shape == (2, 1, 190, 517)


def test_benchmark_protocol_keeps_mirex05_for_testing(small, monkeypatch):
    assert call_main(monkeypatch, small / "datasets", small / "out", "--protocol", "benchmark") == 0
    ids = {s: {i.split("/")[0] for i in open_split(small / "out", s)["song_ids"]}
           for s in ("train", "val", "test")}  # fmt: skip
    assert ids == {"train": {"mir1k"}, "val": {"mir1k"}, "test": {"mir1k", "mirex05"}}


def test_a_folder_of_ones_own_is_a_data_set(small, monkeypatch, capsys):
    folder = small / "mine"
    folder.mkdir()
    soundfile.write(folder / "song.wav", np.zeros(2000), 8000)
    (folder / "song.csv").write_text("0,220\n0.1,220\n0.2,0\n")
    (folder / "orphan.csv").write_text("0,220\n")
    parts = {s: config.PROTOCOLS["ah1"][s] for s in ("val", "test")}
    own = {"train": (("mir1k", "train"), (str(folder), "all")), **parts}
    monkeypatch.setitem(config.PROTOCOLS, "own", own)
    assert call_main(monkeypatch, small / "datasets", small / "out", "--protocol", "own") == 0
    assert "mine/song+0" in open_split(small / "out", "train")["song_ids"]
    assert "orphan.csv" in capsys.readouterr().out


def test_no_data_says_what_to_run(tmp_path, monkeypatch, capsys):
    assert call_main(monkeypatch, tmp_path / "none", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "bash get_data.sh mir1k" in error and "--protocol synthetic" in error
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_refused_before_any_work(small, monkeypatch, capsys):
    (small / "datasets/MIR-1K/Wavfile/ariel_1_01.wav").unlink()
    code = call_main(monkeypatch, small / "datasets", small / "out", "--protocol", "benchmark")
    assert code == 1
    assert "no recording for the val split" in capsys.readouterr().err
    assert not (small / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("MIR-1K/Wavfile/abjones_1_01.wav", "this is text", "abjones_1_01.wav: not audio"),
        ("MIR-1K/Wavfile/abjones_1_01.wav", "", "abjones_1_01.wav: empty file"),
        ("mirex05TrainFiles/train01REF.txt", "0\t220\nnan\t1\n", "train01REF.txt, line 2"),
        ("MIR-1K/PitchLabel/abjones_1_01.pv", "196\n", "no MIDI pitch"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    small, monkeypatch, capsys, name, content, message
):
    (small / "datasets" / name).write_text(content)
    assert call_main(monkeypatch, small / "datasets", small / "out") == 1
    assert message in capsys.readouterr().err
    assert list((small / "out").iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(small, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset.NpzWriter, "add", full)
    assert call_main(monkeypatch, small / "datasets", small / "out") == 1
    assert "the disk is full; nothing half-written was kept" in capsys.readouterr().err
    assert list((small / "out").iterdir()) == []


def test_an_unwritable_output_folder_is_told(small, monkeypatch, capsys):
    (small / "file").write_text("in the way")
    assert call_main(monkeypatch, small / "datasets", small / "file") == 1
    error = capsys.readouterr().err
    assert "choose another --output-dir" in error and "file" in error


def test_stems_without_any_accompaniment_are_refused(small, monkeypatch):
    prep = PreprocConfig(datasets_dir=str(small / "datasets"), output_dir=str(small / "out"),
                         stems=("mirex05",), n_workers=1)  # fmt: skip
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="no accompaniment"):
        preprocessing.write_stems(prep, pool)
    assert list((small / "out").iterdir()) == []


def test_voice_gains_apply_to_training_alone(small):
    prep = PreprocConfig(datasets_dir=str(small / "datasets"), pitch_shifts=(0,),
                         voice_gains_db=(0.0, -12.0))  # fmt: skip
    (track,) = corpora.find_tracks("mir1k", prep.datasets_dir, "train")
    loud, soft = preprocessing.track_windows(track, True, prep)
    assert (loud["song_ids"].item(), soft["song_ids"].item()) == (
        "mir1k/abjones_1_01+0", "mir1k/abjones_1_01@-12dB+0",
    )  # fmt: skip
    voice_bin = round(60 * np.log2(196 / 65))
    assert (loud["X"] - soft["X"])[0, voice_bin, 15] > 0.5
    assert len(preprocessing.track_windows(track, False, prep)) == 1
    assert isinstance(config.feature_config, FeatureConfig)
