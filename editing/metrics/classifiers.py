"""Image classifiers, to detect whether images show an erased class."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from editing.metrics.features import image_features
from visdiff import miniature
from visdiff.encoders import Encoder
from visdiff.encoders.hub import load_weights
from visdiff.encoders.zero_shot import nearest_text
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision


class Classifier(Protocol):
    """The interface of an image classifier."""

    def __call__(self, images: Iterable[Image.Image]) -> list[str]:
        """Returns a label for each RGB image, in order."""
        ...


class TransformersClassifier:
    """An image classifier from the transformers library.

    Args:
        model: Hub id ("microsoft/resnet-50", as in the published Imagenette tables), a folder, or
            "miniature".
        device: A torch device.
        batch_size: Images per batch.

    Raises:
        InputError: The batch size is below 1.
    """

    def __init__(self, model: str | Path, device: str = "cpu", batch_size: int = 32) -> None:
        if batch_size < 1:
            raise InputError(f"Expected a batch of 1 image or more, got {batch_size}; use 32.")
        self.model = str(miniature.folder("classifier") if model == "miniature" else model)
        self.device = device
        self.batch_size = batch_size
        self._ready: tuple[Any, Any] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the classifier."""
        names = self._load()[0].config.id2label
        return tuple(names[index] for index in range(len(names)))

    def __call__(self, images: Iterable[Image.Image]) -> list[str]:
        """Returns the most likely label of each RGB image; "tench, Tinca tinca" becomes "tench".

        Raises:
            MissingBackendError: The weights are not on disk and cannot be downloaded.
        """
        import torch

        model, processor = self._load()
        labels, found, rest = self.labels, [], iter(images)
        while batch := list(islice(rest, self.batch_size)):
            inputs = processor(images=batch, return_tensors="pt")
            with torch.inference_mode():
                logits = model(inputs["pixel_values"].to(self.device, torch.float32)).logits
            found += [labels[index].split(",")[0] for index in logits.argmax(dim=-1).tolist()]
        return found

    def _load(self) -> tuple[Any, Any]:
        if self._ready is None:
            ensure_torchvision()
            import torch
            from transformers import AutoImageProcessor, AutoModelForImageClassification

            def load() -> tuple[Any, Any]:
                model: Any = AutoModelForImageClassification.from_pretrained(
                    self.model, dtype=torch.float32
                )
                return model.eval().to(self.device), AutoImageProcessor.from_pretrained(self.model)

            self._ready = load_weights(load, f"classifier {self.model}")
        return self._ready


class ZeroShotClassifier:
    """A zero-shot classifier on an encoder of images and texts.

    Args:
        encoder: Such as `visdiff.encoders.open_clip.OpenClipEncoder`.
        labels: The labels, in order; of two that are equally near, the first is returned.
        texts: The text of each label.
        batch_size: Images per batch.

    Raises:
        InputError: There are fewer than two labels, or not one text for each.
    """

    def __init__(
        self, encoder: Encoder, labels: Sequence[str], texts: Sequence[str], batch_size: int = 32
    ) -> None:
        if len(labels) < 2 or len(texts) != len(labels):
            raise InputError(
                f"Expected 2 or more labels and a text for each, got {len(labels)} labels and "
                f"{len(texts)} texts; add what the images may show instead."
            )
        self.labels = tuple(labels)
        self._encoder, self._batch_size = encoder, batch_size
        self._texts = encoder.encode_texts(list(texts))

    def __call__(self, images: Iterable[Image.Image]) -> list[str]:
        """Returns the label of the nearest text of each RGB image."""
        features = image_features(self._encoder, images, self._batch_size)
        return [self.labels[i] for i in nearest_text(features, self._texts)]
