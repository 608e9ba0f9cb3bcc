"""Small settings and seeded sounds that the tests of the core share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from config import FeatureConfig, ModelConfig, TrainConfig

torch.set_num_threads(1)


@pytest.fixture
def tiny_features() -> FeatureConfig:
    """Three octaves from C2 at 8 kHz: a transform in milliseconds."""
    return FeatureConfig(sample_rate=8000, hop_samples=128, n_bins=190)


@pytest.fixture
def tiny_model_config() -> ModelConfig:
    """A network of a few thousand weights."""
    return ModelConfig(harmonics=(1, 2), stem_channels=4, channels=8, n_blocks=1,
                       recurrent_units=8, overview_units=4, dropout=0.1)  # fmt: skip


@pytest.fixture
def plain_train_config() -> TrainConfig:
    """Training without augmentation and without averaging."""
    return TrainConfig(
        remix=0.0,
        roll_bins=0,
        tilt_db=0.0,
        level_db=(0.0, 0.0),
        voice_gain_db=(0.0, 0.0),
        mask_bins=0,
        mask_frames=0,
        ema_decay=0.0,
        n_loader_workers=0,
    )


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    """Seeded harmonic tones: `tone(f0_hz, seconds, rate)` gives float32 samples."""

    def make(f0_hz: float, seconds: float = 1.0, rate: int = 44_100, n_harmonics: int = 5):
        rng = np.random.default_rng(0)
        time_s = np.arange(round(seconds * rate)) / rate
        harmonics = [h for h in range(1, n_harmonics + 1) if h * f0_hz < rate / 2.5]
        waves = [np.sin(2 * np.pi * (h * f0_hz * time_s + rng.random())) / h for h in harmonics]
        return (0.2 * np.sum(waves, axis=0)).astype(np.float32)

    return make
