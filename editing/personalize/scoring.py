"""The scores of generated images of a subject: features at the edge, measures on arrays.

The measures are defined in `editing.metrics.subject`. What cannot be computed, since weights, masks
or prompts are missing, is named with the reason; everything else is computed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from editing.metrics.masks import Fill, Segmenter
from editing.metrics.perceptual import Lpips
from editing.metrics.subject import (
    Estimate,
    copy_detection,
    estimate,
    likeness,
    real_likeness,
    same_prompt_pairs,
    text_alignment,
)
from editing.personalize.encoders import Encoded, Encoders, encode_images
from editing.personalize.pictured import Pictured, with_noun, without_identifier
from editing.personalize.sid_scores import NAMES, SidScores, sid_scores
from editing.personalize.subject import Subject
from visdiff.errors import InputError, MissingBackendError

TITLES: Mapping[str, str] = {
    "dino": "DINO", "dinov2": "DINOv2", "clip_i": "CLIP-I", "clip_t_vague": "CLIP-T, class noun",
    "clip_t_specific": "CLIP-T, specific noun", "sa": "SA", "nsd": "NSD",
    "nsd_relative": "NSD relative to the base", "ta": "TA", "sa_masked": "SA, both masked",
    "nsd_masked": "NSD, both masked", "pres": "PRES", "div": "DIV", "copies": "share of copies",
}  # fmt: skip
"""Measure → its name in tables, in order."""


def checked_measures(names: Iterable[str]) -> frozenset[str]:
    """Returns the names of measures as a set.

    Raises:
        InputError: There is none, or one is unknown.
    """
    wanted = frozenset(names)
    unknown = sorted(wanted - TITLES.keys())
    if unknown or not wanted:
        raise InputError(
            f"Expected measures of {', '.join(TITLES)}, got {', '.join(unknown) or 'none'}; "
            "correct the names."
        )
    return wanted


@dataclass(frozen=True)
class Tools:
    """What scores are computed with.

    Attributes:
        encoders: The encoders.
        segmenter: Finds the subject where masks are missing; None for none.
        lpips: Distance of DIV; None for 1 − cosine of the features of `Encoders.dino`, or of
            ``clip``.
        fill: What masked pixels become.
        missing: Measure → why it is not computed, from what could not be loaded.
        wanted: Measures to compute, of `TITLES`; see `checked_measures`.
    """

    encoders: Encoders
    segmenter: Segmenter | None = None
    lpips: Lpips | None = None
    fill: Fill = "black"
    missing: Mapping[str, str] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset(TITLES)

    @property
    def models(self) -> dict[str, str]:
        """Part → name of the model."""
        found = dict(self.encoders.names)
        if self.lpips is not None:
            found["div"] = self.lpips.name
        if self.segmenter is not None:
            found["masks"] = self.segmenter.name
        return found


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one subject.

    Attributes:
        measures: Measure → mean and interval, of those that were computed.
        missing: Measure → why it was not.
        real: "dino", "dinov2", "clip_i" → the same of real images against each other.
        per_image: One row per image: id, prompt and its values.
        copies: Image, nearest reference and likeness of each flagged copy.
        models: Part → name of the model.
        notes: Sentences about what was assumed or left out.
        unreadable: Image id → reason, of images that were left out.
        masks: Image id of a reference → its mask, where SA and NSD were computed.
    """

    measures: Mapping[str, Estimate]
    missing: Mapping[str, str]
    real: Mapping[str, float]
    per_image: pd.DataFrame
    copies: tuple[Mapping[str, Any], ...]
    models: Mapping[str, str]
    notes: tuple[str, ...]
    unreadable: Mapping[str, str]
    masks: Mapping[str, Image.Image]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the values per image and the masks as JSON values."""
        return {
            "measures": {name: _finite(asdict(e)) for name, e in self.measures.items()},
            "missing": dict(self.missing),
            "real": dict(self.real),
            "copies": [dict(c) for c in self.copies],
            "models": dict(self.models),
            "notes": list(self.notes),
            "unreadable": dict(self.unreadable),
        }


def score(
    generated: Pictured,
    subject: Subject,
    tools: Tools,
    rng: np.random.Generator,
    *,
    vague: str | None = None,
    specific: str | None = None,
    base: Pictured | None = None,
    class_images: Pictured | None = None,
    generated_masks: Sequence[Image.Image] | None = None,
) -> Scores:
    """Scores generated images of a subject.

    Images whose prompt lacks the identifier, where others have it, are images of the class: they
    count for PRES alone.

    Args:
        generated: The images by the personalised model, or by any other tool.
        subject: The real images, with masks where the user has them.
        tools: Encoders and other models.
        rng: Generator for the bootstrap intervals over prompts.
        vague: The vague noun for CLIP-T ("stuffed animal"); None for the subject's class noun.
        specific: The specific one ("bear plushie"); None for the vague one.
        base: Images by the base model of the same prompts with the class noun alone.
        class_images: Images of "a [class noun]" by the personalised model, for PRES.
        generated_masks: Masks of the subject in all images of `generated`, for the masked variants
            of SA and NSD; None to find them with the segmenter.

    Raises:
        InputError: No image can be read.
    """
    own, of_class = generated.split(subject.identifier)
    if of_class is not None and generated_masks is not None:
        kept = set(own.images.ids)
        generated_masks = [
            mask
            for name, mask in zip(generated.images.ids, generated_masks, strict=True)
            if name in kept
        ]
    if class_images is not None:
        of_class = class_images
    book = _Book(own, subject, tools, rng)
    book.likenesses()
    wanted = tools.wanted
    if wanted & {"clip_t_vague", "clip_t_specific", "ta"}:
        book.texts(vague or subject.noun, specific)
    if "pres" in wanted:
        book.class_likeness(of_class)
    if "div" in wanted:
        book.diversity()
    if not wanted.isdisjoint(NAMES):
        book.sid(base, generated_masks)
    return book.scores()


class _Book:
    """The values of one subject as they are computed, and what is missing."""

    def __init__(
        self, own: Pictured, subject: Subject, tools: Tools, rng: np.random.Generator
    ) -> None:
        self._subject, self._tools, self._rng = subject, tools, rng
        encoders = tools.encoders.present
        if not encoders:
            raise InputError(
                "Expected weights of one encoder at least, got none: "
                f"{next(iter(tools.encoders.missing.values()), 'no encoder was chosen')}"
            )
        self._real: Encoded = encode_images(subject.images, encoders)
        self._own: Encoded = encode_images(own.images, encoders)
        self._pictured = own.subset(self._own.rows)
        self._clusters = [
            prompt if prompt is not None else f"folder {Path(name).parent}"
            for name, prompt in zip(self._pictured.images.ids, self._pictured.prompts, strict=True)
        ]
        self._columns: dict[str, np.ndarray] = {}
        self._measures: dict[str, Estimate] = {}
        self._missing: dict[str, str] = dict(tools.missing)
        self._real_likeness: dict[str, float] = {}
        self._copies: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._unreadable = {**self._real.unreadable, **self._own.unreadable}
        self._masks: dict[str, Image.Image] = {}

    def likenesses(self) -> None:
        """DINO, DINOv2 and CLIP-I, with real images against each other, and copies."""
        for role, name in (("dino", "dino"), ("dinov2", "dinov2"), ("clip", "clip_i")):
            if role not in self._real.features:
                self._missing[name] = self._tools.encoders.missing.get(
                    role, f"{TITLES[name]}'s encoder was not chosen (--encoder)"
                )
                continue
            real, own = self._real.features[role], self._own.features[role]
            self._add(name, likeness(own, real))
            if len(real) > 1:
                self._real_likeness[name] = real_likeness(real)
        self._attempt("copies", self._find_copies)

    def texts(self, vague: str, specific: str | None) -> None:
        """CLIP-T with both nouns, and TA."""
        nouns = list(dict.fromkeys([vague, specific or vague, self._subject.noun]))
        names = ("clip_t_vague", "clip_t_specific", "ta")
        clip = self._tools.encoders.clip
        known = [p for p in self._pictured.prompts if p is not None]
        if clip is None or len(known) < len(self._pictured):
            reason = self._tools.encoders.missing.get("clip", "no CLIP encoder was chosen")
            if clip is not None:
                reason = (
                    f"the prompts of {len(self._pictured) - len(known)} images are unknown; give a "
                    "manifest with the column prompt, or --prompts"
                )
            self._missing |= dict.fromkeys(names, reason)
            return
        bare = [without_identifier(p, self._subject.identifier, nouns) for p in known]
        foreign = [p for p in bare if with_noun(p, nouns, nouns[0]) is None]
        if foreign:
            self._notes.append(
                f"{len(foreign)} prompts name none of {', '.join(nouns)} (first: {foreign[0]!r}); "
                "CLIP-T uses them as they are."
            )
        if specific is None:
            self._notes.append(f"No specific noun was given: CLIP-T is of {vague!r} in both rows.")
        lists = [[with_noun(p, nouns, n) or p for p in bare] for n in (vague, specific or vague)]
        for name, lines in zip(names, (*lists, bare), strict=True):
            self._attempt(name, lambda lines=lines: self._aligned(clip, lines))

    def class_likeness(self, of_class: Pictured | None) -> None:
        """PRES."""
        if "dino" not in self._real.features:
            self._missing["pres"] = self._tools.encoders.missing.get(
                "dino", "no DINO encoder was chosen"
            )
            return
        if of_class is None:
            self._missing["pres"] = (
                "there are no images of the class noun alone; generate some and give them "
                "(--class-images)"
            )
            return
        try:
            found = encode_images(of_class.images, {"dino": self._tools.encoders.present["dino"]})
        except InputError as error:
            self._missing["pres"] = str(error)
            return
        self._unreadable |= found.unreadable
        values = likeness(found.features["dino"], self._real.features["dino"])
        clusters = [of_class.prompts[i] or "" for i in found.rows]
        self._measures["pres"] = estimate(values, clusters, self._rng)

    def diversity(self) -> None:
        """DIV."""
        if "div" in self._missing:
            return
        pairs = same_prompt_pairs(self._clusters)
        if not len(pairs):
            self._missing["div"] = "no prompt has two images; generate more seeds of each"
            return
        if self._tools.lpips is not None:
            images = self._pictured.images
            distances = self._tools.lpips(
                (images.image(int(i)) for i in pairs[:, 0]),
                (images.image(int(j)) for j in pairs[:, 1]),
            )
        else:
            role = self._like
            own = self._own.features[role].astype(np.float64)
            distances = 1 - (own[pairs[:, 0]] * own[pairs[:, 1]]).sum(axis=1)
            self._notes.append(
                f"DIV is 1 − cosine of {self._tools.encoders.names[role]}, not LPIPS."
            )
        clusters = [self._clusters[i] for i in pairs[:, 0]]
        self._measures["div"] = estimate(distances, clusters, self._rng)

    def sid(self, base: Pictured | None, masks: Sequence[Image.Image] | None) -> None:
        """SA and NSD, NSD relative to the base, and the masked variants."""
        clip = self._tools.encoders.clip
        if clip is None:
            reason = self._tools.encoders.missing.get("clip", "no CLIP encoder was chosen")
            self._missing |= dict.fromkeys(NAMES, reason)
            return
        found: SidScores = sid_scores(
            self._pictured,
            self._own.features["clip"],
            self._subject,
            clip,
            base=base,
            segmenter=self._tools.segmenter,
            fill=self._tools.fill,
            masks=None if masks is None else [masks[i] for i in self._own.rows],
        )
        for name, values in found.values.items():
            self._add(name, values)
        self._missing |= found.missing
        self._notes += found.notes
        self._masks |= found.masks

    def scores(self) -> Scores:
        """Returns what was computed."""
        wanted = [name for name in TITLES if name in self._tools.wanted]
        table = {"id": list(self._pictured.images.ids), "prompt": list(self._pictured.prompts)}
        return Scores(
            measures={n: self._measures[n] for n in wanted if n in self._measures},
            missing={n: self._missing[n] for n in wanted if n in self._missing},
            real=self._real_likeness,
            per_image=pd.DataFrame(table | self._columns),
            copies=tuple(self._copies),
            models=self._tools.models,
            notes=tuple(self._notes),
            unreadable=self._unreadable,
            masks=self._masks,
        )

    @property
    def _like(self) -> str:
        """The encoder that compares images with images: DINO if it is there."""
        return next(r for r in ("dino", "dinov2", "clip") if r in self._real.features)

    def _find_copies(self) -> np.ndarray:
        role = self._like
        found = copy_detection(self._own.features[role], self._real.features[role])
        names = [self._subject.images.ids[i] for i in self._real.rows]
        self._copies = [
            {
                "image": self._pictured.images.ids[i],
                "reference": names[found.nearest[i]],
                "likeness": float(found.likeness[i]),
                "threshold": found.threshold,
            }
            for i in np.flatnonzero(found.flags)
        ]
        return found.flags.astype(np.float64)

    def _aligned(self, clip: Any, lines: Sequence[str]) -> np.ndarray:
        distinct = list(dict.fromkeys(lines))
        vectors = clip.encode_texts(distinct)
        rows = vectors[[distinct.index(line) for line in lines]]
        return text_alignment(self._own.features["clip"], rows)

    def _attempt(self, name: str, compute: Callable[[], np.ndarray]) -> None:
        try:
            self._add(name, compute())
        except (InputError, MissingBackendError) as error:
            self._missing[name] = str(error)

    def _add(self, name: str, values: np.ndarray) -> None:
        """Adds a value per image; NaN leaves an image out of this measure."""
        known = np.isfinite(values)
        if not known.any():
            self._missing[name] = "no image has a value"
            return
        clusters = [c for c, keep in zip(self._clusters, known, strict=True) if keep]
        self._columns[name] = values
        self._measures[name] = estimate(values[known], clusters, self._rng)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {n: None if isinstance(v, float) and not np.isfinite(v) else v
            for n, v in values.items()}  # fmt: skip
