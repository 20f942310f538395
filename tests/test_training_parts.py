"""Tests of the components of the miniature's training: Muon and whitened latents."""

from typing import Any

import pytest
import torch

from visdiff.miniature.train.loop import inner_weights, muon
from visdiff.torchvision_compat import ensure_torchvision


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_muon_keeps_singular_vectors_and_equalises_singular_values(shape):
    """The update's singular vectors are the gradient's; its singular values are near one."""
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=_generator(0)), full_matrices=False)
    singular_values = torch.linspace(0.2, 1, min(shape))
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = (u * singular_values) @ v
    muon([parameter], lr=1.0, weight_decay=0.0).step()
    result = -parameter.detach() / (0.2 * max(shape) ** 0.5)
    found = u.T @ result @ v.T
    assert (found - torch.diag(found.diagonal())).abs().max() < 0.1
    assert ((found.diagonal() > 0.5) & (found.diagonal() < 1.4)).all()


def test_muon_updates_a_kernel_like_its_matrix():
    """A (out, in, h, w) kernel and its (out, in·h·w) matrix take the same step."""
    weight, gradient = (torch.randn(6, 3, 2, 2, generator=_generator(i)) for i in (1, 2))
    kernel = torch.nn.Parameter(weight.clone())
    matrix = torch.nn.Parameter(weight.flatten(1).clone())
    for parameter in (kernel, matrix):
        optimizer = muon([parameter], lr=0.1, weight_decay=0.01)
        for _ in range(3):
            parameter.grad = gradient.reshape(parameter.shape).clone()
            optimizer.step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert not torch.equal(kernel, weight)


def test_one_cycle_schedules_the_momentum_of_muon():
    optimizer = muon([torch.nn.Parameter(torch.zeros(8, 8))], lr=0.1, weight_decay=0.01)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4)
    assert optimizer.param_groups[0]["momentum"] == 0.95
    assert optimizer.param_groups[0]["max_momentum"] == 0.95


def test_inner_weights_exclude_vectors_and_named_layers():
    """Biases and norms are not matrices, and named layers are excluded."""
    layers = {"first": torch.nn.Linear(2, 3), "middle": torch.nn.Linear(3, 3)}
    model = torch.nn.ModuleDict({**layers, "norm": torch.nn.LayerNorm(3)})
    assert [id(p) for p in inner_weights(model, "first")] == [id(layers["middle"].weight)]


def test_whitening_changes_latents_but_not_images():
    """Covariance I, scaling factor 1, and decode(encode(x)) is the same function of x."""
    ensure_torchvision()
    from diffusers import AutoencoderKL

    from visdiff.miniature.train.vae import NOISE, whiten

    torch.manual_seed(0)
    vae: Any = AutoencoderKL(
        block_out_channels=(16,), norm_num_groups=8, mid_block_add_attention=False
    ).eval()
    images = torch.rand((24, 3, 16, 16), generator=_generator(3)) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        whiten(vae, images)
        latents = vae.encode(images).latent_dist.mean
        after = vae.decode(latents).sample
    covariance = torch.cov(latents.double().permute(1, 0, 2, 3).flatten(1))
    assert torch.allclose(covariance, torch.eye(4, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(before, after, atol=1e-3)
    assert vae.config["scaling_factor"] == 1.0
    assert vae.encode(images).latent_dist.std.unique().item() == pytest.approx(NOISE)


def test_roughness_is_the_variance_lost_by_averaging_four_positions():
    """Zero for latents that are constant on 2 × 2 squares, three quarters for white noise."""
    ensure_torchvision()
    from visdiff.miniature.train.vae import roughness

    noise = torch.randn((64, 4, 16, 16), generator=_generator(4))
    squares = noise[:, :, :8, :8].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert roughness(squares).item() == pytest.approx(0, abs=1e-6)
    assert roughness(noise).item() == pytest.approx(0.75, abs=0.02)
    mixed = torch.einsum("cd,ndhw->nchw", torch.randn((4, 4), generator=_generator(5)), noise)
    assert roughness(mixed).item() == pytest.approx(roughness(noise).item(), rel=1e-3)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
