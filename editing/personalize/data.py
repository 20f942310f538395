"""Training data: which image, crop, caption, noise level and noise a sample has.

A sample is determined by its generator, which `editing.training` makes from (seed, step, i). So an
interrupted training continues with the same samples, and a batch may be split in any way.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from editing.personalize.augment import both, far_or_near, side_by_side
from editing.personalize.framing import Framing, View, view
from editing.personalize.loss import NoiseLevels
from editing.pipelines.denoiser import Conditions, Denoiser
from visdiff.imageset import ImageSet

Tensor = torch.Tensor
K = TypeVar("K")
V = TypeVar("V")

Caption = Callable[[np.random.Generator], str]
"""Draws the caption of an image for one step."""

_CACHE_BYTES = 512 * 2**20
"""Largest size of the latents, texts, decoded images and centred views that are each kept."""


class Pictures:
    """Images of the subject or of its class, with captions.

    Args:
        images: n images, 1 or more.
        captions: n captions.
        phrase: What all images show, "a olis dog".
        masks: n masks of the subject, or None where there is none.
        repeats: How often each image is drawn relative to the others; 1 by default.
        identifier: The identifier in the phrase; "" for images of the class.
    """

    def __init__(
        self,
        images: ImageSet,
        captions: Sequence[Caption],
        phrase: str,
        masks: Sequence[Image.Image | None] = (),
        repeats: Sequence[int] = (),
        identifier: str = "",
    ) -> None:
        self.phrase, self.identifier = phrase, identifier
        weights = np.array(repeats or [1] * len(images), np.float64)
        self._shares = weights / weights.sum()
        self._images = images
        self._captions = tuple(captions)
        self._masks = tuple(masks) or (None,) * len(images)
        self._decoded: Bounded[int, Image.Image] = Bounded(
            lambda image: 3 * image.width * image.height
        )
        self._views: Bounded[tuple[int, Framing, bool], View] = Bounded(lambda v: v.pixels.nbytes)

    def __len__(self) -> int:
        return len(self._images)

    def draw(self, rng: np.random.Generator) -> int:
        """Returns the index of a random image."""
        return int(rng.choice(len(self), p=self._shares))

    def image(self, index: int) -> Image.Image:
        """Returns an image, RGB."""
        return self._decoded.get(index, lambda: self._images.image(index).convert("RGB"))

    def view(self, index: int, framing: Framing, rng: np.random.Generator) -> View:
        """Returns an image cut for one step."""
        mirrored = framing.mirrored(rng)

        def cut() -> View:
            return view(self.image(index), self._masks[index], framing, mirrored, rng)

        # Resizing a photograph of 12 megapixels takes 90 ms.
        return self._views.get((index, framing, mirrored), cut) if framing.crop == 1 else cut()

    def scaled(self, index: int, framing: Framing, rng: np.random.Generator) -> tuple[View, str]:
        """Returns an image smaller or larger for one step, and words for it."""
        image, mask = self.image(index), self._masks[index]
        if framing.mirrored(rng):
            image = ImageOps.mirror(image)
            mask = None if mask is None else ImageOps.mirror(mask)
        return far_or_near(image, mask, framing.size, rng)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Returns the caption of an image for one step."""
        return self._captions[index](rng)


@dataclass(frozen=True, eq=False)
class Item:
    """One image, noised, with its caption.

    Attributes:
        view: Its pixels.
        text: Its caption.
        level: Noise level (`NoiseLevels`).
        noise: ε, shape (c, h, w).
        posterior: Noise of the VAE's posterior, shape (c, h, w).
        source: Pictures and index that the view is of; None if it is of several.
        pair: Identifiers of the subjects that were pasted into the left and the right half.
    """

    view: View
    text: str
    level: int
    noise: Tensor
    posterior: Tensor
    source: tuple[Pictures, int] | None = None
    pair: tuple[str, str] | None = None


@dataclass(frozen=True)
class Mixing:
    """How images are combined and captions are dropped.

    Attributes:
        scaled: Whether images are shown smaller or larger (Custom Diffusion).
        pasted: Probability that two subjects are pasted into one image (SVDiff); 0 for one subject.
        empty: Probability of an empty caption.
    """

    scaled: bool = False
    pasted: float = 0.0
    empty: float = 0.0


class Sampler:
    """Draws the items of training samples.

    Args:
        denoiser: Gives the shape of latents.
        levels: Noise levels.
        framing: How images are cut.
        mixing: How they are combined.
    """

    def __init__(
        self, denoiser: Denoiser, levels: NoiseLevels, framing: Framing, mixing: Mixing
    ) -> None:
        self._denoiser, self._levels = denoiser, levels
        self._framing, self._mixing = framing, mixing

    def draw(self, sets: Sequence[Pictures], generator: torch.Generator) -> Item:
        """Draws an item: an image of one of the sets, or of two of them pasted together."""
        rng = rng_of(generator)
        source: tuple[Pictures, int] | None = None
        pair: tuple[str, str] | None = None
        if len(sets) > 1 and rng.random() < self._mixing.pasted:
            shown, text, pair = self._pasted(sets, rng)
        else:
            pictures = sets[int(rng.integers(len(sets)))]
            index = pictures.draw(rng)
            text = pictures.caption(index, rng)
            if self._mixing.scaled:
                shown, prefix = pictures.scaled(index, self._framing, rng)
                text = prefix + text
            else:
                shown = pictures.view(index, self._framing, rng)
                source = (pictures, index)
        if rng.random() < self._mixing.empty:
            text, pair = "", None
        return replace(self._noised(shown, text, source, generator), pair=pair)

    def _noised(
        self, shown: View, text: str, source: tuple[Pictures, int] | None, g: torch.Generator
    ) -> Item:
        factor = self._denoiser.size[0] // self._denoiser.shape[1]
        shape = (self._denoiser.shape[0], *(s // factor for s in shown.pixels.shape[1:]))
        level = self._levels.draw(g)
        noise = torch.randn(shape, generator=g)
        return Item(shown, text, level, noise, torch.randn(shape, generator=g), source)

    def _pasted(
        self, sets: Sequence[Pictures], rng: np.random.Generator
    ) -> tuple[View, str, tuple[str, str] | None]:
        pair = [sets[int(i)] for i in rng.choice(len(sets), 2, replace=False)]
        height, width = self._framing.size
        half = Framing((height, width // 2), self._framing.crop, self._framing.flip)
        left, right = (p.view(p.draw(rng), half, rng) for p in pair)
        text = both(pair[0].phrase, pair[1].phrase, rng)
        names = (pair[0].identifier, pair[1].identifier)
        return side_by_side(left, right), text, names if all(names) else None


class Latents:
    """Latents of views; those of a fixed crop are encoded once."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._known: Bounded[object, tuple[Tensor, Tensor]] = Bounded(
            lambda pair: 2 * pair[0].nbytes
        )

    def of(self, items: Sequence[Item]) -> Tensor:
        """Returns latents drawn from the VAE's posteriors, shape (n, c, h, w)."""
        random = [i for i in items if i.source is None or i.view.key is None]
        moments: dict[int, tuple[Tensor, Tensor]] = {}
        if random:
            mean, std = self._encode(random)
            moments |= {id(item): (mean[j], std[j]) for j, item in enumerate(random)}
        for item in items:
            if id(item) not in moments:
                assert item.source is not None
                key = (id(item.source[0]), item.source[1], item.view.key)
                moments[id(item)] = self._known.get(key, lambda i=item: self._encode_one(i))
        rows = [moments[id(i)][0] + moments[id(i)][1] * i.posterior.to(self._denoiser.device)
                for i in items]  # fmt: skip
        return torch.stack(rows)

    def _encode(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([i.view.pixels for i in items]))
        # SDXL's VAE overflows in float16.
        with torch.autocast(self._denoiser.device.type, enabled=False):
            return self._denoiser.latent_moments(pixels)

    def _encode_one(self, item: Item) -> tuple[Tensor, Tensor]:
        # One at a time: rounding depends on the batch, and a resumed training has other batches
        # when it meets an image for the first time.
        mean, std = self._encode([item])
        return mean[0], std[0]


class Texts:
    """Text encodings; those that the training does not change are encoded once.

    Args:
        denoiser: Encodes.
        changes_all: Whether training changes every encoding.
        tokens: Tokens whose prompts it changes otherwise.
    """

    def __init__(self, denoiser: Denoiser, changes_all: bool, tokens: Sequence[str]) -> None:
        self._denoiser = denoiser
        self._changes_all, self._tokens = changes_all, tuple(tokens)
        config = denoiser.pipe.config
        # SDXL's empty prompt is zeros, which no text encoder makes.
        self._zeros = bool(getattr(config, "force_zeros_for_empty_prompt", False))
        self._known: Bounded[str, Conditions] = Bounded(
            lambda c: c.states.nbytes + (0 if c.pooled is None else c.pooled.nbytes)
        )

    def of(self, texts: Sequence[str]) -> Conditions:
        """Returns the encodings, one row a text; with gradients where training changes them."""
        changing = list(dict.fromkeys(t for t in texts if self._changes(t)))
        live = self._denoiser.encode_with_gradients(changing) if changing else None
        rows = [
            live.rows([changing.index(text)])
            if live is not None and text in changing
            else self._known.get(text, lambda t=text: self._denoiser.encode([t]))
            for text in texts
        ]
        pooled = [r.pooled for r in rows if r.pooled is not None]
        return Conditions(
            torch.cat([r.states for r in rows]), torch.cat(pooled) if pooled else None
        )

    def _changes(self, text: str) -> bool:
        if not text and self._zeros:
            return False
        return self._changes_all or any(token in text for token in self._tokens)


class Bounded(Generic[K, V]):
    """The most recently used values, up to a size in bytes.

    Args:
        size: Returns the bytes of a value.
    """

    def __init__(self, size: Callable[[V], int]) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Returns the value of a key, made if it is not there."""
        if key not in self._values:
            self._values[key] = make()
            self._bytes += self._size(self._values[key])
            while self._bytes > _CACHE_BYTES and len(self._values) > 1:
                self._bytes -= self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]


def fixed_caption(text: str) -> Caption:
    """Returns a caption that is the same at every step."""
    return lambda rng: text


def rng_of(generator: torch.Generator) -> np.random.Generator:
    """Returns a NumPy generator that is determined by the next number of a torch generator."""
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
