"""MelodyCRNN: convolutions over a harmonic stack of the CQT, recurrence over time, four heads.

After AH1 (A. Huang and H. Liu, MIREX 2020), whose chroma, octave and voicing heads it keeps; a
joint pitch salience in steps of 20 cents stands beside them. Harmonics as channels follow
R. Bittner et al. (Deep Salience, ISMIR 2017), made by shifting the CQT (J. Balhar and J. Hajič,
2018).
"""

import math

import torch
from torch import nn

from config import FeatureConfig, ModelConfig
from labels import N_CHROMA, N_OCTAVES, N_SEMITONES

SUB_BINS = 5  # pitch classes inside a semitone: -40, -20, 0, 20, 40 cents
N_PITCHES = N_SEMITONES * SUB_BINS


class HarmonicStack(nn.Module):
    """(batch, 1, bin, frame) -> (batch, harmonic, 240, frame): row r of channel h is bin r * h.

    Rows are the fundamentals C2..B5, two bins below C2 first, so that five rows are a semitone.
    """

    def __init__(self, features: FeatureConfig, harmonics: tuple[float, ...]) -> None:
        super().__init__()
        lowest = -(features.bins_per_semitone // 2)
        self.n_rows = N_SEMITONES * features.bins_per_semitone
        octave = features.bins_per_octave
        self.starts = [lowest + round(octave * math.log2(h)) for h in harmonics]
        self.pad_below = max(0, -min(self.starts))
        self.pad_above = max(0, max(self.starts) + self.n_rows - features.n_bins)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(x[:, 0], (0, 0, self.pad_below, self.pad_above))
        first = [start + self.pad_below for start in self.starts]
        return torch.stack([x[:, f : f + self.n_rows] for f in first], dim=1)


class Block(nn.Module):
    """Residual block (pre-activation): convolution over pitch and time, linked across octaves."""

    def __init__(self, channels: int, time_dilation: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(channels), nn.GELU())
        self.local = nn.Conv2d(
            channels, channels, 3, padding=(1, time_dilation), dilation=(1, time_dilation)
        )
        # The octave above and below, seen at once: what octave errors are decided by.
        self.octaves = nn.Conv2d(
            channels, channels, (3, 1), padding=(12, 0), dilation=(12, 1), groups=channels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        return x + self.local(y) + self.octaves(y)


class MelodyCRNN(nn.Module):
    """Log-CQT windows to frame-wise logits.

    Input (batch, 1, n_bins, n_frames), normalised. Output, a dictionary of logits: `pitch`
    (batch, n_frames, 240) from C2 - 40 cents in steps of 20 cents, `chroma` (batch, n_frames, 12),
    `octave` (batch, n_frames, 4), `voicing` (batch, n_frames, 2).
    """

    def __init__(self, features: FeatureConfig, settings: ModelConfig) -> None:
        super().__init__()
        if features.bins_per_semitone != SUB_BINS:
            raise ValueError(f"MelodyCRNN needs {SUB_BINS} bins a semitone")
        self.time_pool = settings.time_pool
        n_stem, n_main = settings.stem_channels, settings.channels
        self.stack = HarmonicStack(features, settings.harmonics)
        stride = (1, settings.time_pool)
        self.stem = nn.Sequential(
            nn.Conv2d(len(settings.harmonics), n_stem, (5, 3), stride, (2, 1), bias=False),
            nn.BatchNorm2d(n_stem),
            nn.GELU(),
            nn.Conv2d(n_stem, n_main, (SUB_BINS, 3), (SUB_BINS, 1), (0, 1), bias=False),
            nn.BatchNorm2d(n_main),
        )
        dilations = [2 ** (i % 3) for i in range(settings.n_blocks)]
        self.blocks = nn.Sequential(
            *(Block(n_main, dilation) for dilation in dilations),
            nn.BatchNorm2d(n_main),
            nn.GELU(),
        )
        self.salience = nn.Conv2d(n_main, SUB_BINS, 1)
        self.squeeze = nn.Sequential(nn.Conv2d(n_main, 8, 1), nn.GELU())
        self.recurrence = nn.GRU(
            8 * N_SEMITONES, settings.recurrent_units, batch_first=True, bidirectional=True
        )
        n_context = 2 * settings.recurrent_units
        self.dropout = nn.Dropout(settings.dropout)
        self.context = nn.Linear(n_context, N_SEMITONES)
        self.chroma = nn.Linear(n_context, N_CHROMA)
        self.octave = nn.Linear(n_context, N_OCTAVES)
        self.voicing = nn.Linear(n_context, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        n_frames = x.shape[-1]
        maps = self.blocks(self.stem(self.stack(x)))  # (batch, channel, semitone, pooled frame)
        # (batch, 8, semitone, frame) -> (batch, frame, 8 * semitone)
        flat = self.squeeze(maps).flatten(1, 2).transpose(1, 2)
        context = self.dropout(self.recurrence(flat)[0])
        # (batch, sub-bin, semitone, frame) -> (batch, frame, semitone, sub-bin)
        salience = self.salience(maps).permute(0, 3, 2, 1)
        pitch = (salience + self.context(context)[..., None]).flatten(2)
        heads = {
            "pitch": pitch,
            "chroma": self.chroma(context),
            "octave": self.octave(context),
            "voicing": self.voicing(context),
        }
        return {name: self._restore_time(y, n_frames) for name, y in heads.items()}

    def _restore_time(self, logits: torch.Tensor, n_frames: int) -> torch.Tensor:
        """(batch, pooled frame, class) -> (batch, frame, class); pooled frame k is frame 2 k."""
        if self.time_pool == 1:
            return logits
        n_fine = (logits.shape[1] - 1) * self.time_pool + 1
        fine = nn.functional.interpolate(
            logits.transpose(1, 2), size=n_fine, mode="linear", align_corners=True
        )
        fine = nn.functional.pad(fine, (0, max(0, n_frames - n_fine)), mode="replicate")
        return fine[..., :n_frames].transpose(1, 2)


def n_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
