"""Muon moves matrices by orthogonal steps, and leaves everything else to AdamW."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from model import MelodyCRNN
from optimiser import Muon, n_matrices, orthogonalise


@pytest.fixture
def model(tiny_features, tiny_model_config):
    torch.manual_seed(0)
    return MelodyCRNN(tiny_features, replace(tiny_model_config, design="strided"))


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (4, 16, 50)])
def test_singular_values_come_near_one(shape):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).float()
    values = torch.linalg.svdvals(orthogonalise(1e-3 * x))
    assert values.min() > 0.6 and values.max() < 1.3


def test_the_singular_vectors_stay():
    """What comes near is U V^T of x = U S V^T, whatever S is."""
    x = torch.diag(torch.tensor([3.0, 0.5, 1.0])) @ torch.linalg.qr(torch.eye(3, 5).T + 0.3)[0].T
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    inner = u.T @ orthogonalise(x) @ v.T  # diagonal, in the basis of the singular vectors
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-5)


def test_which_weights_are_matrices(model):
    kinds = {name: n_matrices(name, weight, 4) for name, weight in model.named_parameters()}
    hidden = {name for name, n in kinds.items() if n}
    assert {kinds[n] for n in hidden if n.startswith("recurrence.weight")} == {4}  # an LSTM's gates
    assert {"blocks.0.local.weight", "blocks.0.octaves.weight", "overview.tell.weight"} <= hidden
    assert not any(name.endswith("bias") for name in hidden)
    assert not any(name.startswith(("stem", "salience", "voicing", "chroma")) for name in hidden)


@pytest.mark.parametrize("matrix_rate", [0.0, 2.5])
def test_other_weights_move_as_under_adamw(model, matrix_rate):
    twin = copy.deepcopy(model)
    plain = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.01)
    ours = Muon(model, 1e-3, matrix_rate, weight_decay=0.01)
    for _ in range(3):
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        plain.step()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7) != bool(matrix_rate and n_matrices(name, a, 4)), name
        assert a.grad is not None  # given back


def test_depthwise_layers_are_no_matrices(tiny_features, tiny_model_config):
    fine = MelodyCRNN(tiny_features, replace(tiny_model_config, design="fine"))
    kinds = {name: n_matrices(name, weight, 3) for name, weight in fine.named_parameters()}
    assert kinds["blocks.0.octaves.weight"] == 0 and kinds["blocks.0.local.weight"] == 1


def test_a_matrix_moves_by_its_rate_in_every_direction(model):
    """A gradient of rank one moves by one direction; its size does not matter."""
    weight = model.blocks[0].local.weight
    before = weight.detach().clone()
    model.zero_grad()
    weight.grad = 1e-4 * torch.outer(torch.randn(8), torch.randn(72)).reshape(weight.shape)
    Muon(model, 1e-3, matrix_rate=2.0, weight_decay=0.0).step()
    values = torch.linalg.svdvals((weight - before).detach().flatten(1))
    assert values[0] == pytest.approx(2e-3 * 0.2 * 72**0.5, rel=0.35)
    assert values[1] < 1e-3 * values[0]


def test_goes_on_from_its_state(model):
    """The same steps, whether or not the state went through a file in between."""
    start = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [torch.randn_like(p) for p in model.parameters()]

    def run(through_file: bool) -> list[torch.Tensor]:
        model.load_state_dict(start)
        optimiser = Muon(model, 1e-3, 2.5, 0.01)
        for step in range(4):
            if step == 2 and through_file:
                state = optimiser.state_dict()
                optimiser = Muon(model, 1e-3, 2.5, 0.01)
                optimiser.load_state_dict(state)
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.grad = gradient * (step + 1)
            optimiser.step()
        return [p.detach().clone() for p in model.parameters()]

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)
