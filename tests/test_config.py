import dataclasses
import json

import pytest

import config
from config import FeatureConfig, PreprocConfig, SynthesisConfig, TrainConfig

GROUPS = [
    value for value in vars(config).values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type)
]  # fmt: skip


def test_every_group_is_there():
    assert {type(g).__name__ for g in GROUPS} >= {
        "FeatureConfig", "PreprocConfig", "TrainConfig", "ModelConfig", "DecodingConfig",
        "EvaluationConfig", "InferenceConfig",
    }  # fmt: skip


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: type(g).__name__)
def test_groups_survive_json(group):
    plain = json.loads(json.dumps(config.to_plain(group)))
    assert config.from_plain(type(group), plain) == group


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="FeatureConfig has no setting named hopp"):
        config.from_plain(FeatureConfig, {"hopp": 1})


def test_groups_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.feature_config.hop_samples = 512


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (FeatureConfig, {"sample_rate": 8000}, "top bin, .* exceeds Nyquist, 4000 Hz"),
        (FeatureConfig, {"bins_per_octave": 50}, "bins_per_octave 50"),
        (FeatureConfig, {"hop_samples": 0}, "hop_samples"),
        (PreprocConfig, {"protocol": "ah2"}, "unknown protocol 'ah2'; choose from ah1"),
        (PreprocConfig, {"pitch_shifts": (-1, 1)}, "pitch_shifts must contain 0"),
        (PreprocConfig, {"pitch_shifts": (0, 3)}, "margin"),
        (PreprocConfig, {"shift_method": "tape"}, "'tape' is neither"),
        (PreprocConfig, {"window_frames": 0}, "window_frames"),
        (TrainConfig, {"ema_decay": 1.0}, "ema_decay 1.0"),
        (TrainConfig, {"loss_weights": {"pitch": 1.0}}, "needs chroma, octave, pitch, voicing"),
        (TrainConfig, {"remix": 1.5}, "remix 1.5"),
        (
            TrainConfig,
            {"windows_in_row": 3},
            "batch_windows 8 is not a multiple of windows_in_row 3",
        ),
        (SynthesisConfig, {"n_songs": (1, 2)}, "three counts"),
    ],
)
def test_bad_values_are_refused_with_name_and_rule(cls, values, message):
    with pytest.raises(ValueError, match=message):
        cls(**values)


def test_the_grid_of_the_design():
    features = FeatureConfig()
    assert (features.n_bins, features.bins_per_semitone) == (365, 5)
    assert 1 + 3 * features.sample_rate // features.hop_samples == PreprocConfig().window_frames
    assert features.hop_seconds == 256 / 44_100


@pytest.mark.parametrize("name", config.PROTOCOLS)
def test_no_recording_stands_in_two_splits_of_a_protocol(name):
    protocol = config.PROTOCOLS[name]
    assert list(protocol) == ["train", "val", "test"]
    parts = [entry for split in protocol.values() for entry in split]
    assert len(parts) == len(set(parts))
    for dataset, part in parts:
        assert part != "all" or [d for d, _ in parts].count(dataset) == 1


def test_adc2004_is_never_trained_on_and_benchmark_keeps_mirex05_for_testing():
    for protocol in config.PROTOCOLS.values():
        assert "adc2004" not in dict((*protocol["train"], *protocol["val"]))
    benchmark = config.PROTOCOLS["benchmark"]
    assert "mirex05" not in dict((*benchmark["train"], *benchmark["val"]))
    assert dict(benchmark["test"])["mirex05"] == "all"


@pytest.mark.parametrize("name", config.EXPERIMENTS)
def test_experiments_are_differences_of_the_groups(name):
    groups = config.experiment(name)
    for group, changes in config.EXPERIMENTS[name].items():
        assert {k: getattr(groups[group], k) for k in changes} == changes
    assert config.experiment("default")["train_config"] == config.train_config
