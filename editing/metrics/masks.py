"""Masks of the subject: applied to images, and found by a segmentation model from a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from visdiff.encoders.hub import load_weights
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

Fill = Literal["black", "mean", "crop"]
"""What masked pixels become: black (SID's product taken literally), the mean colour of the kept
pixels, or black with the image cropped to the kept part."""

_HALF = 128


class Segmenter(Protocol):
    """The interface of a segmentation model that a text conditions."""

    @property
    def name(self) -> str:
        """Name of the model, for reports."""
        ...

    def __call__(self, images: Sequence[Image.Image], text: str) -> list[Image.Image]:
        """Returns a mask ("L", white = what the text names, as large as its image) per image."""
        ...


def masked(image: Image.Image, mask: Image.Image, fill: Fill = "black") -> Image.Image:
    """Returns an image in which only the white part of a mask is kept.

    Args:
        image: RGB image.
        mask: "L" mask as large as the image; values of 128 and above keep a pixel.
        fill: What the other pixels become.

    Raises:
        InputError: The sizes differ, or the mask keeps nothing.
    """
    kept = kept_pixels(mask)
    if kept.shape != (image.height, image.width):
        raise InputError(
            f"Expected a mask of {image.width}×{image.height} pixels, got {mask.width}×"
            f"{mask.height}; resize it to its image."
        )
    if not kept.any():
        raise InputError(
            "Expected a mask that keeps some pixels, got one that keeps none; correct the mask."
        )
    pixels = np.asarray(image.convert("RGB"))
    background = pixels[kept].mean(axis=0) if fill == "mean" else np.zeros(3)
    result = Image.fromarray(np.where(kept[..., None], pixels, background).astype(np.uint8))
    if fill != "crop":
        return result
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    return result.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def inverted(mask: Image.Image) -> Image.Image:
    """Returns the mask of everything else."""
    return Image.fromarray(np.where(kept_pixels(mask), 0, 255).astype(np.uint8))


def kept_pixels(mask: Image.Image) -> np.ndarray:
    """Returns which pixels a mask keeps, bool (height, width)."""
    return np.asarray(mask.convert("L")) >= _HALF


class ClipSegmenter:
    """CLIPSeg: segmentation by a text (Lüddecke and Ecker 2022, arXiv:2112.10003).

    SID uses Grounded-SAM, whose masks have sharper edges.

    Args:
        model: Hub id or folder of a CLIPSeg checkpoint of transformers.
        threshold: Probability from which a pixel belongs to the mask, in (0, 1).
        device: A torch device.

    Raises:
        InputError: The threshold is out of range.
    """

    def __init__(
        self,
        model: str | Path = "CIDAS/clipseg-rd64-refined",
        threshold: float = 0.4,
        device: str = "cpu",
    ) -> None:
        if not 0 < threshold < 1:
            raise InputError(
                f"Expected a threshold between 0 and 1, got {threshold}; use for example 0.4."
            )
        self.model = str(model)
        self.threshold = threshold
        self.device = device
        self._ready: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The checkpoint with its threshold."""
        return f"{self.model} at {self.threshold:g}"

    def __call__(self, images: Sequence[Image.Image], text: str) -> list[Image.Image]:
        """Returns a mask of what the text names in each image.

        Raises:
            MissingBackendError: The weights are not on disk and cannot be downloaded.
        """
        import torch

        model, processor = self._load()
        masks = []
        for image in images:
            inputs = processor(
                text=[text], images=[image], padding="max_length", return_tensors="pt"
            )
            with torch.inference_mode():
                logits = model(**{n: v.to(self.device) for n, v in inputs.items()}).logits
            side = logits.shape[-1]
            scores = torch.nn.functional.interpolate(
                logits.float().reshape(1, 1, side, side),
                size=(image.height, image.width),
                mode="bilinear",
            )[0, 0]
            kept = (scores.sigmoid() >= self.threshold).cpu().numpy()
            masks.append(Image.fromarray(np.where(kept, 255, 0).astype(np.uint8)))
        return masks

    def _load(self) -> tuple[Any, Any]:
        if self._ready is None:
            ensure_torchvision()
            from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

            def load() -> tuple[Any, Any]:
                model: Any = CLIPSegForImageSegmentation.from_pretrained(self.model)
                return (
                    model.float().eval().to(self.device),
                    CLIPSegProcessor.from_pretrained(self.model),
                )

            self._ready = load_weights(load, f"segmentation model {self.model}")
        return self._ready
