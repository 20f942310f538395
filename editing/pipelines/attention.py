"""Cross-attention maps: where in an image each token of the prompt acts.

A map is the mean of softmax(Q Kᵀ / √d) over the heads, layers and sampling steps of the conditional
half of the batch, as SID (Kim et al. 2024, arXiv:2403.15330) takes it from DAAM (Tang et al. 2023,
arXiv:2210.04885). DAAM enlarges maps bicubically and clips them at 0, and it leaves out the lowest
resolution; here maps are enlarged bilinearly and all layers count, so that the maps of all tokens
sum to 1 at every place.

Processors are not replaced. The attention function that a processor calls is observed with its real
arguments, so whatever is applied to the pipeline (adapters of peft, trained processors of Custom
Diffusion, edits) takes part, and images are the same with and without maps.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.overrides import TorchFunctionMode

from editing.pipelines.sampling import Sampler, Settings, levels
from editing.pipelines.text import Layout, Phrase, lay_out
from visdiff.errors import InputError

_SDPA = torch.nn.functional.scaled_dot_product_attention


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
    layers = _layers(pipe)
    text = _expanded(pipe, prompt)
    layout = lay_out(pipe, Phrase("{}", text))
    sampler = Sampler(pipe, settings or Settings(), batch_size)
    factor = int(pipe.vae_scale_factor)
    size = (sampler.size[0] // factor, sampler.size[1] // factor)
    texts, images, maps = sampler.texts(), [], []
    steps = 0
    with sampler.using_scheduler():
        for start in range(0, len(seeds), batch_size):
            own = list(seeds[start : start + batch_size])
            recorder = _Recorder(pipe, layers, len(own), layout.length, size)
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


def positions_of(pipe: Any, prompt: str, word: str) -> tuple[int, ...]:
    """Returns the token positions of a word or phrase of a prompt, at its first occurrence.

    Args:
        pipe: The pipeline in the state in which the maps are recorded.
        prompt: The prompt.
        word: "dog", or an identifier such as "<olis>", whose vectors are all returned.

    Raises:
        InputError: The word is not in the prompt.
    """
    text, wanted = _expanded(pipe, prompt), _expanded(pipe, word)
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


class _Recorder(TorchFunctionMode):
    """Adds up the attention of some layers while a pipeline runs."""

    def __init__(
        self, pipe: Any, layers: dict[str, Any], images: int, length: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        self._pipe = pipe
        self._layers = layers
        self._images = images
        self._length = length
        self._size = size
        self._current: str | None = None
        self._rows = 0
        self._seen = False
        self._counts = dict.fromkeys(layers, 0)
        self._total = torch.zeros(images, length, *size)

    @property
    def steps(self) -> int:
        """Number of calls of a layer: one per step, two for schedulers of second order."""
        return max(self._counts.values())

    def mean(self) -> NDArray[np.float32]:
        """Returns the mean over layers and steps, (images, length, h, w)."""
        return (self._total / sum(self._counts.values())).numpy()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Observes the layers inside the block; the pipeline is as before afterwards."""
        with ExitStack() as stack:
            for name, layer in self._layers.items():
                before = layer.register_forward_pre_hook(self._enter(name))
                after = layer.register_forward_hook(self._leave(name), always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
                # Processors without the fused function call this method of the layer.
                stack.enter_context(_replaced(layer, "get_attention_scores", self._scores))
            stack.enter_context(self)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Records the probabilities of the fused attention function before it is called."""
        kwargs = kwargs or {}
        if func is _SDPA and self._current is not None:
            query, key = args[0], args[1]
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            if key.shape[-2] == self._length:
                with torch.no_grad():
                    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
                    scores = query.float() @ key.float().transpose(-1, -2) * scale
                    if mask is not None:
                        scores = scores + _additive(mask)
                    self._add(scores.softmax(dim=-1).mean(dim=1))
        return func(*args, **kwargs)

    def _enter(self, name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            del module
            self._current, self._rows, self._seen = name, len(args[0]), False

        return hook

    def _leave(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            del args
            self._current = None
            if output is not None and not self._seen:
                raise InputError(
                    f"Expected attention of {name} that can be observed, got "
                    f"{type(module.processor).__name__}; use the default processors, without "
                    "xformers and attention slicing."
                )

        return hook

    def _scores(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        if self._current is not None and found.shape[-1] == self._length:
            heads = self._layers[self._current].heads
            # With slicing each call has some of the heads only.
            if found.shape[0] == heads * self._rows:
                with torch.no_grad():
                    self._add(found.float().unflatten(0, (-1, heads)).mean(dim=1))
        return found

    def _add(self, probabilities: torch.Tensor) -> None:
        """Adds the maps of a call: (rows, places, length) for guided batches, then others."""
        # An image prompt of as many tokens follows in a second call of the same layer.
        if self._seen or self._current is None:
            return
        self._seen = True
        rows = len(probabilities)
        # diffusers puts the unconditional half of a guided batch first.
        if getattr(self._pipe, "do_classifier_free_guidance", False):
            probabilities = probabilities[rows // 2 :]
        own = probabilities[: self._images].transpose(1, 2)
        height, width = _grid(own.shape[-1], self._size)
        maps = torch.nn.functional.interpolate(
            own.unflatten(2, (height, width)), size=self._size, mode="bilinear"
        )
        self._total += maps.cpu()
        self._counts[self._current] += 1


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


def _layers(pipe: Any) -> dict[str, Any]:
    unet = getattr(pipe, "unet", None)
    found = {
        name: module
        for name, module in (() if unet is None else unet.named_modules())
        if getattr(module, "is_cross_attention", False) and hasattr(module, "processor")
    }
    if not found:
        raise InputError(
            "Expected a pipeline whose UNet has cross-attention (Stable Diffusion 1, 2 or XL), "
            f"got {type(pipe).__name__}; other denoisers mix words and places in one attention."
        )
    return found


def _expanded(pipe: Any, prompt: str) -> str:
    """Returns the prompt with all vectors of a new token, as diffusers gives it to tokenizers."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    text = prompt if convert is None else convert(prompt, pipe.tokenizer)
    return " ".join(text.split())


def _grid(places: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of a layer with a number of places, by halving the latents."""
    height, width = size
    while height * width > places:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != places:
        raise InputError(
            f"Expected layers whose places are the latents ({size[0]}×{size[1]}) halved, got "
            f"{places} places; use a UNet of Stable Diffusion 1, 2 or XL."
        )
    return height, width


def _additive(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -math.inf)


@contextmanager
def _replaced(layer: Any, name: str, function: Any) -> Iterator[None]:
    """Lets a method of one object go through a function, which receives the method first."""
    original = getattr(layer, name)
    layer.__dict__[name] = lambda *args, **kwargs: function(original, *args, **kwargs)
    try:
        yield
    finally:
        del layer.__dict__[name]
