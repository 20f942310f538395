"""BLIP-2 image features: the Q-Former's output, projected to the language model's embeddings.

The functions work with any ``Blip2ForConditionalGeneration``, whatever its language model.
`visdiff.captioners.blip` loads the network.

Li et al., "BLIP-2" (2023), arXiv:2301.12597.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from visdiff.engine import Refused


def image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Returns the image features in the language model's embedding space.

    Args:
        model: A ``Blip2ForConditionalGeneration``.
        pixels: Prepared images, shape (n, 3, height, width).

    Returns:
        Features of shape (n, queries, d) on the model's device; d is the width of the language
        model's token embeddings. Query i is the same for all images, so features can be averaged.
    """
    with torch.inference_mode():
        pixels = pixels.to(model.device, model.dtype)
        hidden = model.vision_model(pixels).last_hidden_state
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=hidden,
            encoder_attention_mask=torch.ones(
                hidden.shape[:-1], dtype=torch.long, device=hidden.device
            ),
        ).last_hidden_state
        # The Q-Former stays in float32 when the rest is in half precision.
        return model.language_projection(queries.to(hidden.dtype))


def language_inputs(model: Any, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Returns the language model's input embeddings, with image features at the image tokens.

    Args:
        model: A ``Blip2ForConditionalGeneration``.
        ids: Token ids of shape (n, length), with one image token per query in each row.
        features: Output of `image_features`, shape (n, queries, d).

    Returns:
        Embeddings of shape (n, length, d).
    """
    words = model.get_input_embeddings()(ids)
    places = (ids == model.config.image_token_id).unsqueeze(-1)
    return words.masked_scatter(places, features.to(words.device, words.dtype))


class Network(Protocol):
    """A loader of BLIP-2 and its image preprocessing (`visdiff.captioners.blip.Blip2Captioner`)."""

    def load(self) -> Any:
        """Returns an object whose attribute ``model`` is the network."""
        ...

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Returns the pixels of an image, float32, shape (3, height, width)."""
        ...


class Blip2Features:
    """BLIP-2 features of images (see `image_features`) as a `visdiff.engine.ImageModel`.

    Args:
        network: The network; loaded on first use.
        weights: Identity of the weights, for the cache key.
    """

    kind = "blip2-features"

    def __init__(self, network: Network, weights: Mapping[str, Any]) -> None:
        self.network = network
        self.identity = dict(weights)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Returns the pixels of an image, float32, shape (3, height, width)."""
        return self.network.prepare(image)

    def __call__(self, batch: list[torch.Tensor]) -> list[np.ndarray | Refused]:
        """Returns float16 features, shape (queries, d), for each prepared image."""
        features = image_features(self.network.load().model, torch.stack(batch)).float()
        # float16 halves the cache; its rounding error is far below the spread within any set.
        return [
            row.astype(np.float16) if np.isfinite(row).all() else Refused("the features overflow")
            for row in features.cpu().numpy()
        ]
