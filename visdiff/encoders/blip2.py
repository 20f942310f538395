"""What BLIP-2's language model reads of an image: the Q-Former's output in the space of its words.

Functions on the network alone, which `visdiff.captioners.blip` loads; they work with every
``Blip2ForConditionalGeneration``, whatever its language model.

Li et al., "BLIP-2" (2023), arXiv:2301.12597.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from visdiff.engine import Refused


def image_features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the language model reads of each image.

    Args:
        model: A ``Blip2ForConditionalGeneration``.
        pixels: (n, 3, height, width), prepared.

    Returns:
        (n, queries, d) on the model's device, d being the width of the language model's words.
        Query i is the same question to every image, so that features can be averaged.
    """
    with torch.inference_mode():
        pixels = pixels.to(model.device, model.dtype)
        seen = model.vision_model(pixels).last_hidden_state
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(
                seen.shape[:-1], dtype=torch.long, device=seen.device
            ),
        ).last_hidden_state
        # The Q-Former stays in single precision where the rest is in half.
        return model.language_projection(queries.to(seen.dtype))


def language_inputs(model: Any, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return the language model's input: the words' vectors, image features in their places.

    Args:
        model: A ``Blip2ForConditionalGeneration``.
        ids: (n, length) tokens, with as many image tokens in a row as there are queries.
        features: (n, queries, d) as `image_features` gives them.

    Returns:
        (n, length, d).
    """
    words = model.get_input_embeddings()(ids)
    places = (ids == model.config.image_token_id).unsqueeze(-1)
    return words.masked_scatter(places, features.to(words.device, words.dtype))


class Network(Protocol):
    """What loads a BLIP-2 and prepares images for it: `visdiff.captioners.blip.Blip2Captioner`."""

    def load(self) -> Any:
        """Return what has the network as its attribute ``model``."""
        ...

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the network's pixels, float32, (3, height, width)."""
        ...


class Blip2Features:
    """Images as BLIP-2's language model reads them; a `visdiff.engine.ImageModel`.

    Args:
        network: Called on first use.
        weights: What tells these weights from others, for the cache key.
    """

    kind = "blip2-features"

    def __init__(self, network: Network, weights: Mapping[str, Any]) -> None:
        self.network = network
        self.identity = dict(weights)

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the pixels the network reads, float32, shape (3, height, width)."""
        return self.network.prepare(image)

    def __call__(self, batch: list[torch.Tensor]) -> list[np.ndarray | Refused]:
        """Return float16 features, shape (queries, d), for each prepared image."""
        features = image_features(self.network.load().model, torch.stack(batch)).float()
        # Half the room in the cache; what is lost is far below the spread within any set.
        return [
            row.astype(np.float16) if np.isfinite(row).all() else Refused("the features overflow")
            for row in features.cpu().numpy()
        ]
