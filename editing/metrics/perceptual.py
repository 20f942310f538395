"""LPIPS: perceptual distance of two images (Zhang et al. 2018, arXiv:1801.03924).

Computed by torchmetrics (extra ``metrics``). The scripts of ESD and UCE first resize images to 64
pixels, so their values are not comparable with others; here the resolution is a required argument.
"""

from collections.abc import Iterable
from importlib import import_module
from itertools import islice
from typing import Any, Literal

import numpy as np
from PIL import Image

from visdiff.encoders.hub import load_weights
from visdiff.errors import InputError, MissingBackendError
from visdiff.torchvision_compat import ensure_torchvision

Net = Literal["alex", "vgg", "squeeze"]

# Below this, the output of AlexNet's last pooling layer is empty.
_MIN_RESOLUTION = 64


class Lpips:
    """The LPIPS distance at a fixed resolution.

    Args:
        resolution: Side in pixels to which images are resized (bicubic, antialiased), 64 or more.
            Values depend on it, so report it.
        net: The backbone; papers on erasure use "alex".
        network: A module that maps two batches (n, 3, h, w) in [-1, 1] to n distances; by default
            the network of torchmetrics with its published weights.
        device: A torch device.

    Raises:
        InputError: The resolution is too small.
        MissingBackendError: torchmetrics is not installed, or the backbone's weights are not on
            disk and cannot be downloaded.
    """

    def __init__(
        self,
        resolution: int,
        net: Net = "alex",
        network: Any = None,
        device: str = "cpu",
    ) -> None:
        if resolution < _MIN_RESOLUTION:
            raise InputError(
                f"Expected a resolution of {_MIN_RESOLUTION} pixels or more, got {resolution}; use "
                f"{_MIN_RESOLUTION} or 256."
            )
        self.resolution = resolution
        self.device = device
        self._network = (_load_published(net) if network is None else network).to(device).eval()
        self.name = f"LPIPS ({net}, {resolution} px)"

    def __call__(
        self,
        original: Iterable[Image.Image],
        edited: Iterable[Image.Image],
        batch_size: int = 16,
    ) -> np.ndarray:
        """Returns the distance of each pair.

        Args:
            original: n RGB images.
            edited: n RGB images, in the same order.
            batch_size: Pairs per batch.

        Returns:
            (n,) float32, 0 for equal images, rarely above 1.

        Raises:
            InputError: The numbers of images differ, or there is no image.
        """
        import torch

        if batch_size < 1:
            raise InputError(f"Expected a batch of 1 pair or more, got {batch_size}; use 16.")
        firsts, seconds, parts = iter(original), iter(edited), []
        while True:
            a, b = list(islice(firsts, batch_size)), list(islice(seconds, batch_size))
            if len(a) != len(b):
                raise InputError(
                    "Expected as many edited as original images, got different numbers; pair them "
                    "by prompt and seed."
                )
            if not a:
                break
            with torch.inference_mode():
                distances = self._network(self._tensor(a), self._tensor(b))
            parts.append(distances.float().reshape(len(a)).cpu().numpy())
        if not parts:
            raise InputError("Expected pairs of images, got none; give at least one.")
        return np.concatenate(parts)

    def _tensor(self, images: list[Image.Image]) -> Any:
        import torch

        side = (self.resolution, self.resolution)
        arrays = [
            np.asarray(i.convert("RGB").resize(side, Image.Resampling.BICUBIC)) for i in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.device)
        return pixels.float() / 127.5 - 1


def _load_published(net: Net) -> Any:
    """Loads the network of torchmetrics with the published weights of backbone and heads."""
    try:
        ensure_torchvision()
        # The class is private, but the public metric does not return distances of single pairs.
        module = import_module("torchmetrics.functional.image.lpips")
    except ImportError as error:
        raise MissingBackendError(
            f"Expected torchmetrics for LPIPS, got an import error ({error}); pip install "
            "'visdiff[metrics]'"
        ) from error
    return load_weights(lambda: module._NoTrainLpips(net=net), f"LPIPS backbone {net}")
