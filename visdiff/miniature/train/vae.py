"""The autoencoder: ``AutoencoderKL``, f = 4, 64 × 64 × 3 → 16 × 16 × 4."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from visdiff.miniature.train.clip import pixels
from visdiff.miniature.train.data import Renderings
from visdiff.miniature.train.loop import fit


def train(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Trains with L1 + gradient L1 + KL and writes ``folder/vae``; returns the model."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        mid_block_add_attention=False,
        norm_num_groups=16,
    ).to(device)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        index = np.sort(rng.choice(len(data.images), 32, replace=False))
        images = pixels(data.images[index], device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return reconstruction_loss(output, images) + 1e-7 * posterior.kl().mean()

    fit(vae, step, steps=steps, lr=1.5e-3, checkpoint=work / "vae.pt", seed=seed)
    with torch.no_grad():
        sample = vae.encode(pixels(data.images[: 2 * 512 : 2], device)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(float(1 / sample.std()), 5))
    vae.half().save_pretrained(folder / "vae", safe_serialization=True)
    return vae.float()


def reconstruction_loss(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """L1 on pixels and on their horizontal and vertical differences (edges stay sharp)."""
    loss = F.l1_loss(output, images)
    for dim in (2, 3):
        loss = loss + F.l1_loss(output.diff(dim=dim), images.diff(dim=dim))
    return loss


def cached_latents(
    vae: torch.nn.Module, data: Renderings, file: Path, device: torch.device
) -> torch.Tensor:
    """Encodes the scenes that follow the priors, once: (n / 2, 4, 16, 16) float16, scaled."""
    if file.is_file():
        return torch.load(file, weights_only=True)  # noqa: TID251
    chosen = data.images[::2]
    scale = vae.config["scaling_factor"]
    parts = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(chosen), 256):
            images = pixels(chosen[start : start + 256], device)
            parts.append((vae.encode(images).latent_dist.mean.float() * scale).half().cpu())
    latents = torch.cat(parts)
    torch.save(latents, file)
    return latents


def load(folder: Path) -> torch.nn.Module:
    """Loads the trained autoencoder back, float32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).eval()
