"""Encoders of images alone: DINO, DINOv2, and the bundled classifier's features.

DINO compares subjects better than CLIP does, since it was trained to tell images of one class apart
(DreamBooth, Ruiz et al. 2023, section 4).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from visdiff import miniature
from visdiff.encoders.hub import load_weights
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

_MODELS: dict[str, str] = {
    "dino": "timm:vit_small_patch16_224.dino",
    "dinov2": "transformers:facebook/dinov2-small",
}
_RESIZED_TO = 256


class ImageFeatures:
    """Unit vectors of images from a vision backbone.

    The vector is the class token after the last normalisation; the pooled features for a network
    without one. "dino" is the ViT-S/16 of DreamBooth's table, with the preprocessing of its authors
    (shorter side 256, bicubic; centre crop of 224). The port of its weights in transformers gives
    other values. "dinov2" is the ViT-S/14 with the preprocessing of its checkpoint, as in
    DreamBench++. "miniature" is the bundled classifier, which plays DINO's part for drawings.

    Args:
        model: "dino", "dinov2", "miniature", "timm:NAME", or "transformers:ID" with a hub id or
            folder.
        device: A torch device.

    Raises:
        InputError: The name has another form.
    """

    def __init__(self, model: str = "dino", device: str = "cpu") -> None:
        if model == "miniature":
            full = f"transformers:{miniature.folder('classifier')}"
        else:
            full = _MODELS.get(model, model)
        self._library, _, self._source = full.partition(":")
        if self._library not in ("timm", "transformers") or not self._source:
            raise InputError(
                f"Expected dino, dinov2, miniature, timm:NAME or transformers:ID, got {model!r}; "
                "choose one of these."
            )
        self.model = model
        self.device = device
        self._ready: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        """The name that was asked for, with the checkpoint."""
        return self.model if ":" in self.model else f"{self.model} ({Path(self._source).name})"

    def prepare(self, image: Image.Image) -> Any:
        """Returns the network's input, float32 (3, height, width)."""
        return self._load()[1](image)

    def __call__(self, batch: list[Any]) -> Sequence[Any]:
        """Returns a float32 unit vector of shape (d,) for each prepared image.

        Raises:
            MissingBackendError: The weights are not on disk and cannot be downloaded.
        """
        import torch

        with torch.inference_mode():
            found = self._load()[0](torch.stack(batch).to(self.device)).float()
            vectors = torch.nn.functional.normalize(found, dim=-1).cpu().numpy()
        return list(vectors)

    def _load(self) -> tuple[Any, Any]:
        if self._ready is None:
            ensure_torchvision()
            load = _timm if self._library == "timm" else _transformers
            self._ready = load_weights(
                lambda: load(self._source, self.device), f"image encoder {self.name}"
            )
        return self._ready


def _timm(name: str, device: str) -> tuple[Any, Any]:
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    # No classifier: the output is the class token after the last normalisation.
    model: Any = timm.create_model(name, pretrained=True, num_classes=0).float().eval().to(device)
    config = resolve_model_data_config(model)
    side = int(config["input_size"][-1])
    config |= {"crop_pct": min(1.0, side / _RESIZED_TO), "interpolation": "bicubic"}
    return model, create_transform(**config, is_training=False)


def _transformers(name: str, device: str) -> tuple[Any, Any]:
    import torch
    import transformers
    from transformers import AutoConfig, AutoImageProcessor

    # The class that was saved, since transformers warns of a head that another class lacks.
    saved: Any = AutoConfig.from_pretrained(name).architectures or ["AutoModel"]
    kind: Any = getattr(transformers, saved[0], transformers.AutoModel)
    model: Any = kind.from_pretrained(name, dtype=torch.float32).base_model.eval().to(device)
    processor: Any = AutoImageProcessor.from_pretrained(name)

    def encode(pixels: Any) -> Any:
        out = model(pixel_values=pixels)
        tokens = out.last_hidden_state
        return tokens[:, 0] if tokens.ndim == 3 else out.pooler_output.flatten(1)

    def prepare(image: Image.Image) -> Any:
        return processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    return encode, prepare
