"""The autoencoder: ``AutoencoderKL``, f = 4, 64 × 64 × 3 → 16 × 16 × 4."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from visdiff.miniature.train.clip import pixels
from visdiff.miniature.train.data import Renderings
from visdiff.miniature.train.loop import fit
from visdiff.miniature.train.muon import inner_weights


def train(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Trains with L1 + gradient L1 + KL, whitens, and writes ``folder/vae``; returns the model."""
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
        index = np.sort(rng.choice(len(data.images), 16, replace=False))
        images = pixels(data.images[index], device)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        output = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return reconstruction_loss(output, images) + 1e-7 * posterior.kl().mean()

    fit(
        vae,
        step,
        steps=steps,
        lr=1.5e-3,
        checkpoint=work / "vae.pt",
        seed=seed,
        matrices=inner_weights(
            vae,
            *("encoder.conv_in", "encoder.conv_out", "quant_conv"),
            *("decoder.conv_in", "decoder.conv_out", "post_quant_conv"),
        ),
    )
    whiten(vae, pixels(data.images[: 2 * 2048 : 2], device))
    vae.half().save_pretrained(folder / "vae", safe_serialization=True)
    return vae.float()


@torch.no_grad()
def whiten(vae: torch.nn.Module, images: torch.Tensor) -> None:
    """Folds into the 1 × 1 convolutions around the latents what makes these white.

    The four channels come out of training with variances three orders apart, and the same noise
    that leaves brightness alone drowns hue. With covariance I each is noised alike, and the
    scaling factor is one. The autoencoder as a whole stays the same function.

    Args:
        vae: ``AutoencoderKL``, changed in place.
        images: (n, 3, 64, 64) in [-1, 1] that the covariance is taken over.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(128)])
    samples = latents.double().permute(1, 0, 2, 3).flatten(1)
    channels, mean = len(samples), samples.mean(1)
    variances, axes = torch.linalg.eigh(torch.cov(samples))
    white = (axes * variances.rsqrt()) @ axes.T
    back = (axes * variances.sqrt()) @ axes.T
    into, out = vae.quant_conv, vae.post_quant_conv
    kernel = into.weight[:channels, :, 0, 0].double()
    bias = into.bias[:channels].double()
    into.weight[:channels, :, 0, 0] = (white @ kernel).to(into.weight)
    into.bias[:channels] = (white @ (bias - mean)).to(into.bias)
    # The posterior's log variances, taken through the same map as far as they are diagonal.
    into.bias[channels:] += 2 * white.diagonal().log().to(into.bias)
    kernel = out.weight[:, :, 0, 0].double()
    out.bias += (kernel @ mean).to(out.bias)
    out.weight[:, :, 0, 0] = (kernel @ back).to(out.weight)
    vae.register_to_config(scaling_factor=1.0)


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
