"""SID's measures from images and masks: SA, NSD, and the variants that mask both sides.

Kim et al. 2024, arXiv:2403.15330, section 6. The formulas are in `editing.metrics.subject`.
"""

from collections.abc import Sequence
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

Values = dict[str, np.ndarray]


@dataclass
class SidScores:
    """Values per generated image, NaN for those that a measure leaves out.

    Attributes:
        values: "sa", "nsd", "nsd_relative", "sa_masked", "nsd_masked" → (m,).
        missing: Measure → why it was not computed.
        notes: Sentences about what was left out.
        masks: Image id of a reference → its mask.
    """

    values: Values = field(default_factory=dict)
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
    try:
        reference_masks = _reference_masks(subject, segmenter)
        inside = _encoded(subject, reference_masks, clip, fill)
        outside = _encoded(subject, [inverted(m) for m in reference_masks], clip, fill)
    except (InputError, MissingBackendError) as error:
        names = ["sa", "nsd", *(["nsd_relative"] if base is not None else [])]
        found.missing |= dict.fromkeys(names, str(error))
        return found
    found.masks = dict(zip(subject.images.ids, reference_masks, strict=True))
    found.values["sa"] = likeness(features, inside)
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
    own = masks
    if own is None and segmenter is not None:
        own = [segmenter([image], subject.noun)[0] for image in generated.images]
    if own is not None:
        found.values |= _both_masked(generated.images, own, clip, fill, inside, outside, asked)
        lost = int(np.isnan(found.values["sa_masked"]).sum())
        if lost:
            found.notes.append(f"The mask of the subject is empty in {lost} generated images.")
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


def _both_masked(
    images: ImageSet,
    masks: Sequence[Image.Image],
    clip: Encoder,
    fill: Fill,
    inside: np.ndarray,
    outside: np.ndarray,
    asked: np.ndarray,
) -> Values:
    """SA and NSD with the generated images masked as the references are."""
    values: Values = {}
    for name, references, flip in (("sa_masked", inside, False), ("nsd_masked", outside, True)):
        column = np.full(len(images), np.nan)
        used = [inverted(mask) if flip else mask for mask in masks]
        rows = [i for i, mask in enumerate(used) if kept_pixels(mask).any()]
        if rows:
            pictures = [masked(images.image(i), used[i], fill) for i in rows]
            own = encode_images(ImageSet.open(pictures), {"clip": clip}).features["clip"]
            measure = disentanglement if flip else likeness
            column[rows] = measure(own, references)
        values[name] = np.where(asked, np.nan, column) if flip else column
    return values


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
            prompt is not None and not things.isdisjoint(prompt.casefold().split())
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
