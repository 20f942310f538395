"""The audit of taught subjects: images and captions in, tested and ranked faults out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from editing.audits.personalized.advice import advise
from editing.audits.personalized.attributes import KINDS, attributes
from editing.audits.personalized.checkpoints import Checkpoint, pareto, recommend
from editing.audits.personalized.drawn import Drawn, find_drawn
from editing.audits.personalized.entanglement import caption_notes, entanglement
from editing.audits.personalized.findings import Candidate, conclude
from editing.audits.personalized.measures import (
    Measured,
    Recognised,
    alike,
    copies_candidate,
    diversity,
    drift_candidate,
    followed_candidate,
    leak_candidate,
    recognised,
)
from editing.audits.personalized.result import SubjectAudit
from editing.audits.personalized.taught import NO_REFERENCES, Taught
from editing.metrics.features import ImageEncoder, image_features
from editing.metrics.image_encoders import ImageFeatures
from editing.metrics.subject import real_likeness
from editing.requests import Request
from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.encoders.zero_shot import nearest_text
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet

NEED_REFERENCES = ("likeness", "language drift", "copies", *KINDS)
"""Parts that cannot be measured without references."""


def audit_subjects(
    requests: Sequence[Request],
    original: ImageSet,
    edited: ImageSet,
    taught: Mapping[str, Taught],
    models: Backends,
    config: Config,
) -> tuple[SubjectAudit, ...]:
    """Audits every subject that an edit teaches.

    Args:
        requests: The requests of the edit; those without a class noun are skipped.
        original: Images of the untaught model.
        edited: Images of the taught model, in the same order.
        taught: Concept of a request → what is at hand.
        models: Models of the comparison: the captioner reads attributes, the ranker's encoder
            reads places and styles.
        config: The configuration; its seed and its false discovery rate are used.
    """
    learnt = [r for r in requests if r.noun]
    if not learnt:
        return ()
    features = _Features.of(models)
    drafts = []
    for request in learnt:
        draft = _Draft(request, taught.get(request.concept, Taught()), models, features, config)
        draft.measure(original, edited)
        drafts.append(draft)
    found = conclude([d.candidates for d in drafts], config.statistics.alpha)
    return tuple(d.finished(own) for d, own in zip(drafts, found, strict=True))


@dataclass(frozen=True)
class _Features:
    """The encoder that compares images with images: DINO, or the ranker's without its weights."""

    models: Backends
    encoder: ImageEncoder | None
    note: str

    @classmethod
    def of(cls, models: Backends) -> "_Features":
        ranker: Any = models.ranker.encoder
        name = "miniature" if getattr(ranker, "model", None) == "miniature" else "dino"
        encoder = ImageFeatures(name, _device(getattr(ranker, "device", "auto")))
        try:
            encoder.prepare(Image.new("RGB", (64, 64)))
        except MissingBackendError as error:
            note = f"Likeness is by the ranker's encoder, since DINO is not available: {error}"
            return cls(models, None, note)
        return cls(models, encoder, f"Likeness is the cosine of {encoder.name}.")

    def __call__(self, images: ImageSet) -> np.ndarray:
        if self.encoder is not None:
            return image_features(self.encoder, images)
        found = self.models.ranker.features(images)
        if found is None:
            raise InputError(
                "Expected an image encoder, got none: DINO's weights are not available and the "
                "ranker has no image features; use the ranker clip."
            )
        return found


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class _Draft:
    """The parts of one subject's audit as they are measured."""

    request: Request
    taught: Taught
    models: Backends
    features: _Features
    config: Config
    candidates: list[Candidate] = field(default_factory=list)
    measures: list[Measured] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shown: Recognised | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.missing |= self.taught.missing
        self.rng = np.random.default_rng(self.config.seed)

    def measure(self, original: ImageSet, edited: ImageSet) -> None:
        """Measures every part; what cannot be measured is named in ``missing``."""
        self._attempt(("checkpoints",), self._checkpoints)
        if (leak := self.taught.leak) is not None:
            measured, candidate = leak_candidate(leak.taught, leak.untaught, self.rng)
            self.measures.append(measured)
            self.candidates.append(candidate)
        try:
            drawn = find_drawn(original, edited, self.request)
        except InputError as error:
            parts = (*NEED_REFERENCES, "diversity", "prompts followed")
            self.missing |= dict.fromkeys(parts, str(error))
            return
        self._attempt(("diversity",), lambda: self._diversity(drawn))
        self._attempt(("prompts followed",), lambda: self._followed(drawn))
        if self.taught.references is None:
            self.missing |= dict.fromkeys(NEED_REFERENCES, NO_REFERENCES)
        else:
            references = self.taught.references.images
            likenesses = ("likeness", "language drift", "copies")
            self._attempt(likenesses, lambda: self._likeness(drawn, references))
            self._attempt(KINDS, lambda: self._entanglement(drawn, references))

    def finished(self, findings: Any) -> SubjectAudit:
        """Returns the audit with its tested findings."""
        recommended = recommend(self.checkpoints)
        shown = None if self.shown is None else self.shown.after.value >= 0.5
        confirmed = [f for f in findings if f.confirmed]
        notes = [
            self.features.note,
            "DIV is 1 − cosine, not LPIPS.",
            *self.taught.notes,
            *self.notes,
        ]
        if self.taught.leak is not None and self.taught.leak.left_out:
            notes.append(f"No subject was found in {self.taught.leak.left_out} images of the leak.")
        return SubjectAudit(
            self.request,
            self.shown,
            tuple(self.measures),
            tuple(findings),
            tuple(self.checkpoints),
            recommended,
            advise(self.request, confirmed, recommended, self.taught.origin, shown),
            dict(self.missing),
            tuple(notes),
        )

    def _attempt(self, parts: Sequence[str], compute: Callable[[], None]) -> None:
        try:
            compute()
        except (InputError, MissingBackendError) as error:
            for part in parts:
                self.missing.setdefault(part, str(error))

    def _likeness(self, drawn: Drawn, references: ImageSet) -> None:
        real, taught, untaught = map(self.features, (references, drawn.taught, drawn.untaught))
        of_class = self.features(drawn.class_untaught)
        self.shown = recognised(taught, self.features(drawn.original), of_class, real)
        self.measures.append(alike("likeness", taught, untaught, real, drawn.prompts, self.rng))
        prompts = drawn.class_untaught.frame["prompt"].astype(str).tolist()
        measured, candidate = drift_candidate(
            self.features(drawn.class_taught), of_class, real, self.request.noun, prompts, self.rng
        )
        self.measures.append(measured)
        self.candidates.append(candidate)
        self._attempt(("copies",), lambda: self._copies(taught, untaught, real))

    def _checkpoints(self) -> None:
        if (references := self.taught.references) is None or not (steps := self.taught.steps):
            return
        real = self.features(references.images)
        self.checkpoints = pareto(
            [s.step for s in steps],
            [self.features(s.subject) for s in steps],
            [self.features(s.of_class) for s in steps],
            real,
            real_likeness(real) if len(real) > 1 else 1.0,
        )

    def _copies(self, taught: np.ndarray, untaught: np.ndarray, real: np.ndarray) -> None:
        self.candidates.append(copies_candidate(taught, untaught, real, self.rng))

    def _diversity(self, drawn: Drawn) -> None:
        taught, untaught = self.features(drawn.taught), self.features(drawn.untaught)
        self.measures.append(diversity(taught, untaught, drawn.prompts, self.rng))

    def _entanglement(self, drawn: Drawn, references: ImageSet) -> None:
        read = self.models.captioner.captions
        real, taught, untaught = (
            read(images).values for images in (references, drawn.taught, drawn.untaught)
        )
        self.notes += caption_notes(real, taught, untaught)
        candidates, missing = entanglement(
            real, taught, untaught, drawn.prompts, self.request.noun, self.rng
        )
        self.candidates += candidates
        self.missing |= missing

    def _followed(self, drawn: Drawn) -> None:
        """Tests whether the place and the style that prompts name are still drawn."""
        encoder = self.models.ranker.encoder
        taught = self.models.ranker.features(drawn.taught)
        untaught = self.models.ranker.features(drawn.untaught)
        if encoder is None or taught is None or untaught is None:
            raise InputError(
                "Expected a ranker with an encoder of images and texts, got one without; use the "
                "ranker clip."
            )
        tested = 0
        for kind, name in (("background", "place"), ("style", "style")):
            rows = [
                i for i, prompt in enumerate(drawn.prompts)
                if any(a.kind == kind for a in attributes(prompt, self.request.noun))
            ]  # fmt: skip
            asked = list(dict.fromkeys(drawn.prompts[i] for i in rows))
            if len(asked) < 2:
                continue
            texts = encoder.encode_texts(asked)
            wanted = np.array([asked.index(drawn.prompts[i]) for i in rows])
            after, before = (nearest_text(f[rows], texts) == wanted for f in (taught, untaught))
            self.candidates.append(followed_candidate(name, after, before, self.rng))
            tested += 1
        if not tested:
            raise InputError(
                "Expected prompts of the subject that name two places or two styles, got none; "
                "use the prompts of editing.audits.prompt_groups."
            )
