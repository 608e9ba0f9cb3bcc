"""The search for decoding settings, on posteriors made by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

import checkpoint
import corpora
import tuning
from config import DecodingConfig, FeatureConfig
from decoding import pack_posteriors
from labels import N_PITCHES, N_SEMITONES, SUB_BINS, semitone_to_hz

N_FRAMES = 400
FEATURES = FeatureConfig()


def song(voicing, network=0):
    """Posteriors sure of semitone 20, and a reference voiced in the first half only."""
    pitch = np.full((N_FRAMES, N_PITCHES), 1e-6)
    pitch[:, 20 * SUB_BINS + SUB_BINS // 2] = 1
    factored = np.full((N_FRAMES, N_SEMITONES), 1e-6)
    factored[:, 20] = 1
    times_s = np.arange(N_FRAMES) * FEATURES.hop_seconds
    f0_hz = np.where(np.arange(N_FRAMES) < N_FRAMES // 2, semitone_to_hz(20), 0.0)
    voicing = np.stack([voicing, np.zeros(N_FRAMES)], axis=1)
    posteriors = pack_posteriors(pitch, factored, voicing)
    return posteriors, network, (times_s, f0_hz, np.ones(N_FRAMES, bool))


@pytest.fixture
def loaded():
    return network()


def network(partner=None):
    settings = DecodingConfig(viterbi=False)
    return SimpleNamespace(features=FEATURES, decoding=settings, partner=partner)


@pytest.mark.parametrize(("rest", "expected"), [(0.55, 0.6), (0.65, 0.7), (0.1, 0.5)])
def test_the_threshold_moves_above_the_accompaniment_only_when_needed(loaded, rest, expected):
    voicing = np.where(np.arange(N_FRAMES) < N_FRAMES // 2, 0.9, rest)
    (best,) = tuning.tune({"set": [song(voicing)]}, loaded)
    assert best.voicing_threshold == expected


def test_of_a_pair_the_partner_is_tuned_by_the_songs_that_it_hears():
    half = np.arange(N_FRAMES) < N_FRAMES // 2
    songs = [song(np.where(half, 0.9, 0.55)), song(np.where(half, 0.9, 0.65), network=1)]
    best = tuning.tune({"set": songs}, network(partner=network()))
    assert [settings.voicing_threshold for settings in best] == [0.5, 0.7]


def test_each_set_weighs_the_same_whatever_its_size(loaded):
    half = np.arange(N_FRAMES) < N_FRAMES // 2
    good, bad = song(half.astype(float)), song(1.0 - half)
    scores = tuning.score({"large": [good] * 3, "small": [bad]}, loaded, [loaded.decoding])
    assert scores["large"] == 1
    assert scores["small"] == 0
    assert scores["mean"] == 0.5


def test_sets_are_validation_parts_at_several_levels(tmp_path, monkeypatch):
    asked = []

    def find_tracks(name, folder, part="all"):
        asked.append((name, part))
        return list(range(10))

    monkeypatch.setattr(corpora, "find_tracks", find_tracks)
    monkeypatch.setattr(tuning.synthesis, "write_corpus", lambda *_: None)
    monkeypatch.setattr(tuning, "rendered", lambda name, folder, render: [])
    sets = tuning.find_sets(str(tmp_path), 5)
    assert asked == [("mir1k", "val"), ("synthetic", "val")]
    assert [name for name in sets if "mir1k" in name] == [
        "mir1k -5 dB",
        "mir1k +0 dB",
        "mir1k +5 dB",
    ]
    assert sets["mir1k -5 dB"] == [(k, -5.0) for k in (0, 2, 4, 6, 8)]


def test_songs_are_rendered_once(tmp_path):
    calls = []

    def render(k):
        calls.append(k)
        silence, times_s = np.zeros(1000, np.float32), np.arange(5) / 172
        return tuning.synthesis.Song(f"{k:02d}", silence, silence, 8000, times_s, times_s * 0, 2)

    first, second = (tuning.rendered("scores_val", tmp_path, render) for _ in range(2))
    assert calls == list(range(tuning.N_RENDERED_SONGS)) and first == second
    assert [t.song_id for t in first[:2]] == ["scores_val/00", "scores_val/01"]


def test_settings_are_stored_and_the_rest_is_kept(tmp_path, monkeypatch):
    import torch

    path = tmp_path / "weights.pt"
    torch.save({"model": {"w": torch.ones(2)}, "decoding": {}}, path)
    path.with_suffix(".onnx").touch()  # with the old settings inside
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda p: torch.load(p))
    tuning.store(path, DecodingConfig(switch_cost=9.0))
    content = torch.load(path)
    assert content["decoding"]["switch_cost"] == 9.0
    assert content["model"]["w"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]
