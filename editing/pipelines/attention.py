"""Cross-attention maps: where in an image each token of the prompt acts.

A map is the mean of softmax(Q Kᵀ / √d) over the heads, layers and sampling steps of the conditional
half of the batch, as SID (Kim et al. 2024, arXiv:2403.15330) takes it from DAAM (Tang et al. 2023,
arXiv:2210.04885). DAAM enlarges maps bicubically and clips them at 0, and it leaves out the lowest
resolution; here maps are enlarged bilinearly and all layers count, so that the maps of all tokens
sum to 1 at every place.

Nothing is replaced (`editing.pipelines.attention_recorder`): whatever is applied to the pipeline
takes part, and images are the same with and without maps.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from editing.pipelines.attention_recorder import Recorder, cross_attention
from editing.pipelines.denoiser import Denoiser, cumulative_alphas
from editing.pipelines.sampling import Sampler, Settings, levels
from editing.pipelines.text import Layout, Phrase, expanded, lay_out
from visdiff.errors import InputError

NOISE_LEVELS = (0.3, 0.5, 0.7)
"""Shares of the training timesteps at which maps of given images are taken."""


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The maps of images of one prompt.

    Attributes:
        prompt: The prompt as the tokenizers receive it.
        tokens: Token of each position as text, padding included.
        maps: (n, positions, h, w) float32 at the resolution of the latents; the positions sum to 1.
        images: (n, height, width, 3) uint8.
        layers: Number of layers that were averaged.
        steps: Number of calls of each layer that were averaged, one per sampling step (two for a
            scheduler of second order).
        layout: Token positions of the prompt.
    """

    prompt: str
    tokens: tuple[str, ...]
    maps: NDArray[np.float32]
    images: NDArray[np.uint8]
    layers: int
    steps: int
    layout: Layout

    def of_positions(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Returns the attention to some positions together, (n, h, w) in [0, 1].

        DAAM takes the mean of a word's tokens instead, which differs by a constant factor.
        """
        return self.maps[:, list(positions)].sum(axis=1)

    def of_words(self) -> dict[str, NDArray[np.float32]]:
        """Returns every part of the prompt → its maps (n, h, w); together they sum to 1.

        The parts are "start", the words with the position of their first token ("2 dog"), and "end"
        with the padding.
        """
        layout = self.layout
        parts: dict[str, list[int]] = {"start": list(range(layout.start))} if layout.start else {}
        for positions in _words(self.tokens, layout):
            text = "".join(self.tokens[i] for i in positions).removesuffix("</w>")
            parts[f"{positions[0]} {text}"] = positions
        parts["end"] = list(range(layout.end, layout.length))
        return {name: self.of_positions(positions) for name, positions in parts.items()}


def attention_maps(
    pipe: Any,
    prompt: str,
    seeds: Sequence[int],
    *,
    settings: Settings | None = None,
    batch_size: int = 4,
) -> AttentionMaps:
    """Generates images of a prompt and records where each of its tokens acts.

    Args:
        pipe: A pipeline of Stable Diffusion 1, 2 or XL, in any state; call it inside
            ``edit.applied(pipe)`` for an edited model.
        prompt: The prompt. A new token of several vectors ("<olis>") counts as its tokens.
        seeds: Seed of each image.
        settings: Sampling settings.
        batch_size: Images per call.

    Raises:
        InputError: The pipeline has no cross-attention, its attention cannot be observed, or as for
            `editing.pipelines.sampling.draw`.
    """
    if not seeds:
        raise InputError("Expected at least one seed, got none; give for example 0.")
    layers = cross_attention(pipe)
    text = expanded(pipe, prompt)
    layout = lay_out(pipe, Phrase("{}", text))
    sampler = Sampler(pipe, settings or Settings(), batch_size)
    factor = int(pipe.vae_scale_factor)
    size = (sampler.size[0] // factor, sampler.size[1] // factor)
    texts, images, maps = sampler.texts(), [], []
    steps = 0
    with sampler.using_scheduler():
        for start in range(0, len(seeds), batch_size):
            own = list(seeds[start : start + batch_size])
            recorder = Recorder(layers, len(own), layout.length, size, pipe)
            with recorder.recording():
                images.append(
                    sampler.draw([prompt] * len(own), own, sampler.settings.guidance, texts)
                )
            maps.append(recorder.mean())
            steps = recorder.steps
    pixels = np.concatenate(images)
    if not np.isfinite(pixels).all():
        raise InputError(
            f"Expected finite pixels of {type(pipe).__name__}, got NaN; compute in float32 or "
            "bfloat16."
        )
    return AttentionMaps(
        text, layout.words, np.concatenate(maps), levels(pixels), len(layers), steps, layout
    )


def attention_of_images(
    pipe: Any,
    images: NDArray[np.uint8],
    prompt: str,
    *,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    seed: int = 0,
) -> AttentionMaps:
    """Records where each token of a prompt acts in given images, from their noised latents.

    Each image is encoded, noised to a few timesteps and denoised once at each, without guidance.
    The subject's true mask is then that of the image; in generated images it must be found.

    Args:
        pipe: As for `attention_maps`.
        images: (n, height, width, 3) uint8, of a size that the VAE divides.
        prompt: The prompt, the same for all images.
        noise_levels: Shares of the training timesteps, in [0, 1).
        seed: Seed of the noise, which is the same for every image and level.

    Raises:
        InputError: As for `attention_maps`, or a level is out of range.
    """
    if not noise_levels or not all(0 <= level < 1 for level in noise_levels):
        raise InputError(f"Expected noise levels in [0, 1), got {noise_levels}; give (0.5,).")
    layers = cross_attention(pipe)
    text = expanded(pipe, prompt)
    layout = lay_out(pipe, Phrase("{}", text))
    denoiser = Denoiser(pipe)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = denoiser.latent_moments(pixels)[0]
    noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed))
    conditions = denoiser.encode([prompt]).rows([0] * len(images))
    height, width = latents.shape[2:]
    recorder = Recorder(layers, len(images), layout.length, (height, width))
    signal = cumulative_alphas(pipe.scheduler).to(latents.device)
    with recorder.recording(), torch.no_grad():
        for level in noise_levels:
            step = int(level * len(signal))
            kept = signal[step]
            noised = kept.sqrt() * latents + (1 - kept).sqrt() * noise.to(latents.device)
            denoiser.forward(noised, torch.full((len(images),), step), conditions)
    return AttentionMaps(
        text, layout.words, recorder.mean(), images, len(layers), recorder.steps, layout
    )


def positions_of(pipe: Any, prompt: str, word: str) -> tuple[int, ...]:
    """Returns the token positions of a word or phrase of a prompt, at its first occurrence.

    Args:
        pipe: The pipeline in the state in which the maps are recorded.
        prompt: The prompt.
        word: "dog", or an identifier such as "<olis>", whose vectors are all returned.

    Raises:
        InputError: The word is not in the prompt.
    """
    text, wanted = expanded(pipe, prompt), expanded(pipe, word)
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE)
    if found is None:
        raise InputError(
            f"Expected a word of the prompt {prompt!r}, got {word!r}; write it as in the prompt."
        )
    template = f"{text[: found.start()]}{{}}{text[found.end() :]}"
    layout = lay_out(pipe, Phrase(template, text[found.start() : found.end()]))
    return tuple(range(layout.first, layout.last + 1))


def leak(maps: ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
    """Returns the share of a word's attention outside the subject, for each image.

    leak = Σ A (1 − m) / Σ A over the places of an image, with A the map and m the mask of the
    subject in the generated image. SID shows such maps without a number. A word that acts
    everywhere alike has 1 − the mask's area; compare with the class noun of the base model.

    Args:
        maps: (n, h, w) maps, 0 or more.
        masks: (n, height, width) bool or in [0, 1]; averaged down, or enlarged, to the maps.

    Returns:
        (n,) in [0, 1].

    Raises:
        InputError: The numbers differ, a map is 0 everywhere, or a value is out of range.
    """
    attention = np.asarray(maps, np.float64)
    inside = np.asarray(masks, np.float64)
    if attention.ndim != 3 or inside.ndim != 3 or len(attention) != len(inside):
        raise InputError(
            f"Expected a mask (height, width) for each map, got shapes {attention.shape} and "
            f"{inside.shape}; pair them."
        )
    if not (attention >= 0).all() or not ((inside >= 0) & (inside <= 1)).all():
        raise InputError("Expected maps of 0 or more and masks in [0, 1], got others.")
    total = attention.sum(axis=(1, 2))
    if not total.all():
        raise InputError("Expected maps with some attention, got one that is 0 everywhere.")
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(inside)[:, None], size=attention.shape[1:], mode="area"
    )[:, 0].numpy()
    return (attention * (1 - resized)).sum(axis=(1, 2)) / total


def _words(tokens: Sequence[str], layout: Layout) -> Iterator[list[int]]:
    """Yields the positions of each word: pieces up to one that ends it, or one added token."""
    word: list[int] = []
    for i in range(layout.start, layout.end):
        is_added = tokens[i].startswith("<") and tokens[i].endswith(">")
        if is_added and word:
            yield word
            word = []
        word.append(i)
        if is_added or tokens[i].endswith("</w>"):
            yield word
            word = []
    if word:
        yield word
