"""Priors: what keeps the class while the subject is learnt.

- ``none``: nothing does. What "a dog" means drifts towards the subject.
- ``prompt``: images that the model itself draws for one prompt, "a dog" (DreamBooth,
  arXiv:2208.12242).
- ``structured``: images for many prompts of one grammar (He et al., arXiv:2311.04315); see
  `editing.personalize.regularization`.
- ``teacher``: the frozen model's prediction for the class prompt, on the same noised image of the
  subject. It needs no images and no memory for them; ai-toolkit and OneTrainer have it.
- a folder or manifest: your own images of the class, with their captions.

Class images are drawn by `editing.generate`: an interrupted run continues, and subjects of one noun
share a folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from editing.generate import Progress, generate
from editing.generate.phrases import own_seed, with_article
from editing.generate.prompts import Sample
from editing.personalize.captions import has_identifier
from editing.personalize.data import Caption, Pictures, fixed_caption
from editing.personalize.reference_images import open_images
from editing.personalize.regularization import ClassPrompt, Pools, background_of, class_prompts
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.subject import Subject
from editing.pipelines.weights import weight_hash
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet


@dataclass(frozen=True, eq=False)
class ClassImages:
    """What a prior trains on besides the subject.

    Attributes:
        pictures: Images of the class; None for priors without images.
        from_teacher: Whether the frozen model gives the target, on the subject's own images.
        crops: Whether images are cropped at random unless the settings state otherwise.
        identity: What determines the images and captions, for checkpoints.
        notes: Sentences about what was left out; show them to the user.
    """

    pictures: Pictures | None = None
    from_teacher: bool = False
    crops: bool = False
    identity: str = ""
    notes: tuple[str, ...] = field(default=())


Prior = Callable[
    [Any, Subject, PersonalizeConfig, Path, Callable[[Progress], None] | None], ClassImages
]
"""(Pipeline, subject, settings, folder of class images, progress) → what it trains on."""


def no_prior(
    pipe: Any, subject: Subject, config: PersonalizeConfig, folder: Path, on_batch: Any
) -> ClassImages:
    """Returns nothing to train on."""
    return ClassImages()


def teacher(
    pipe: Any, subject: Subject, config: PersonalizeConfig, folder: Path, on_batch: Any
) -> ClassImages:
    """Returns the frozen model as teacher."""
    return ClassImages(from_teacher=True)


def one_prompt(
    pipe: Any, subject: Subject, config: PersonalizeConfig, folder: Path, on_batch: Any
) -> ClassImages:
    """Returns images of "a [noun]"."""
    text = with_article(subject.noun)
    samples = [Sample(text, i) for i in range(config.prior_images)]
    captions = [fixed_caption(text)] * len(samples)
    return _drawn(pipe, subject.noun, samples, captions, config, folder, on_batch)


def structured(
    pipe: Any, subject: Subject, config: PersonalizeConfig, folder: Path, on_batch: Any
) -> ClassImages:
    """Returns images of the structured prompts, whose captions lose words at each step."""
    prompts = class_prompts(
        subject.noun,
        Pools.of(config.kind),
        config.prior_images,
        np.random.default_rng(own_seed(subject.noun)),
        backgrounds_of(subject),
    )
    return drawn_from(prompts, pipe, subject, config, folder, on_batch)


def backgrounds_of(subject: Subject) -> list[str]:
    """Returns the distinct backgrounds that the subject's captions name."""
    found = (background_of(caption, subject.noun) for caption in subject.captions)
    return list(dict.fromkeys(b for b in found if b and not has_identifier(b, subject.identifier)))


def drawn_from(
    prompts: Sequence[ClassPrompt],
    pipe: Any,
    subject: Subject,
    config: PersonalizeConfig,
    folder: Path,
    on_batch: Callable[[Progress], None] | None = None,
) -> ClassImages:
    """Draws the images of structured prompts, whose captions lose words at each step."""
    seed = own_seed(subject.noun)
    samples = [Sample(p.text, seed + i, columns=p.columns()) for i, p in enumerate(prompts)]
    captions = [_with_dropout(p, config.word_dropout) for p in prompts]
    found = _drawn(pipe, subject.noun, samples, captions, config, folder, on_batch)
    return replace(found, crops=True)


def own_images(source: str | Path, noun: str) -> ClassImages:
    """Returns images of the class that the user has, with their captions.

    Args:
        source: Folder with captions in text files, or a manifest.
        noun: The class noun; an image without caption is captioned "a [noun]".
    """
    images, texts, masks, left_out = open_images(source)
    captions = [texts.get(name, with_article(noun)) for name in images.ids]
    found = captioned_images([(images, captions, 1)], noun)
    notes = []
    if left_out:
        notes.append(f"{len(left_out)} files of {source} are no images and were left out.")
    if masks:
        notes.append(f"{len(masks)} masks of {source} are not used: a class has no subject to cut.")
    return replace(found, notes=tuple(notes))


def captioned_images(sets: Sequence[tuple[ImageSet, Sequence[str], int]], noun: str) -> ClassImages:
    """Returns images of the class with captions.

    Args:
        sets: Images, their captions, and how often the images are drawn relative to the others.
        noun: The class noun.
    """
    content = [
        [images.digest(i), text, repeats]
        for images, captions, repeats in sets
        for i, text in enumerate(captions)
    ]
    return ClassImages(
        Pictures(
            reduce(ImageSet.joined, [images for images, _, _ in sets]),
            [fixed_caption(text) for _, captions, _ in sets for text in captions],
            with_article(noun),
            repeats=[repeats for images, _, repeats in sets for _ in range(len(images))],
        ),
        identity=digest_bytes(canonical_json(content).encode()),
    )


PRIORS: Mapping[str, Prior] = {
    "none": no_prior,
    "prompt": one_prompt,
    "structured": structured,
    "teacher": teacher,
}
"""Name → prior."""


def class_images(
    pipe: Any,
    subject: Subject,
    prior: str | Path | ClassImages,
    config: PersonalizeConfig,
    folder: Path,
    on_batch: Callable[[Progress], None] | None = None,
) -> ClassImages:
    """Returns what a prior trains on; missing images are drawn.

    Args:
        pipe: The unedited pipeline, which draws the images.
        subject: The subject.
        prior: One of `PRIORS`, a folder or manifest of own images, or the images.
        config: Settings.
        folder: Folder of the drawn images; complete ones in it are used again.
        on_batch: Called after each batch of images.

    Raises:
        InputError: The prior is neither, or an image has pixels that are not finite.
    """
    if isinstance(prior, ClassImages):
        return prior
    name = str(prior)
    if name in PRIORS:
        return PRIORS[name](pipe, subject, config, folder, on_batch)
    if Path(prior).expanduser().exists():
        return own_images(prior, subject.noun)
    raise InputError(
        f"Expected a prior ({', '.join(PRIORS)}) or a folder of class images, got {name!r}; "
        "correct it."
    )


def _drawn(
    pipe: Any,
    noun: str,
    samples: Sequence[Sample],
    captions: Sequence[Caption],
    config: PersonalizeConfig,
    folder: Path,
    on_batch: Callable[[Progress], None] | None,
) -> ClassImages:
    where = folder / f"{'-'.join(noun.split())}-{weight_hash(pipe)[:12]}"
    images = generate(pipe, samples, where, settings=config.sampling(), on_batch=on_batch).images()
    rows = images.frame
    drawn = set(zip(rows["prompt"], rows["seed"], strict=True))
    kept = [i for i, s in enumerate(samples) if (s.prompt, s.seed) in drawn]
    notes = []
    if len(kept) < len(samples):
        notes.append(f"{len(samples) - len(kept)} class images were not finite and are left out.")
    listed = [[samples[i].prompt, samples[i].seed] for i in kept]
    identity = digest_bytes(canonical_json([listed, asdict(config.sampling())]).encode())
    pictures = Pictures(images, [captions[i] for i in kept], with_article(noun))
    return ClassImages(pictures, identity=identity, notes=tuple(notes))


def _with_dropout(prompt: ClassPrompt, probability: float) -> Caption:
    return lambda rng: prompt.drop_words(probability, rng).text
