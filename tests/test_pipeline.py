"""All stages in a row, on tiny recordings in the layout of the real data sets."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile

import config
import evaluation
import inference
import preprocessing
import training
from melody_io import read_melody

RATE = 8000
SINGERS = {"abjones_1_01": 131.0, "amy_1_01": 175.0, "ariel_1_01": 147.0, "davidson_1_01": 165.0}
SONGS = {"train01": 156.0, "train03": 139.0, "train06": 175.0}


@pytest.fixture
def recordings(tmp_path, tone):
    folder = tmp_path / "datasets"
    for name in ("MIR-1K/Wavfile", "MIR-1K/PitchLabel", "mirex05TrainFiles"):
        (folder / name).mkdir(parents=True)
    rest = np.zeros(RATE // 2, np.float32)
    for clip, f0_hz in SINGERS.items():
        voice = np.concatenate([rest, tone(f0_hz, 1.0, RATE)])
        stereo = np.stack([0.1 * tone(82.0, 1.5, RATE), voice], axis=1)
        soundfile.write(folder / f"MIR-1K/Wavfile/{clip}.wav", stereo, RATE)
        midi = 69 + 12 * np.log2(f0_hz / 440)
        values = [midi if k >= 25 else 0 for k in range(74)]
        (folder / f"MIR-1K/PitchLabel/{clip}.pv").write_text("\n".join(map(str, values)))
    for song, f0_hz in SONGS.items():
        audio = np.concatenate([rest, tone(f0_hz, 1.0, RATE)])
        soundfile.write(folder / f"mirex05TrainFiles/{song}.wav", audio, RATE)
        lines = [f"{k / 100:.2f}\t{f0_hz if k >= 50 else 0}" for k in range(150)]
        (folder / f"mirex05TrainFiles/{song}REF.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def small_settings(monkeypatch, tiny_features, tiny_model_config):
    settings = {
        "feature_config": tiny_features,
        "model_config": replace(tiny_model_config, dropout=0.0),
        "train_config": replace(
            config.train_config, max_epochs=2, steps_per_epoch=20, batch_windows=4,
            n_loader_workers=0, n_validation_songs=1, learning_rate=2e-2, ema_decay=0.8,
            mask_bins=5, mask_frames=5,
        ),
        "preproc_config": replace(config.preproc_config, window_frames=96, n_workers=1),
    }  # fmt: skip
    for name, group in settings.items():
        monkeypatch.setattr(config, name, group)
    monkeypatch.setattr(preprocessing, "open_pool", lambda n, scheduler: ThreadPoolExecutor(n))


def call(monkeypatch, stage, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{stage.__name__}.py", *map(str, arguments)])
    return stage.main()


@pytest.mark.parametrize("protocol", ["ah1", "benchmark"])
@pytest.mark.usefixtures("small_settings")
def test_from_recordings_to_scores(recordings, tmp_path, monkeypatch, capsys, protocol):
    data, models, output = (tmp_path / name for name in ("processed_data", "models", "output"))
    where = ("--datasets-dir", recordings)
    code = call(monkeypatch, preprocessing, *where, "--output-dir", data, "--protocol", protocol)
    assert code == 0
    assert call(monkeypatch, training, *where, "--data-dir", data, "--models-dir", models) == 0
    (path,) = models.glob("melody_crnn_????-??-??_??-??-??.pt")
    log = path.with_suffix(".csv").read_text().splitlines()
    assert len(log) == 3 and "val_OA" in log[0]

    capsys.readouterr()
    code = call(
        monkeypatch, evaluation, *where, "--checkpoint", path, "--output-dir", output / "scores"
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    assert f"Protocol {protocol} (of the checkpoint)" in out
    assert "in training or validation" not in out
    scores = json.loads((output / "scores" / "scores.json").read_text())
    songs = {row["song_id"] for row in scores["songs"]}
    tested = {"mirex05/train06"} if protocol == "ah1" else {f"mirex05/{s}" for s in SONGS}
    assert songs == {"mir1k/davidson_1_01"} | tested
    assert np.mean([row["scores"]["OA"] for row in scores["songs"]]) > 0.4  # chance: near 0.3

    song = recordings / "mirex05TrainFiles/train06.wav"
    more = ("--checkpoint", str(path), "--output-dir", str(output), "--formats", "csv,mirex")
    assert inference.main([str(song), *more, "--quiet"]) == 0
    assert (output / "train06.csv").read_text().startswith("time,frequency,confidence,voiced\n")
    times_s, f0_hz = read_melody(output / "train06.csv")
    np.testing.assert_allclose(np.diff(times_s), 128 / RATE, atol=1e-3)
    mirex_s, _ = read_melody(output / "train06.txt")
    np.testing.assert_allclose(np.diff(mirex_s), 0.01)
    same = next(row for row in scores["songs"] if row["song_id"] == "mirex05/train06")
    assert (f0_hz > 0).any() or same["scores"]["VR"] == 0
