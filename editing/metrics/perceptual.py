"""LPIPS: perceptual distance of two images (Zhang et al. 2018, arXiv:1801.03924).

torchmetrics' implementation (extra ``metrics``). The scripts of ESD and UCE shrink images to 64
pixels first, so that their numbers compare with no others: here the resolution has to be said.
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

# AlexNet's last pooling has nothing left of fewer pixels.
_LEAST = 64


class Lpips:
    """LPIPS at one resolution.

    Args:
        resolution: Side in pixels that images are resized to (bicubic, antialiased), 64 or more.
            Part of the number: report it.
        net: The backbone; papers on erasure use "alex".
        network: A module that maps two batches (n, 3, h, w) in [-1, 1] to n distances; by default
            torchmetrics' with its published weights.
        device: A torch device.

    Raises:
        InputError: The resolution is too small.
        MissingBackendError: torchmetrics is not installed, or the backbone's weights are neither
            on disk nor can be downloaded.
    """

    def __init__(
        self,
        resolution: int,
        net: Net = "alex",
        network: Any = None,
        device: str = "cpu",
    ) -> None:
        if resolution < _LEAST:
            raise InputError(
                f"expected a resolution of {_LEAST} pixels or more, got {resolution}: the network "
                "has nothing left of fewer."
            )
        self.resolution = resolution
        self.device = device
        self._network = (_published(net) if network is None else network).to(device).eval()
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
            edited: n RGB images, pair by pair.
            batch_size: Pairs at once.

        Returns:
            (n,) float32, 0 for equal images, rarely above 1.

        Raises:
            InputError: There are not as many of the one as of the other, or none.
        """
        import torch

        if batch_size < 1:
            raise InputError(f"expected a batch of 1 pair or more, got {batch_size}.")
        firsts, seconds, found = iter(original), iter(edited), []
        while True:
            a, b = list(islice(firsts, batch_size)), list(islice(seconds, batch_size))
            if len(a) != len(b):
                raise InputError(
                    "expected as many edited as original images, got different numbers: pair them "
                    "by prompt and seed."
                )
            if not a:
                break
            with torch.inference_mode():
                distances = self._network(self._tensor(a), self._tensor(b))
            found.append(distances.float().reshape(len(a)).cpu().numpy())
        if not found:
            raise InputError("expected pairs of images, got none.")
        return np.concatenate(found)

    def _tensor(self, images: list[Image.Image]) -> Any:
        import torch

        side = (self.resolution, self.resolution)
        arrays = [
            np.asarray(i.convert("RGB").resize(side, Image.Resampling.BICUBIC)) for i in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(self.device)
        return pixels.float() / 127.5 - 1


def _published(net: Net) -> Any:
    """Builds torchmetrics' network with the backbone's and the heads' published weights."""
    try:
        ensure_torchvision()
        # The class has no public name; the public metric keeps no distance of a single pair.
        module = import_module("torchmetrics.functional.image.lpips")
    except ImportError as error:
        raise MissingBackendError(
            f"LPIPS needs torchmetrics, which cannot be imported ({error}); pip install "
            "'visdiff[metrics]'"
        ) from error
    return load_weights(lambda: module._NoTrainLpips(net=net), f"LPIPS backbone {net}")
