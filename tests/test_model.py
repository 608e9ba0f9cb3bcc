from dataclasses import replace

import numpy as np
import pytest
import torch

from config import TIME_POOL, FeatureConfig, experiment
from labels import N_PITCHES, SUB_BINS, semitone_to_hz
from model import DESIGNS, HarmonicStack, MelodyCRNN, Overview, n_parameters, unpool

FULL = FeatureConfig()


@pytest.fixture(params=DESIGNS)
def model(request, tiny_features, tiny_model_config):
    torch.manual_seed(0)
    return MelodyCRNN(tiny_features, replace(tiny_model_config, design=request.param)).eval()


def test_bin_zero_is_c2_as_the_harmonic_stack_takes_it():
    """65 Hz lies 11 cents under C2: half a bin, which the convolutions learn."""
    assert abs(60 * np.log2(semitone_to_hz(0) / FULL.fmin_hz)) < 0.6


@pytest.mark.parametrize("n_frames", [1, 2, 7, 40])
def test_shapes(model, n_frames):
    logits = model(torch.randn(3, 1, 190, n_frames))
    assert {k: tuple(v.shape) for k, v in logits.items()} == {
        "pitch": (3, n_frames, 240),
        "chroma": (3, n_frames, 12),
        "octave": (3, n_frames, 4),
        "voicing": (3, n_frames, 3),
    }


@pytest.mark.parametrize("name", ["shipped", "partner"])
def test_the_full_network_is_small_enough_to_ship(name):
    model = MelodyCRNN(FULL, experiment(name)["model_config"])
    assert n_parameters(model) == sum(p.numel() for p in model.parameters())
    assert 4 * n_parameters(model) < 16e6


@pytest.mark.parametrize("semitone", [0, 12, 33, 47])
def test_row_r_of_every_harmonic_belongs_to_one_fundamental(semitone):
    harmonics = (0.5, 1, 2, 3, 7)
    stack = HarmonicStack(FULL, harmonics)
    row = semitone * SUB_BINS + SUB_BINS // 2
    for channel, h in enumerate(harmonics):
        harmonic_bin = semitone * SUB_BINS + round(60 * np.log2(h))
        x = torch.zeros(1, 1, 365, 2)
        if 0 <= harmonic_bin < 365:
            x[0, 0, harmonic_bin] = 1
        rows = stack(x)[0, channel, :, 0]
        assert rows.shape == (N_PITCHES,)
        assert rows.nonzero().flatten().tolist() == ([row] if x.any() else [])


def test_bins_outside_the_transform_read_as_its_mean():
    stacked = HarmonicStack(FULL, (0.5, 8))(torch.ones(1, 1, 365, 1))
    assert stacked[0, 0, 0, 0] == 0 and stacked[0, 0, -1, 0] == 1
    assert stacked[0, 1, -1, 0] == 0 and stacked[0, 1, 0, 0] == 1


def test_frames_of_a_pooled_frame_come_out_in_order():
    """(batch, pooled frame, frame in pool * class) -> (batch, frame, class)."""
    pooled = torch.arange(2 * TIME_POOL * 3.0).reshape(1, 2, TIME_POOL * 3)
    assert unpool(pooled).tolist() == [torch.arange(2 * TIME_POOL * 3.0).reshape(-1, 3).tolist()]


def test_salience_and_context_agree_on_the_frame(model):
    """A rising ramp in either path reaches the frames of the pitch output in order."""
    with torch.no_grad():
        for path in (model.salience, model.context):
            path.weight.zero_()
            path.bias.zero_()
        model.salience.bias.copy_(torch.arange(TIME_POOL).repeat_interleave(5))
        model.context.bias.copy_(torch.arange(TIME_POOL).repeat_interleave(48))
        pitch = model(torch.randn(1, 1, 190, 9))["pitch"][0]
    assert pitch[:, 0].tolist() == [0, 2, 4, 6, 0, 2, 4, 6, 0]
    assert (pitch == pitch[:, :1]).all()


def test_an_event_is_seen_where_it_happens(model):
    """Without its recurrence the network looks equally far to both sides of a pooled frame."""
    for weight in model.context.parameters():
        torch.nn.init.zeros_(weight)
    quiet = torch.zeros(1, 1, 190, 44)
    event = quiet.clone()
    event[..., 20:24] = 3
    change = (model(event)["pitch"] - model(quiet)["pitch"]).abs().sum(-1)[0]
    frames = change.nonzero().flatten()
    assert frames.min() + frames.max() == 20 + 23
    assert frames.max() - frames.min() < 30


def test_other_resolutions_are_refused(tiny_features, tiny_model_config):
    with pytest.raises(ValueError, match="5 bins a semitone"):
        MelodyCRNN(replace(tiny_features, bins_per_octave=36, n_bins=100), tiny_model_config)


def test_an_unknown_design_is_refused(tiny_features, tiny_model_config):
    with pytest.raises(ValueError, match="unknown design 'wide'; choose from fine, strided"):
        MelodyCRNN(tiny_features, replace(tiny_model_config, design="wide"))


@pytest.mark.parametrize("name", ["shipped", "partner"])
def test_bfloat16_says_what_float32_says(name):
    """Trained in the one, used in the other: a convolution of oneDNN's was wrong on AMX."""
    torch.manual_seed(0)
    model = MelodyCRNN(FULL, experiment(name)["model_config"]).eval()
    x = torch.randn(2, 1, 365, 400)
    with torch.inference_mode():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x)
    for head, logits in exact.items():
        assert (rough[head] - logits).norm() < 0.05 * logits.norm(), head


def test_items_of_a_batch_do_not_mix(model):
    x = torch.randn(2, 1, 190, 20)
    alone = model(x[1:])
    for head, logits in model(x).items():
        torch.testing.assert_close(logits[1:], alone[head], atol=1e-5, rtol=1e-4)


class TestOverview:
    def test_it_starts_as_the_identity(self):
        x = torch.randn(2, 30, 6)
        assert torch.equal(Overview(6, 4)(x), x)

    def test_every_frame_hears_of_an_event_anywhere(self, tiny_features, tiny_model_config):
        """With an overview an event at the end moves the first frame; without one it cannot."""
        quiet = torch.zeros(1, 1, 190, 4000)  # longer than the recurrence remembers
        event = quiet.clone()
        event[..., -400:] = 3
        change = {}
        for n_units in (0, 8):
            torch.manual_seed(0)
            settings = replace(tiny_model_config, overview_units=n_units)
            model = MelodyCRNN(tiny_features, settings).eval()
            if n_units:
                torch.nn.init.normal_(model.overview.tell.weight)
            with torch.inference_mode():
                first = (model(event)["voicing"] - model(quiet)["voicing"])[0, 0]
            change[n_units] = first.abs().max().item()
        assert change[0] < 1e-6 and change[8] > 1e-3
