"""MelodyCRNN: convolutions over a harmonic stack of the CQT, recurrence over time, four heads.

After AH1 (A. Huang and H. Liu, MIREX 2020), whose chroma, octave and voicing heads it keeps; a
joint pitch salience in steps of 20 cents stands beside them. Harmonics as channels follow
R. Bittner et al. (Deep Salience, ISMIR 2017), made by shifting the CQT (J. Balhar and J. Hajič,
2018).
"""

import math

import torch
from torch import nn

from config import TIME_POOL, FeatureConfig, ModelConfig
from labels import N_CHROMA, N_OCTAVES, N_SEMITONES, N_VOICINGS, SUB_BINS


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
        self.before = activation(channels)
        self.local = local_convolution(channels, time_dilation)
        # The octave above and below, seen at once: what octave errors are decided by.
        self.octaves = nn.Conv2d(
            channels, channels, (3, 1), padding=(12, 0), dilation=(12, 1), groups=channels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        return x + self.local(y) + self.octaves(y)


class DoubleBlock(Block):
    """The same with a second convolution, and links from every channel to every other."""

    def __init__(self, channels: int, time_dilation: int) -> None:
        super().__init__(channels, time_dilation)
        self.octaves = nn.Conv2d(channels, channels, (3, 1), padding=(12, 0), dilation=(12, 1))
        self.after = nn.Sequential(activation(channels), local_convolution(channels, time_dilation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(x)
        return x + self.after(self.local(y) + self.octaves(y))


def activation(channels: int) -> nn.Module:
    """What stands before a convolution of a block."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.GELU())


def local_convolution(channels: int, time_dilation: int) -> nn.Conv2d:
    """Three semitones by three pooled frames."""
    reach = {"padding": (1, time_dilation), "dilation": (1, time_dilation)}
    return nn.Conv2d(channels, channels, 3, **reach)


def fine_stem(n_harmonics: int, n_stem: int, n_main: int) -> nn.Sequential:
    """Convolutions at the resolution of the CQT, then to a cell of a semitone and TIME_POOL frames.

    Kernels of 4 at stride 2: a pooled frame stands in the middle of its TIME_POOL frames.
    """
    return nn.Sequential(
        nn.Conv2d(n_harmonics, n_stem, (5, 4), (1, 2), (2, 1), bias=False),
        nn.BatchNorm2d(n_stem),
        nn.GELU(),
        nn.Conv2d(n_stem, n_main, (SUB_BINS, 4), (SUB_BINS, 2), (0, 1), bias=False),
        nn.BatchNorm2d(n_main),
    )


def strided_stem(n_harmonics: int, n_stem: int, n_main: int) -> nn.Sequential:
    """One filter sees a cell, a bin on each side of it and half as many frames on each side.

    Convolutions at the resolution of the CQT take half of a network's time. The padding is a layer
    of its own, since oneDNN's bfloat16 convolution of this shape with padding is wrong on AMX
    (torch 2.15; EXPERIMENTS.md, 2026-11-27).
    """
    side = TIME_POOL // 2
    return nn.Sequential(
        nn.ZeroPad2d((side, side, 1, 1)),
        nn.Conv2d(
            n_harmonics, n_stem, (SUB_BINS + 2, 2 * TIME_POOL), (SUB_BINS, TIME_POOL), bias=False
        ),
        nn.BatchNorm2d(n_stem),
        nn.GELU(),
        nn.Conv2d(n_stem, n_main, 1, bias=False),
    )


# Of `ModelConfig.design`: what makes the stem, the blocks and the recurrence.
DESIGNS = {
    "fine": (fine_stem, Block, nn.GRU),
    "strided": (strided_stem, DoubleBlock, nn.LSTM),
}


class Overview(nn.Module):
    """Adds to every frame what all frames together say: whether anybody sings, which lead plays.

    A frame of an instrument sounds alike as lead and as accompaniment of a singer; only the rest
    of the recording tells. (batch, frame, feature) -> the same. It starts as the identity.
    """

    def __init__(self, n_features: int, n_units: int) -> None:
        super().__init__()
        self.listen = nn.Sequential(nn.Linear(n_features, n_units), nn.GELU())
        self.tell = nn.Linear(n_units, n_features)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.tell(self.listen(x).mean(dim=1, keepdim=True))


class MelodyCRNN(nn.Module):
    """Log-CQT windows to frame-wise logits.

    Input (batch, 1, n_bins, n_frames), normalised. Output, a dictionary of logits: `pitch`
    (batch, n_frames, 240) from C2 - 40 cents in steps of 20 cents, `chroma` (batch, n_frames, 12),
    `octave` (batch, n_frames, 4), `voicing` (batch, n_frames, 3): unvoiced, sung, played.
    """

    def __init__(self, features: FeatureConfig, settings: ModelConfig) -> None:
        super().__init__()
        if features.bins_per_semitone != SUB_BINS:
            raise ValueError(f"MelodyCRNN needs {SUB_BINS} bins a semitone")
        if settings.design not in DESIGNS:
            raise ValueError(
                f"unknown design {settings.design!r}; choose from {', '.join(DESIGNS)}"
            )
        self.settings = settings
        make_stem, make_block, make_recurrence = DESIGNS[settings.design]
        n_main, n_squeezed = settings.channels, settings.squeezed_channels
        self.stack = HarmonicStack(features, settings.harmonics)
        self.stem = make_stem(len(settings.harmonics), settings.stem_channels, n_main)
        dilations = [2 ** (i % 3) for i in range(settings.n_blocks)]
        self.blocks = nn.Sequential(
            *(make_block(n_main, dilation) for dilation in dilations),
            nn.BatchNorm2d(n_main),
            nn.GELU(),
        )
        # Each head gives the TIME_POOL frames of a pooled frame: F0 moves within one.
        self.salience = nn.Conv2d(n_main, SUB_BINS * TIME_POOL, 1)
        self.squeeze = nn.Sequential(nn.Conv2d(n_main, n_squeezed, 1), nn.GELU())
        self.recurrence = make_recurrence(
            n_squeezed * N_SEMITONES,
            settings.recurrent_units,
            batch_first=True,
            bidirectional=True,
        )
        n_context = 2 * settings.recurrent_units
        n_units = settings.overview_units
        self.overview = Overview(n_context, n_units) if n_units else nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)
        self.context = nn.Linear(n_context, N_SEMITONES * TIME_POOL)
        self.chroma = nn.Linear(n_context, N_CHROMA * TIME_POOL)
        self.octave = nn.Linear(n_context, N_OCTAVES * TIME_POOL)
        self.voicing = nn.Linear(n_context, N_VOICINGS * TIME_POOL)
        if settings.design == "strided":  # without depthwise layers a step takes two thirds so
            self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        n_frames = x.shape[-1]
        x = nn.functional.pad(x, (0, -n_frames % TIME_POOL))
        maps = self.blocks(self.stem(self.stack(x)))  # (batch, channel, semitone, pooled frame)
        # (batch, squeezed, semitone, pooled frame) -> (batch, pooled frame, squeezed * semitone)
        flat = self.squeeze(maps).flatten(1, 2).transpose(1, 2)
        context = self.dropout(self.overview(self.recurrence(flat)[0]))
        # (batch, frame in pool * sub-bin, semitone, pooled frame), then to the order of `pitch`
        salience = self.salience(maps).unflatten(1, (TIME_POOL, SUB_BINS))
        salience = salience.permute(0, 4, 1, 3, 2).flatten(1, 2)
        pitch = (salience + unpool(self.context(context))[..., None]).flatten(2)
        heads = {
            "pitch": pitch,
            "chroma": unpool(self.chroma(context)),
            "octave": unpool(self.octave(context)),
            "voicing": unpool(self.voicing(context)),
        }
        return {name: y[:, :n_frames] for name, y in heads.items()}


def unpool(y: torch.Tensor) -> torch.Tensor:
    """(batch, pooled frame, TIME_POOL * class) -> (batch, frame, class)."""
    return y.unflatten(2, (TIME_POOL, -1)).flatten(1, 2)


def n_parameters(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
