"""SID's measures from images and masks: SA, NSD, and the variants that mask both sides.

Kim et al. 2024, arXiv:2403.15330, section 6. The formulas are in `editing.metrics.subject`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from editing.metrics.masks import Fill, Segmenter, inverted, kept_pixels, masked
from editing.metrics.subject import disentanglement, likeness
from editing.personalize.captions import case_of
from editing.personalize.encoders import encode_images
from editing.personalize.pictured import Pictured, without_identifier
from editing.personalize.subject import Subject
from visdiff.encoders import Encoder
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet
from visdiff.words import words

NAMES = ("sa", "nsd", "nsd_relative", "sa_masked", "nsd_masked")
"""The measures of this module."""


@dataclass
class SidScores:
    """Values per generated image, NaN for those that a measure leaves out.

    Attributes:
        values: Measure, of `NAMES` → (m,).
        missing: Measure → why it was not computed.
        notes: Sentences about what was left out.
        masks: Image id of a reference → its mask.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    masks: dict[str, Image.Image] = field(default_factory=dict)


def sid_scores(
    generated: Pictured,
    features: np.ndarray,
    subject: Subject,
    clip: Encoder,
    *,
    base: Pictured | None,
    segmenter: Segmenter | None,
    fill: Fill,
    masks: Sequence[Image.Image] | None,
) -> SidScores:
    """Returns SID's measures of generated images.

    Images whose prompt asks for a thing that the references' captions name beside the subject (a
    couch) are left out of NSD: they should resemble it.

    Args:
        generated: m generated images that can be read.
        features: (m, d) their CLIP features.
        subject: The references, with captions and masks.
        clip: The encoder.
        base: Images of the base model for the same prompts without identifier, for the NSD that is
            relative to it: 0 is no more of the surroundings than the base has anyway.
        segmenter: Finds masks where none are given; None for none.
        fill: What masked pixels become.
        masks: m masks of the subject in the generated images; None to find them.
    """
    found = SidScores()
    if base is None:
        found.missing["nsd_relative"] = "no images of the base model were given (--base-images)"
    own = masks
    try:
        reference_masks = _reference_masks(subject, segmenter)
        if own is None and segmenter is not None:
            own = [segmenter([image], subject.noun)[0] for image in generated.images]
    except (InputError, MissingBackendError) as error:
        found.missing |= dict.fromkeys(NAMES, str(error))
        return found
    if own is None:
        reason = "there are no masks of the generated images; find them with --segment"
        found.missing |= dict.fromkeys(("sa_masked", "nsd_masked"), reason)
    found.masks = dict(zip(subject.images.ids, reference_masks, strict=True))
    _add_alignment(found, features, subject, clip, fill, generated, own)
    _add_disentanglement(found, features, subject, clip, fill, generated, own, base)
    return found


def _reference_masks(subject: Subject, segmenter: Segmenter | None) -> list[Image.Image]:
    masks = []
    for index, mask in enumerate(subject.masks):
        if mask is None and segmenter is None:
            raise InputError(
                f"Expected a mask of {subject.images.ids[index]}, got none; add it as "
                "NAME_mask.png, or find masks with a segmentation model (--segment)."
            )
        if mask is None and segmenter is not None:
            (mask,) = segmenter([subject.images.image(index)], subject.noun)
        if mask is not None:
            masks.append(mask)
    return masks


def _encoded(
    subject: Subject, masks: Sequence[Image.Image], clip: Encoder, fill: Fill
) -> np.ndarray:
    pictures = []
    for index, mask in enumerate(masks):
        try:
            pictures.append(masked(subject.images.image(index), mask, fill))
        except InputError as error:
            raise InputError(f"{subject.images.ids[index]}: {error}") from error
    return encode_images(ImageSet.open(pictures), {"clip": clip}).features["clip"]


def _add_alignment(
    found: SidScores,
    features: np.ndarray,
    subject: Subject,
    clip: Encoder,
    fill: Fill,
    generated: Pictured,
    masks: Sequence[Image.Image] | None,
) -> None:
    """Adds SA, and SA of the masked generated images."""
    try:
        inside = _encoded(subject, list(found.masks.values()), clip, fill)
    except InputError as error:
        found.missing |= dict.fromkeys(("sa", "sa_masked"), str(error))
        return
    found.values["sa"] = likeness(features, inside)
    if masks is not None:
        rows, own = _masked_features(generated.images, masks, clip, fill)
        if len(rows) < len(masks):
            empty = len(masks) - len(rows)
            found.notes.append(f"The mask of the subject is empty in {empty} generated images.")
        found.values["sa_masked"] = _spread(len(masks), rows, own, likeness, inside)


def _add_disentanglement(
    found: SidScores,
    features: np.ndarray,
    subject: Subject,
    clip: Encoder,
    fill: Fill,
    generated: Pictured,
    masks: Sequence[Image.Image] | None,
    base: Pictured | None,
) -> None:
    """Adds NSD, NSD relative to the base, and NSD of what surrounds the subject."""
    try:
        outside = _encoded(subject, [inverted(m) for m in found.masks.values()], clip, fill)
    except InputError as error:
        found.missing |= dict.fromkeys(("nsd", "nsd_relative", "nsd_masked"), str(error))
        return
    asked = _asked_for(generated, subject)
    if asked.any():
        found.notes.append(
            f"{int(asked.sum())} images whose prompts ask for what the captions name beside the "
            "subject were left out of NSD."
        )
    nsd = np.where(asked, np.nan, disentanglement(features, outside))
    found.values["nsd"] = nsd
    if base is not None:
        _add_relative(found, nsd, generated, base, subject, clip, outside)
    if masks is not None:
        rows, own = _masked_features(
            generated.images, [inverted(mask) for mask in masks], clip, fill
        )
        values = _spread(len(masks), rows, own, disentanglement, outside)
        found.values["nsd_masked"] = np.where(asked, np.nan, values)


def _masked_features(
    images: ImageSet, masks: Sequence[Image.Image], clip: Encoder, fill: Fill
) -> tuple[list[int], np.ndarray | None]:
    """Returns the images whose masks keep something, and their features."""
    rows = [i for i, mask in enumerate(masks) if kept_pixels(mask).any()]
    if not rows:
        return rows, None
    pictures = [masked(images.image(i), masks[i], fill) for i in rows]
    return rows, encode_images(ImageSet.open(pictures), {"clip": clip}).features["clip"]


def _spread(
    count: int,
    rows: Sequence[int],
    features: np.ndarray | None,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    references: np.ndarray,
) -> np.ndarray:
    """Returns a value per image, NaN for those without features."""
    column = np.full(count, np.nan)
    if features is not None:
        column[list(rows)] = measure(features, references)
    return column


def _add_relative(
    found: SidScores,
    nsd: np.ndarray,
    generated: Pictured,
    base: Pictured,
    subject: Subject,
    clip: Encoder,
    outside: np.ndarray,
) -> None:
    encoded = encode_images(base.images, {"clip": clip})
    values = disentanglement(encoded.features["clip"], outside)
    by_prompt: dict[str | None, list[float]] = {}
    for row, value in zip(encoded.rows, values.tolist(), strict=True):
        by_prompt.setdefault(_key(base.prompts[row], subject), []).append(value)
    keys = [_key(prompt, subject) for prompt in generated.prompts]
    absent = sorted({str(key) for key in keys if key not in by_prompt})
    if absent:
        found.missing["nsd_relative"] = (
            f"the base has no images of {len(absent)} prompts (first: {absent[0]!r}); generate "
            "them without the identifier"
        )
        return
    found.values["nsd_relative"] = nsd - np.array([np.mean(by_prompt[key]) for key in keys])


def _key(prompt: str | None, subject: Subject) -> str | None:
    if prompt is None:
        return None
    return without_identifier(prompt, subject.identifier, [subject.noun]).casefold()


def _asked_for(generated: Pictured, subject: Subject) -> np.ndarray:
    """Returns whether each prompt names a thing that the captions name beside the subject."""
    things = _others(subject)
    return np.array(
        [
            prompt is not None and not things.isdisjoint(words(prompt))
            for prompt in generated.prompts
        ]
    )


def _others(subject: Subject) -> frozenset[str]:
    names: set[str] = set()
    for caption in subject.captions:
        try:
            checked = case_of(caption, subject.noun, subject.identifier)
        except InputError:
            continue
        names |= {thing.split()[-1].casefold() for thing in checked.others}
    return frozenset(names)
