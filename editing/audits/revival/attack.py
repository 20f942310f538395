"""The attack: learns a new word for an erased concept, and draws with it after more and more steps.

Pictures of the concept are drawn by the original model. The token stands alone ("a <revived>") and
starts from a neutral word, so that neither the prompts nor the start contain the erased name.

The control has to be unknown to the model and otherwise as hard as the concept. Pictures of
another, unknown thing differ in more than that, and need a classifier of their own. The control is
therefore the concept upside down: the same pictures, flipped, are taught to the original model, and
what it draws is flipped back before it is classified. Pictures, classifier and level are the same;
the model's knowledge alone is missing. The original model is used, so that an edit that damages the
whole model does not slow down its own control. A model trained without the concept would be the
better control, and is seldom at hand. A thing that looks alike upside down is no control: a note
has the number of flipped pictures that are recognised.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from editing.audits.revival.config import Point, RevivalConfig
from editing.audits.revival.curves import Comparison, Curve, Revival, compare, count_text
from editing.edit import Edit
from editing.generate import generate
from editing.generate.phrases import own_seed, phrase
from editing.generate.prompts import Sample
from editing.metrics.classifiers import Classifier
from editing.metrics.proportions import proportion
from editing.personalize.subject import Subject
from editing.personalize.textual_inversion import TEXTUAL_INVERSION
from editing.personalize.trained import TokenRows
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import draw
from editing.pipelines.weights import weight_hash
from editing.requests import Request, changes_of
from visdiff.errors import InputError
from visdiff.files import explained, write_whole
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet
from visdiff.report.images import PIXELATED_UP_TO, SIDE

TOKEN = "<revived>"
_PROMPT = f"a {TOKEN}"

_LEVEL = 0.5
"""Share of the original model's own success at which a concept counts as back."""

_SHOWN = 6
"""Images in a strip of the report."""

_QUALITY = 82


def revive(
    base: Any,
    edited: Any,
    folder: str | Path,
    classifier: Classifier,
    *,
    requests: Sequence[Request] | None = None,
    scale: float = 1.0,
    config: RevivalConfig | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> tuple[Revival, ...]:
    """Tests whether erased concepts can be learnt anew faster than a concept that is unknown.

    Args:
        base: The original model, as `editing.pipelines.loading.load_pipeline` accepts.
        edited: The edit, or the complete edited model as a pipeline.
        folder: Folder of all images and checkpoints. What it holds is used again, so that an
            interrupted attack continues, and the original model is attacked once for several edits.
        classifier: Labels images; an image shows the concept if its label is the concept's name.
        requests: The requests of the edit; None for those that the edit itself names.
        scale: Strength of the edit.
        config: Settings of the attack.
        on_point: Called after the images of each number of steps.

    Returns:
        One result for each request that removes a concept, in order.

    Raises:
        InputError: No request removes a concept, the pipeline has no CLIP text encoder, or the
            folder cannot be written to.
    """
    config = config or RevivalConfig()
    pipe = load_pipeline(base)
    if isinstance(edited, Edit):
        edited.check_base(pipe)
        own, applied = edited.requests, lambda: edited.applied(pipe, scale, force=True)
        other = pipe
    else:
        own, applied, other = (), nullcontext, load_pipeline(edited)
    concepts = erased_concepts(own if requests is None else requests)
    if not concepts:
        raise InputError(
            "Expected a request that removes a concept, got none; revival is a test of erasures."
        )
    original = _State("original", pipe, nullcontext)
    changed = _State("edited", other, applied)
    attack = _Attack(original, changed, Path(folder), classifier, config, on_point, len(concepts))
    return tuple(attack.revival(concept) for concept in concepts)


def erased_concepts(requests: Sequence[Request]) -> list[str]:
    """Returns the concepts that requests remove: those that a revival can be tried on."""
    return [r.concept for r in changes_of(requests) if r.removes]


class _State:
    """A pipeline, edited or not.

    Attributes:
        name: "original" or "edited".
        pipe: The pipeline.
        applied: Returns a context in which the pipeline is in this state.
        weights: Hash of its weights in this state.
    """

    def __init__(
        self, name: str, pipe: Any, applied: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self.name, self.pipe, self.applied = name, pipe, applied
        with applied():
            self.weights = weight_hash(pipe)


class _Attack:
    """The measurements of an attack, each in a file of its own."""

    def __init__(
        self,
        original: _State,
        edited: _State,
        folder: Path,
        classifier: Classifier,
        config: RevivalConfig,
        on_point: Callable[[Point], None] | None,
        concepts: int,
    ) -> None:
        self._original, self._edited = original, edited
        self._folder, self._classifier, self._config = folder, classifier, config
        self._report: Callable[[Point], None] = on_point or (lambda point: None)
        curves = 3 * (1 + len(config.pictures) * len(config.steps))
        self._done, self._total = 0, concepts * (curves + 2)

    def revival(self, concept: str) -> Revival:
        """Measures all curves of one concept."""
        config, notes = self._config, list[str]()
        pictures, lost = self._pictures(concept)
        notes += lost
        flipped = [ImageOps.flip(image) for image in pictures]
        counts = [n for n in config.pictures if n <= len(pictures)]
        if len(counts) < len(config.pictures):
            notes.append(
                f"The classifier recognises {len(pictures)} of "
                f"{config.spare_pictures} pictures of {concept!r} by the original model, "
                "so larger numbers of pictures were left out."
            )
        alike = self._labels(flipped).count(concept) if flipped else 0
        if alike:
            notes.append(
                f"{alike} of {len(flipped)} pictures of {concept!r} are recognised upside down "
                "too, so the control is partly known to the model."
            )
        name = phrase(concept)
        named = {s.name: self._by_name(s, concept, name) for s in (self._original, self._edited)}
        flags = {n: np.array(self._recognised(strip, concept)) for n, strip in named.items()}
        by_name = {n: proportion(values) for n, values in flags.items()}
        for state in (self._original, self._edited):
            self._advance(concept, state.name, 0, 0, int(flags[state.name].sum()))
        level = _LEVEL * by_name["original"].value
        strips = {
            f"{name}, original model": thumbnail_strip(named["original"]),
            f"{name}, edited model": thumbnail_strip(named["edited"]),
        }
        comparisons: list[Comparison] = []
        if level == 0:
            notes.append(f"The original model's images of {name!r} are not recognised as it.")
            counts = []
        rng = np.random.default_rng([config.seed, own_seed(concept)])
        for count in counts:
            curves = {
                "original": self._curve(self._original, "original", concept, pictures[:count]),
                "edited": self._curve(self._edited, "edited", concept, pictures[:count]),
                "unknown": self._curve(self._original, "unknown", concept, flipped[:count]),
            }
            comparisons.append(
                compare(count, **{n: c for n, (c, _) in curves.items()}, level=level, rng=rng)
            )
            learnt = f"{count_text(count, 'picture')}, {config.steps[-1]} steps"
            for model, label in (("edited", "edited model"), ("unknown", "unknown concept")):
                strips[f"{label}, learnt from {learnt}"] = thumbnail_strip(curves[model][1])
        return Revival(concept, by_name, tuple(comparisons), tuple(notes), strips)

    def _pictures(self, concept: str) -> tuple[list[Image.Image], Sequence[str]]:
        """Returns pictures by the original model that show the concept, and notes on lost ones.

        They are fewer if it draws fewer.
        """
        config, prompt = self._config, phrase(concept)
        first = config.seed + own_seed(prompt)
        samples = [Sample(prompt, first + i) for i in range(config.spare_pictures)]
        generated = generate(
            self._original.pipe,
            samples,
            self._folder / "pictures",
            settings=config.sampling,
            batch_size=config.batch_size,
        )
        images: ImageSet = generated.images()
        drawn = [images.image(i) for i in range(len(images))]
        labels = self._labels(drawn)
        found = [image for image, label in zip(drawn, labels, strict=True) if label == concept]
        return found[: config.pictures[-1]], generated.warnings

    def _curve(
        self, state: _State, model: str, concept: str, pictures: Sequence[Image.Image]
    ) -> tuple[Curve, np.ndarray]:
        """Returns the curve of a state of the model, and its images after the last step."""
        upside_down = model == "unknown"
        recognised: list[tuple[bool, ...]] = []
        strip = np.empty(0)
        for step, strip in self._strips(state, concept, pictures):
            flags = self._recognised(strip[:, ::-1] if upside_down else strip, concept)
            recognised.append(flags)
            if step or len(pictures) == self._config.pictures[0]:
                self._advance(concept, model, len(pictures) * bool(step), step, sum(flags))
        return Curve((0, *self._config.steps), tuple(recognised)), strip

    def _strips(
        self, state: _State, concept: str, pictures: Sequence[Image.Image]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the steps and the images after them, from the folder where it has them."""
        config = self._config
        templates = TEXTUAL_INVERSION.configure(state.pipe, config.training).templates
        subject = _subject(pictures, config.start, templates)
        about = {
            "images": self._about_images(state, concept),
            "subject": subject.digest,
            "start": config.start,
            "training": dict(config.training),
            "seed": config.seed,
        }
        # With other steps, a checkpoint may be further than the next images to draw.
        checkpoint = self._file({**about, "steps": config.steps}, ".safetensors")
        start = {"images": about["images"], "start": config.start}
        yield 0, self._kept(self._file(start), lambda: self._draw_start(state, concept))
        for step in config.steps:
            file = self._file({**about, "step": step})
            # A checkpoint cannot go back: of an image that was deleted, training starts again.
            ahead = any(
                self._file({**about, "step": later}).is_file()
                for later in config.steps
                if later > step
            )

            def measured(step: int = step, ahead: bool = ahead) -> np.ndarray:
                with state.applied():
                    edit = TEXTUAL_INVERSION.fit(
                        state.pipe,
                        subject,
                        checkpoint=None if ahead else checkpoint,
                        **{"seed": config.seed, "initializer": config.start, **config.training},
                        steps=step,
                    )
                    with edit.applied(state.pipe, force=True):
                        return self._draw(state, _PROMPT, concept)

            yield step, self._kept(file, measured)

    def _by_name(self, state: _State, concept: str, name: str) -> np.ndarray:
        about = {"images": self._about_images(state, concept), "prompt": name}

        def drawn() -> np.ndarray:
            with state.applied():
                return self._draw(state, name, concept)

        return self._kept(self._file(about), drawn)

    def _draw_start(self, state: _State, concept: str) -> np.ndarray:
        with state.applied():
            rows = TokenRows(state.pipe, {TOKEN: self._config.start})
            with rows.installed():
                return self._draw(state, _PROMPT, concept)

    def _draw(self, state: _State, prompt: str, concept: str) -> np.ndarray:
        """Returns images, uint8 (n, height, width, 3); seed i is the same for all prompts."""
        config = self._config
        return draw(
            state.pipe,
            [prompt] * config.images,
            self._seeds(concept),
            settings=config.sampling,
            batch_size=config.batch_size,
        )

    def _seeds(self, concept: str) -> list[int]:
        first = self._config.seed + own_seed(f"{concept}, revived")
        return list(range(first, first + self._config.images))

    def _about_images(self, state: _State, concept: str) -> dict[str, Any]:
        return {
            "model": state.weights,
            "seeds": self._seeds(concept),
            "sampling": asdict(self._config.sampling),
        }

    def _file(self, about: Mapping[str, Any], suffix: str = ".png") -> Path:
        return self._folder / f"{digest_bytes(canonical_json(dict(about)).encode())[:20]}{suffix}"

    def _kept(self, file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the images of a file, side by side in it; makes and writes them if missing."""
        if not file.is_file():
            images = make()
            with explained("a folder to write the images of the revival to", file):
                write_whole(file, _png(images))
        with explained("an image of the revival", file, "delete it to draw it again"):
            pixels = np.asarray(Image.open(file).convert("RGB"))
        return np.stack(np.split(pixels, self._config.images, axis=1))

    def _labels(self, images: Sequence[Image.Image]) -> list[str]:
        return list(self._classifier(images)) if images else []

    def _recognised(self, images: np.ndarray, concept: str) -> tuple[bool, ...]:
        rows = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
        return tuple(label == concept for label in self._labels(rows))

    def _advance(self, concept: str, model: str, pictures: int, step: int, shown: int) -> None:
        self._done += 1
        self._report(Point(self._done, self._total, concept, model, pictures, step, shown))


def _subject(pictures: Sequence[Image.Image], noun: str, templates: Sequence[str]) -> Subject:
    """Returns the pictures with captions in which the token stands alone."""
    captions = [templates[i % len(templates)] for i in range(len(pictures))]
    subject = Subject.open(list(pictures), TOKEN, noun)
    return subject.with_captions([c.replace("{}", _PROMPT) for c in captions])


def thumbnail_strip(images: np.ndarray) -> bytes:
    """Returns the first images side by side, as small as the other thumbnails of a report."""
    shown = [Image.fromarray(image) for image in images[:_SHOWN]]
    for image in shown:
        image.thumbnail((SIDE, SIDE))
    joined = Image.fromarray(np.concatenate([np.asarray(image) for image in shown], axis=1))
    buffer = BytesIO()
    if max(shown[0].size) <= PIXELATED_UP_TO:
        joined.save(buffer, "PNG", optimize=True)
    else:
        joined.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _png(images: np.ndarray) -> bytes:
    """Returns images, uint8 (n, height, width, 3), side by side as one PNG."""
    buffer = BytesIO()
    Image.fromarray(np.concatenate(list(images), axis=1)).save(buffer, "PNG")
    return buffer.getvalue()
