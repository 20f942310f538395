"""Training of the autoencoder: ``AutoencoderKL``, f = 4, 64 × 64 × 3 → 16 × 16 × 4."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from visdiff.files import write_whole
from visdiff.miniature.train.clip import pixels
from visdiff.miniature.train.data import Renderings
from visdiff.miniature.train.loop import fit, inner_weights

#: Standard deviation of the noise on the decoder's input, relative to that of the latents.
NOISE = 0.1

#: Upper bound of the latents' roughness. Images averaged over 4 × 4 pixels have 0.10, latents
#: trained without the bound 0.38. At 0.17 reconstructions are as sharp as without the bound.
MAX_ROUGHNESS = 0.17


def train(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Trains with a bound on roughness, whitens the latents, and writes ``folder/vae``."""
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
        latents = vae.encode(images).latent_dist.mean.float()
        noise = torch.randn(latents.shape, generator=generator).to(device)
        axes = torch.linalg.cholesky(_covariance(latents.detach()))
        noise = NOISE * torch.einsum("cd,ndhw->nchw", axes, noise)
        output = vae.decode(latents + noise).sample.float()
        excess = F.relu(roughness(latents) - MAX_ROUGHNESS)
        return reconstruction_loss(output, images) + excess

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


def roughness(latents: torch.Tensor) -> torch.Tensor:
    """Returns the share of the latents' variance that 2 × 2 averaging removes, in [0, 1].

    It is computed in whitened coordinates, tr(C⁻¹ R) / channels, with the covariance C of the
    latents and R of the residual of averaging. If it is high, fine detail outweighs the layout at
    every noise level, and a diffusion model cannot generate from coarse to fine (Skorokhodov et
    al., "Improving the Diffusability of Autoencoders", ICML 2025, who bound it by decoding the
    averages).

    Args:
        latents: (n, channels, height, width), even height and width.
    """
    coarse = F.interpolate(F.avg_pool2d(latents, 2), scale_factor=2.0)
    share = torch.linalg.solve(_covariance(latents), _covariance(latents - coarse))
    return share.diagonal().mean()


def _covariance(latents: torch.Tensor) -> torch.Tensor:
    with torch.autocast(latents.device.type, enabled=False):
        return torch.cov(latents.float().transpose(0, 1).flatten(1))


@torch.no_grad()
def whiten(vae: torch.nn.Module, images: torch.Tensor) -> None:
    """Whitens the latents by a change of the 1 × 1 convolutions before and after them.

    After training, the variances of the four channels differ by three orders of magnitude: noise
    that barely changes brightness hides hue. With covariance I, noise affects all channels equally,
    and the scaling factor is one. Encoding and decoding stay the same function. The posterior's
    standard deviation is set to `NOISE`, for which the decoder was trained.

    Args:
        vae: ``AutoencoderKL``, changed in place.
        images: (n, 3, 64, 64) in [-1, 1], from which the covariance is estimated.
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
    into.weight[channels:] = 0
    into.bias[channels:] = 2 * np.log(NOISE)
    kernel = out.weight[:, :, 0, 0].double()
    out.bias += (kernel @ mean).to(out.bias)
    out.weight[:, :, 0, 0] = (kernel @ back).to(out.weight)
    vae.register_to_config(scaling_factor=1.0)


def reconstruction_loss(output: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Returns L1 of pixels and of their horizontal and vertical differences, for sharp edges."""
    loss = F.l1_loss(output, images)
    for dim in (2, 3):
        loss = loss + F.l1_loss(output.diff(dim=dim), images.diff(dim=dim))
    return loss


def cached_latents(
    vae: torch.nn.Module, data: Renderings, file: Path, device: torch.device
) -> torch.Tensor:
    """Returns scaled latents (n / 2, 4, 16, 16) of the even scenes, float16; cached in ``file``."""
    if file.is_file():
        return torch.load(file, weights_only=True)  # noqa: TID251
    even = data.images[::2]
    scale = vae.config["scaling_factor"]
    parts = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, len(even), 256):
            images = pixels(even[start : start + 256], device)
            parts.append((vae.encode(images).latent_dist.mean.float() * scale).half().cpu())
    latents = torch.cat(parts)
    write_whole(file, partial(torch.save, latents))
    return latents


def load(folder: Path) -> torch.nn.Module:
    """Loads the trained autoencoder, float32."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).eval()
