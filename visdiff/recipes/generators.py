"""``generators``: how the images of two text-to-image models differ, prompt by prompt.

Dunlap et al., CVPR 2024, section 6.4, on Stable Diffusion 2.1 and 1.4. Images of the same prompt
(and seed) are pairs: the proposals, the tests and the intervals respect that.
"""

from pathlib import Path
from typing import Any

import numpy as np

from visdiff.cache import Cache
from visdiff.comparison.split import pair_up
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet, manifest
from visdiff.recipes.forming import Pairs, slices, texts, with_columns
from visdiff.recipes.run import Formed, RecipeReport, run

NAME = "generators"
#: Which of a prompt's images this is, where no column says it.
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
        first: Set A: a manifest with the prompt of each image, or a folder that holds one.
        second: Set B, likewise.
        cache: Where captions and embeddings are kept; the user's by default.
        progress: Show progress bars on stderr.
        **how: What `form` takes: columns, names, slices, the share held out, the configuration.

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
) -> Formed:
    """Forms two sets of the same prompts, and a pair a slice when asked.

    A prompt is text of a column and never part of a path. It may have any number of images: with a
    column of seeds, an image's partner has the same prompt and seed; without, the k-th image of a
    prompt is paired with the other generator's k-th. Images without a partner are left out and
    counted, prompts of one generator alone included. What is held out is whole prompts.

    Args:
        first: Set A: a manifest with the prompt of each image, or a folder that holds one.
        second: Set B, likewise.
        prompt: Column of the prompt in both.
        seed: Column of the seed in both; by default "seed" when both have it.
        by: Also compare slice by slice, by the values of this column, with one correction over all.
        name_first: What to call set A.
        name_second: What to call set B.
        held_out: Share of the prompts put aside for the check of the confirmed sentences; 0 for
            none.
        config: The configuration of every comparison; what it is paired by is set here.

    Raises:
        InputError: A source or column does not exist, or no image has a partner.
    """
    sets = [
        ImageSet.open(_manifest(source), name=name)
        for source, name in ((first, name_first), (second, name_second))
    ]
    notes: list[str] = []
    for k, images in enumerate(sets):
        known = texts(images, prompt) != ""
        if not known.all():
            notes.append(f"{int((~known).sum())} images of {images.name} have no prompt; left out.")
            sets[k] = images.subset(known)
    if seed is None and all("seed" in images.frame.columns for images in sets):
        seed = "seed"
    if seed is None:
        seed = IMAGE
        counts = [_counted(texts(images, prompt)) for images in sets]
        if any((count > 1).any() for count in counts):
            notes.append(
                "Without a column of seeds, the k-th images of a prompt are taken as partners."
            )
        sets = [with_columns(s, {IMAGE: c}) for s, c in zip(sets, counts, strict=True)]
    only = [set(texts(s, prompt).tolist()) for s in sets]
    for images, own, others in zip(sets, only, reversed(only), strict=True):
        if alone := own - others:
            notes.append(f"{len(alone)} prompts are of {images.name} only and were left out.")
    a, b, without = pair_up(sets[0], sets[1], (prompt, seed))
    if without:
        notes.append(f"{without} images have no partner of the same prompt and {seed}; left out.")
    same = sum(a.digest(i) == b.digest(i) for i in range(len(a)))
    if same:
        notes.append(f"{same} pairs are the same image, byte for byte; they count as no change.")
    pairs: Pairs = [(a, b)]
    if by is not None:
        # Of the first generator's manifest: a prompt is in one slice, whoever drew it.
        sliced, more = slices(a, b, texts(a, by), texts(a, by))
        pairs += sliced
        notes += more
    paired = config.changed(paired_by=(prompt, seed))
    return Formed(NAME, pairs, paired, notes, held_out, held_out_by=(prompt,))


def _manifest(source: Any) -> Any:
    """The manifest in a folder; anything else as it is."""
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        return source
    found = sorted(f for f in Path(source).iterdir() if f.suffix.lower() in manifest.SUFFIXES)
    if len(found) != 1:
        names = manifest.listed([f.name for f in found]) if found else "none"
        raise InputError(
            f"Expected one manifest with the prompts in {source}, got {names}; name the manifest."
        )
    return found[0]


def _counted(values: np.ndarray) -> np.ndarray:
    """How many equal values there are up to each one, (n,) int from 1."""
    seen: dict[str, int] = {}
    counts = []
    for value in values.tolist():
        seen[value] = seen.get(value, 0) + 1
        counts.append(seen[value])
    return np.array(counts, dtype=int)
