"""Training of the generator: ``UNet2DConditionModel`` on VAE latents and CLIP text vectors."""

import json
from pathlib import Path

import numpy as np
import torch

from visdiff.files import write_whole
from visdiff.miniature import world
from visdiff.miniature.train.clip import WIDTH
from visdiff.miniature.train.data import Renderings
from visdiff.miniature.train.loop import fit, inner_weights


def scheduler():
    """Returns the noise schedule: scaled-linear, ε-prediction, sampled with DDIM."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build(seed: int) -> torch.nn.Module:
    """Returns an untrained UNet: channels 64/128, one layer per block, attn2 in every block."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


def train(
    data: Renderings,
    latents: torch.Tensor,
    encoder: torch.nn.Module,
    tokenizer_folder: Path,
    folder: Path,
    work: Path,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    batch: int = 64,
) -> torch.nn.Module:
    """Trains with velocity weights and caption dropout, and writes the complete pipeline.

    Args:
        data: Renderings; only the scenes that follow the world's priors (even ones) are used.
        latents: (n / 2, 4, 16, 16), their scaled latents.
        encoder: ``CLIPTextModel``, frozen.
        tokenizer_folder: Folder of the CLIP tokenizer.
        folder: The pipeline's folder, which already contains ``vae``.
        work: Folder of checkpoints.
        steps: Training steps.
        seed: Seed of all randomness.
        device: Training device.
        batch: Images per step.
    """
    from diffusers.models.attention_processor import AttnProcessor
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    noise_schedule = scheduler()
    alphas = noise_schedule.alphas_cumprod.to(device)
    unet = build(seed).to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # fused attention is slower on CPUs
    encoder = encoder.to(device).eval().requires_grad_(False)
    scenes = data.scenes[::2]

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        index = rng.choice(len(latents), batch, replace=False)
        texts = ["" if rng.random() < 0.1 else _prompt(scenes[j], rng) for j in index]
        with torch.no_grad():
            tokens = tokenizer(
                texts, padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            context = encoder(tokens.to(device)).last_hidden_state
        clean = latents[index].to(device).float()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # Logit-normal (Esser et al., ICML 2024): intermediate steps determine appearance.
        t = torch.randn(batch, generator=generator).sigmoid().mul(len(alphas)).long().to(device)
        noisy = noise_schedule.add_noise(clean, noise, t)
        predicted = unet(noisy, t, context).sample.float()
        error = (predicted - noise).pow(2).mean((1, 2, 3))
        return (error * velocity_weight(alphas[t])).mean()

    averaged = fit(
        unet,
        step,
        steps=steps,
        lr=5e-4,
        checkpoint=work / "unet.pt",
        seed=seed,
        ema_decay=0.999,
        matrices=inner_weights(unet, "conv_in", "conv_out"),
    )
    unet = averaged if averaged is not None else unet
    save_pipeline(unet, encoder, tokenizer, folder)
    return unet


def velocity_weight(alpha_bar: torch.Tensor, gamma: float = 5.0, most: float = 20) -> torch.Tensor:
    """Returns the loss weight of an error in ε: (min(SNR, γ) + 1) / SNR, at most ``most``.

    This is Min-SNR-γ for v-prediction (Hang et al., ICCV 2023), converted to a weight on ε. The
    weight for ε-prediction, min(SNR, γ) / SNR, never exceeds one. With it, a small model hardly
    learns the noisy steps, in which the text determines the content.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return ((snr.clamp(max=gamma) + 1) / snr).clamp(max=most)


def save_pipeline(
    unet: torch.nn.Module, encoder: torch.nn.Module, tokenizer: object, folder: Path
) -> None:
    """Writes ``folder`` as a ``StableDiffusionPipeline``, weights in fp16."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)  # a local path of the training machine
        write_whole(file, (json.dumps(config, indent=2) + "\n").encode())


def _prompt(scene: world.Scene, rng: np.random.Generator) -> str:
    # Users write short prompts ("a dog") as often as long ones.
    if rng.random() < 0.3:
        return world.caption(scene, rng, p_gender=0.3, p_tone=0.2, p_place=0.2, p_style=0.15)[0]
    return world.caption(scene, rng)[0]
