"""``generators``: how the images of two text-to-image models differ, prompt by prompt.

Dunlap et al., CVPR 2024, section 6.4, on Stable Diffusion 2.1 and 1.4. Images of the same prompt
(and seed) are pairs, and the proposals, tests and intervals are paired.
"""

from pathlib import Path
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.comparison.split import pair_up
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, columns, manifest
from visdiff.recipes.forming import Pairs, column_texts, make_slices
from visdiff.recipes.run import RecipeReport, RecipeSets, run

NAME = "generators"
#: Column with the number of an image among those of its prompt, added when there are no seeds.
IMAGE = "image_of_prompt"


def generators(
    first: Any,
    second: Any,
    *,
    cache: Cache | None = None,
    progress: bool = True,
    **how: Any,
) -> RecipeReport:
    """Compares two generators on the same prompts.

    Args:
        first: Set A: a manifest with the prompt of each image, or a folder with such a manifest.
        second: Set B, in the same form.
        cache: Cache of captions and embeddings; the user's cache by default.
        progress: Whether to show progress bars on stderr.
        **how: Arguments of `form`: columns, names, slices, the held-out fraction, the
            configuration.

    Returns:
        The report; ``overall`` is first (A) against second (B).

    Raises:
        InputError: A source or column does not exist, or no image has a partner.
        MissingBackendError: A library or a model's weights are not available.
    """
    return run(form(first, second, **how), cache, progress)


def form(
    first: Any,
    second: Any,
    *,
    prompt: str = "prompt",
    seed: str | None = None,
    by: str | None = None,
    name_first: str = "first",
    name_second: str = "second",
    held_out: float = 0.2,
    config: Config,
) -> RecipeSets:
    """Forms two sets with the same prompts, and optionally one pair per slice.

    Prompts are read from a column, never from paths. A prompt may have any number of images. With a
    column of seeds, paired images have the same prompt and seed; without one, the k-th image of a
    prompt is paired with the other generator's k-th image. Images without a partner are left out
    and reported, including those of prompts that only one generator has. Images of a prompt are
    held out together.

    Args:
        first: Set A: a manifest with the prompt of each image, or a folder with such a manifest.
        second: Set B, in the same form.
        prompt: Column of the prompt in both.
        seed: Column of the seed in both; by default "seed" when both have it.
        by: Column whose values are compared as slices too, with one correction over all.
        name_first: Name of set A.
        name_second: Name of set B.
        held_out: Fraction of the prompts held out for the check of the confirmed sentences; 0 for
            none.
        config: The configuration of every comparison; ``paired_by`` is set here.

    Raises:
        InputError: A source or column does not exist, or no image has a partner.
    """
    sets = [
        ImageSet.open(_manifest(source), name=name)
        for source, name in ((first, name_first), (second, name_second))
    ]
    sets = [images.with_columns(columns.usual_columns(images.frame)) for images in sets]
    notes: list[str] = []
    for k, images in enumerate(sets):
        known = column_texts(images, prompt) != ""
        if not known.all():
            notes.append(f"{int((~known).sum())} images of {images.name} have no prompt; left out.")
            sets[k] = images.subset(known)
    if seed is None and all("seed" in images.frame.columns for images in sets):
        seed = "seed"
    if seed is None:
        seed = IMAGE
        counts = [_occurrence_numbers(column_texts(images, prompt)) for images in sets]
        if any((count > 1).any() for count in counts):
            notes.append(
                "Without a column of seeds, the k-th images of a prompt are taken as partners."
            )
        sets = [s.with_columns({IMAGE: c}) for s, c in zip(sets, counts, strict=True)]
    only = [set(column_texts(s, prompt).tolist()) for s in sets]
    for images, own, others in zip(sets, only, reversed(only), strict=True):
        if alone := own - others:
            notes.append(f"{len(alone)} prompts are of {images.name} only and were left out.")
    a, b, without = pair_up(sets[0], sets[1], (prompt, seed))
    if without:
        notes.append(f"{without} images have no partner of the same prompt and {seed}; left out.")
    contents = ((a.content(i), b.content(i)) for i in range(len(a)))
    same = sum(of_a is not None and of_a == of_b for of_a, of_b in contents)
    if same:
        notes.append(f"{same} pairs are the same image, byte for byte; they count as no change.")
    pairs: Pairs = [(a, b)]
    if by is not None:
        # Slices are read from the first manifest only: paired images are in the same slice.
        sliced, more = make_slices(a, b, column_texts(a, by), column_texts(a, by))
        pairs += sliced
        notes += more
    paired = config.changed(paired_by=(prompt, seed))
    return RecipeSets(NAME, pairs, paired, notes, held_out, held_out_by=(prompt,))


def _manifest(source: Any) -> Any:
    """Returns the manifest in a folder; other sources are returned unchanged."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return source
    found = sorted(f for f in Path(source).iterdir() if f.suffix.lower() in manifest.SUFFIXES)
    if len(found) != 1:
        names = manifest.listed([f.name for f in found]) if found else "none"
        raise InputError(
            f"Expected one manifest with the prompts in {source}, got {names}; pass its path."
        )
    return found[0]


def _occurrence_numbers(values: np.ndarray) -> np.ndarray:
    """Returns the number of equal values up to each position, (n,) int from 1."""
    counts: dict[str, int] = {}
    numbers = []
    for value in values.tolist():
        counts[value] = counts.get(value, 0) + 1
        numbers.append(counts[value])
    return np.array(numbers, dtype=int)
