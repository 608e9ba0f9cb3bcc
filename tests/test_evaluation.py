import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import baselines
import corpora
import evaluation
from baselines import PUBLISHED, Baseline
from config import FeatureConfig
from corpora import SUBSETS, Track
from melody_io import Melody

TIMES_S = np.arange(100) * 0.01
VOICED = (TIMES_S >= 0.2) & (TIMES_S < 0.7)  # 50 of 100 frames


def melody_hz(voiced=VOICED, hz=220.0):
    return np.where(voiced, hz, 0.0)


def write_series(path, f0_hz, times_s=TIMES_S):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.column_stack([times_s, f0_hz]), fmt="%.6f", delimiter="\t")


@pytest.fixture
def songs(tmp_path):
    """Three recordings of a second with annotations: a, b, c."""
    for name in "abc":
        write_series(tmp_path / "songs" / f"{name}.txt", melody_hz())
        soundfile.write(tmp_path / "songs" / f"{name}.wav", np.zeros(8000), 8000)
    return tmp_path / "songs"


@pytest.fixture
def evaluate(monkeypatch, capsys, tmp_path, songs):
    """Run the script on the songs; gives exit code, stdout, stderr and scores.json."""

    def run(*arguments, dataset=True):
        out = tmp_path / "out"
        chosen = ["--dataset", str(songs)] if dataset else []
        line = ["evaluation.py", *chosen, "--output-dir", str(out), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        code = evaluation.main()
        printed = capsys.readouterr()
        path = out / "scores.json"
        content = json.loads(path.read_text()) if path.exists() else None
        return code, printed.out, printed.err, content

    return run


def write_estimates(folder, **series):
    for name in "abc":
        write_series(folder / f"{name}.txt", series.get(name, melody_hz()))
    return folder


def test_scores_files(evaluate, tmp_path):
    estimates = write_estimates(
        tmp_path / "tracker", b=melody_hz(hz=440), c=np.where(VOICED, -220, 220)
    )
    code, out, _, content = evaluate("--estimates", estimates)
    assert code == 0
    group = content["groups"][0]
    assert group["name"] == "songs/all"
    system = group["systems"][0]
    assert (system["system"], system["n_songs"]) == ("tracker", 3)
    assert system["song_mean"]["RPA"] == pytest.approx(2 / 3)
    assert system["song_mean"]["RPA_no_guess"] == pytest.approx(1 / 3)
    assert system["song_mean"]["RCA"] == pytest.approx(1)
    assert system["pooled"]["OA"] == pytest.approx(0.5)
    assert system["interval"]["OA"] == [0.0, 1.0]
    assert system["errors"]["all"]["octave_up"] == 50
    assert "songs/all" in out and "tracker, song mean of 3" in out and "66.7" in out
    assert "Protocol" in out and "guess" in out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scores.csv", "scores.json"]


def test_pooled_weighs_songs_by_their_frames(evaluate, songs, tmp_path):
    half = slice(0, 50)
    write_series(songs / "a.txt", melody_hz()[half], TIMES_S[half])  # 30 voiced, others 50
    estimates = write_estimates(tmp_path / "tracker", a=melody_hz(hz=440))
    system = evaluate("--estimates", estimates)[3]["groups"][0]["systems"][0]
    assert system["song_mean"]["RPA"] == pytest.approx(2 / 3)
    assert system["pooled"]["RPA"] == pytest.approx(100 / 130)


def test_csv_has_one_line_for_each_song(evaluate, tmp_path):
    estimates = write_estimates(tmp_path / "tracker", b=melody_hz(hz=440))
    evaluate("--estimates", estimates)
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = {row["song_id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["songs/a", "songs/b", "songs/c"]
    assert float(rows["songs/b"]["RCA"]) == 1 and float(rows["songs/b"]["RPA"]) == 0
    assert rows["songs/b"]["octave_up"] == "50" and rows["songs/b"]["n_voiced"] == "50"


def test_two_systems_are_compared_in_pairs(evaluate, tmp_path):
    good = write_estimates(tmp_path / "good")
    bad = write_estimates(tmp_path / "bad", a=melody_hz(hz=440))
    code, out, _, content = evaluate("--estimates", good, bad)
    assert code == 0
    comparison = content["groups"][0]["comparisons"][0]
    assert (comparison["first"], comparison["second"]) == ("good", "bad")
    assert comparison["measures"]["RPA"]["difference"] == pytest.approx(1 / 3)
    assert comparison["measures"]["RPA"]["n_songs"] == 3
    assert "good minus bad, 3 songs" in out


def test_systems_of_one_name_stay_apart(evaluate, tmp_path):
    first = write_estimates(tmp_path / "one" / "run")
    second = write_estimates(tmp_path / "two" / "run", a=melody_hz(hz=440))
    content = evaluate("--estimates", first, second)[3]
    assert [s["n_songs"] for s in content["groups"][0]["systems"]] == [3, 3]


def test_an_estimate_without_melody_is_scored_as_such(evaluate, tmp_path):
    """Leaving it out would make a system better by what it missed."""
    estimates = write_estimates(tmp_path / "silent", a=-melody_hz(), b=melody_hz(), c=melody_hz())
    code, _, _, content = evaluate("--estimates", estimates)
    scores = {s["song_id"]: s["scores"] for s in content["songs"]}
    assert code == 0 and len(scores) == 3
    assert scores["songs/a"]["VR"] == 0 and scores["songs/b"]["VR"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.0\t0\n0.1\t220\n0.1\t220\n", "0.1 s"),
        ("0.0\t0\n0.01\tnan\n", "NaN"),
        ("0.0\t220\t1\t2\n0.01\t220\t1\t2\n", "column"),
        ("", "no values"),
    ],
)
def test_a_bad_estimate_is_named_and_the_rest_scored(evaluate, tmp_path, text, message):
    estimates = write_estimates(tmp_path / "tracker")
    (estimates / "b.txt").write_text(text)
    code, _, err, content = evaluate("--estimates", estimates)
    assert code == 1
    problem = next(line for line in err.splitlines() if line.startswith("problem: songs/b"))
    assert message in problem and "b.txt" in problem
    assert content["groups"][0]["systems"][0]["n_songs"] == 2
    assert len(content["problems"]) == 1


def test_missing_and_superfluous_estimates_are_named(evaluate, tmp_path):
    estimates = write_estimates(tmp_path / "tracker")
    (estimates / "a.txt").rename(estimates / "nobody.txt")
    code, _, err, content = evaluate("--estimates", estimates)
    assert code == 1
    assert "songs/a, tracker: no estimate" in err
    assert "nobody.txt: an estimate for a song that does not exist" in err
    assert content["groups"][0]["systems"][0]["n_songs"] == 2


def test_short_estimate_says_how_much_is_missing(evaluate, tmp_path):
    estimates = write_estimates(tmp_path / "tracker")
    write_series(estimates / "a.txt", melody_hz()[:45], TIMES_S[:45])
    code, _, err, content = evaluate("--estimates", estimates)
    assert code == 1
    assert "songs/a, tracker: the estimate ends 0.54 s before the reference's 0.99 s" in err
    assert "55 %" in err
    assert content["songs"][0]["scores"]["VR"] == pytest.approx(0.5)


def test_song_without_voiced_reference_is_left_out_of_rpa(evaluate, songs, tmp_path):
    write_series(songs / "a.txt", np.zeros(100))
    estimates = write_estimates(tmp_path / "tracker")
    code, out, _, content = evaluate("--estimates", estimates)
    assert code == 0
    assert content["groups"][0]["systems"][0]["song_mean"]["RPA"] == 1
    assert content["songs"][0]["scores"]["RPA"] is None
    assert "1 song(s) without a voiced reference frame" in out


def test_bad_annotation_and_lone_files_are_named(evaluate, songs, tmp_path):
    (songs / "a.txt").write_text("0.0\t220\n0.0\t220\n0.1\t220\n")
    (songs / "c.wav").unlink()
    code, _, err, content = evaluate("--estimates", write_estimates(tmp_path / "tracker"))
    assert code == 1
    assert "songs/a" in err and "c.txt has no partner" in err
    assert [s["song_id"] for s in content["songs"]] == ["songs/b"]


def test_estimates_in_folders_of_data_sets(evaluate, tmp_path):
    write_estimates(tmp_path / "tracker" / "songs")
    assert evaluate("--estimates", tmp_path / "tracker")[0] == 0


def test_missing_data_says_what_to_run(evaluate, tmp_path):
    estimates = write_estimates(tmp_path / "tracker")
    arguments = ("--estimates", estimates, "--datasets-dir", tmp_path, "--dataset", "mirex05")
    code, _, err, content = evaluate(*arguments, dataset=False)
    assert code == 1 and content is None
    assert "bash get_data.sh mirex05" in err


def test_default_is_the_test_split_of_the_protocol(evaluate, tmp_path):
    estimates = write_estimates(tmp_path / "tracker")
    code, _, err, _ = evaluate(
        "--estimates", estimates, "--datasets-dir", tmp_path / "none", dataset=False
    )
    assert code == 1
    assert "mir1k: no recordings" in err and "mirex05: no recordings" in err


def test_unwritable_output_folder_is_named(evaluate, tmp_path):
    (tmp_path / "out").write_text("a file, not a folder")
    code, _, err, _ = evaluate("--estimates", write_estimates(tmp_path / "tracker"))
    assert code == 1 and "cannot write the scores" in err


def test_baseline_beside_estimates(evaluate, monkeypatch, tmp_path):
    def run(audio, sample_rate):
        assert sample_rate == 16_000 and abs(len(audio) - 16_000) < 2
        return TIMES_S, melody_hz(hz=440)

    monkeypatch.setitem(baselines.BASELINES, "pyin", Baseline("numpy", 16_000, run))
    estimates = write_estimates(tmp_path / "tracker")
    code, _, _, content = evaluate("--estimates", estimates, "--baseline", "pyin")
    assert code == 0
    systems = {s["system"]: s["song_mean"] for s in content["groups"][0]["systems"]}
    assert systems["tracker"]["RPA"] == 1 and systems["pyin"]["RPA"] == 0
    assert systems["pyin"]["RCA"] == 1


def test_checkpoint_is_scored_and_its_training_songs_are_warned_of(evaluate, monkeypatch, tmp_path):
    folder = tmp_path / "datasets" / corpora.FOLDERS["mirex05"]
    for name in ("train01", "train06"):  # of training and of testing under ah1
        write_series(folder / f"{name}REF.txt", melody_hz())
        soundfile.write(folder / f"{name}.wav", np.zeros(8000), 8000)
    loaded = SimpleNamespace(features=FeatureConfig(), info={"protocol": "ah1"})
    melody = Melody(TIMES_S, np.full(100, 220.0), np.ones(100), VOICED)
    fakes = {
        "load_checkpoint": lambda path, device: loaded,
        "resolve_device": lambda name: name,
    }
    monkeypatch.setitem(sys.modules, "checkpoint", SimpleNamespace(**fakes))
    monkeypatch.setattr(baselines, "newest_network", lambda folder: Path("melody_crnn_x.pt"))
    decoding = SimpleNamespace(extract_melody=lambda audio, loaded: melody)
    monkeypatch.setitem(sys.modules, "decoding", decoding)
    arguments = ("--datasets-dir", tmp_path / "datasets", "--dataset", "mirex05")
    code, out, _, content = evaluate(*arguments, dataset=False)
    assert code == 0 and "in training" not in out and "Protocol ah1 (of the checkpoint)" in out
    assert [s["song_id"] for s in content["songs"]] == ["mirex05/train06"]
    assert content["groups"][0]["systems"][0]["system"] == "melody_crnn_x"
    assert content["songs"][0]["scores"]["OA"] == 1
    out = evaluate(*arguments, "--part", "all", dataset=False)[1]
    assert "uses 1 of the 2 songs of mirex05/all in training" in out


def test_absent_baseline_says_how_to_install_it(evaluate, monkeypatch, tmp_path):
    monkeypatch.setitem(baselines.BASELINES, "melodia", Baseline("no_such_module", 1, None))
    estimates = write_estimates(tmp_path / "tracker")
    code, _, err, content = evaluate("--estimates", estimates, "--baseline", "melodia")
    assert code == 1 and "uv pip install no_such_module" in err
    assert content["groups"][0]["systems"][0]["n_songs"] == 3


def test_pyin_finds_a_tone_and_guesses_everywhere():
    rate = 22_050
    tone = np.sin(2 * np.pi * 220 * np.arange(rate) / rate) * (np.arange(rate) > rate // 2)
    times_s, f0_hz = baselines.BASELINES["pyin"].run(tone.astype(np.float32), rate)
    inside = (times_s > 0.6) & (times_s < 0.9)
    assert np.abs(1200 * np.log2(f0_hz[inside] / 220)).max() < 20
    assert (f0_hz[times_s < 0.4] < 0).all()


def test_melodia_finds_a_tone():
    pytest.importorskip("essentia", reason="essentia is not installed")
    rate = 44_100
    phase = 2 * np.pi * 220 * np.arange(2 * rate) / rate
    tone = sum(np.sin(h * phase) / h for h in range(1, 8)) / 4
    times_s, f0_hz = baselines.BASELINES["melodia"].run(tone, rate)
    inside = (times_s > 0.5) & (times_s < 1.5)
    assert np.abs(1200 * np.log2(f0_hz[inside] / 220)).max() < 20


def test_voice_levels_are_scored_apart(evaluate, monkeypatch, tmp_path):
    heard = []

    def run(audio, sample_rate):
        heard.append(float(np.abs(audio).max()))
        return TIMES_S, melody_hz()

    folder = tmp_path / "open_stems"
    write_series(folder / "x.csv", melody_hz())
    table = np.column_stack([TIMES_S, melody_hz(), np.ones(100)])
    header = "time,frequency,reliable"
    np.savetxt(folder / "x.csv", table, fmt="%.4f", delimiter=",", header=header, comments="")
    stereo = np.zeros((44_100, 2))
    stereo[:, 1] = 0.1  # right: lead
    soundfile.write(folder / "x.wav", stereo, 44_100)
    monkeypatch.setitem(baselines.BASELINES, "pyin", Baseline("numpy", 44_100, run))
    arguments = ("--checkpoint", "none", "--baseline", "pyin", "--voice-gain-db", -20, 0)
    code, _, _, content = evaluate("--dataset", folder, *arguments, dataset=False)
    assert code == 0
    assert heard == pytest.approx([0.01, 0.1], rel=0.01)
    names = [g["name"] for g in content["groups"]]
    assert names == ["open_stems/all, voice -20 dB", "open_stems/all, voice +0 dB"]


def test_levels_of_fixed_files_are_refused(evaluate, tmp_path):
    with pytest.raises(SystemExit):
        evaluate("--estimates", tmp_path, "--voice-gain-db", "5")


def test_subsets_and_published_rows(evaluate, monkeypatch, tmp_path):
    folder = tmp_path / "datasets" / corpora.FOLDERS["mirex05"]
    for name in ("train01", "train09", "train10"):
        write_series(folder / f"{name}REF.txt", melody_hz())
        soundfile.write(folder / f"{name}.wav", np.zeros(8000), 8000)
        write_series(tmp_path / "tracker" / f"{name}.txt", melody_hz())
    arguments = ("--estimates", tmp_path / "tracker", "--datasets-dir", tmp_path / "datasets")
    asked = ("--dataset", "mirex05", "--part", "all", "--published")
    code, out, _, content = evaluate(*arguments, *asked, dataset=False)
    assert code == 0
    groups = {g["name"]: g["systems"][0]["n_songs"] for g in content["groups"]}
    assert groups == {"mirex05/all": 3, "mirex05/vocal9 (2 of 9 songs)": 2}
    assert "PUBLISHED" in out and "89.9" in out and "epoch chosen on each test set" in out


def test_songs_used_in_training_are_counted():
    def track(name):
        return Track(f"mirex05/{name}", "mirex05", Path("a"), Path("b"))

    tracks = [track(f"train{i:02d}") for i in range(1, 13)]
    n_used = evaluation.trained_on(tracks, "ah1")
    n_test = sum(corpora.part_of(t) == "test" for t in tracks)
    assert 0 < n_test < 12 and n_used == 12 - n_test
    assert evaluation.trained_on(tracks, "benchmark") == 0


def test_published_rows_are_whole():
    assert set(PUBLISHED) == set(SUBSETS)
    for rows in PUBLISHED.values():
        assert all(len(values) == 5 and differs for _, values, differs in rows)
