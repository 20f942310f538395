"""SVDiff's unmix regulariser: in a pasted image, each subject attends to its own half only.

Han et al. (ICCV 2023), arXiv:2303.11305, section 3.3: the squared cross-attention of one subject's
identifier in the half of the other is added to the loss. Which norm and which layers is left open
there; here it is the mean over the places of the wrong half, all layers, and both subjects.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from editing.personalize.data import Item
from editing.pipelines.attention import positions_of
from editing.pipelines.attention_recorder import AttentionObserver, cross_attention, grid_of
from editing.training import Tensor
from visdiff.errors import InputError


def attention_in_wrong_half(
    probabilities: Tensor,
    grid: tuple[int, int],
    left: Sequence[int],
    right: Sequence[int],
) -> Tensor:
    """Returns the mean squared attention of each of two subjects in the half of the other.

    Args:
        probabilities: (places, length), the attention of one layer, mean over heads.
        grid: Height and width of the places.
        left: Token positions of the subject in the left half.
        right: Those of the subject in the right half.

    Returns:
        A scalar in [0, 1].
    """
    maps = probabilities.unflatten(0, grid)
    half = grid[1] // 2
    # With an odd width the middle column belongs to neither half.
    of_left = maps[:, grid[1] - half :, list(left)].sum(dim=-1)
    of_right = maps[:, :half, list(right)].sum(dim=-1)
    return (of_left.square().mean() + of_right.square().mean()) / 2


def check_unmix(subjects: int, cut_mix: float) -> None:
    """Checks that a training with the regulariser has pasted images.

    Raises:
        InputError: It has none.
    """
    if subjects < 2 or not cut_mix:
        raise InputError(
            f"Expected two subjects or more and cut_mix above 0 with unmix, got {subjects} and "
            f"cut_mix {cut_mix:g}; leave unmix out."
        )


class Unmix:
    """Measures pasted items while the denoiser predicts their noise.

    Args:
        pipe: The pipeline, of Stable Diffusion 1, 2 or XL.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._layers = cross_attention(pipe)
        self._found: dict[int, list[Tensor]] = {}

    @contextmanager
    def watching(self, items: Sequence[Item]) -> Iterator[None]:
        """Observes one prediction of items."""
        pasted = {
            row: tuple(positions_of(self._pipe, item.text, name) for name in item.pair)
            for row, item in enumerate(items)
            if item.pair is not None
        }

        def take(name: str, probabilities: Tensor) -> None:
            del name
            for row, (left, right) in pasted.items():
                height, width = items[row].noise.shape[1:]
                grid = grid_of(probabilities.shape[1], (height, width))
                found = attention_in_wrong_half(probabilities[row], grid, left, right)
                self._found.setdefault(id(items[row]), []).append(found)

        if not pasted:
            yield
            return
        # Stable Diffusion pads every prompt to this length.
        length = self._pipe.tokenizer.model_max_length
        with AttentionObserver(self._layers, length, take).observing():
            yield

    def losses(self, items: Sequence[Item]) -> Tensor:
        """Returns the mean over layers of each item, (n,); 0 for items that are not pasted."""
        found = [self._found.pop(id(item), None) for item in items]
        zero = torch.zeros((), device=self._pipe.device)
        return torch.stack([zero if layers is None else torch.stack(layers).mean()
                            for layers in found])  # fmt: skip
