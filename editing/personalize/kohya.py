"""kohya's ``--dataset_config``: a TOML file of image folders, read as far as it maps.

A setting of a subset comes before that of its dataset, and that before the one in ``[general]``.
Every setting that changes nothing here is named in a note.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from editing.personalize.reference_images import open_images, read_caption
from editing.personalize.subject import Subject
from visdiff.errors import InputError
from visdiff.files import explained
from visdiff.imageset import ImageSet

_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
# Settings that are read, under the names of kohya's documentation.
_OF_A_SUBSET = frozenset({
    "image_dir", "class_tokens", "num_repeats", "is_reg", "caption_extension", "caption_extention",
    "caption_prefix", "caption_suffix",
})  # fmt: skip
_OF_TRAINING = {
    "resolution": "resolution",
    "batch_size": "batch_size",
    "flip_aug": "flip",
    "random_crop": "random_crop",
    "enable_bucket": "buckets",
    "bucket_reso_steps": "bucket_step",
    "min_bucket_reso": "smallest_bucket",
    "max_bucket_reso": "largest_bucket",
}
_CAPTIONS_STAY = "captions are sentences, which are used as they are"
_COLOURS_STAY = "images keep their colours and proportions"
_UNUSED: Mapping[str, str] = {
    "shuffle_caption": _CAPTIONS_STAY,
    "keep_tokens": _CAPTIONS_STAY,
    "keep_tokens_separator": _CAPTIONS_STAY,
    "caption_separator": _CAPTIONS_STAY,
    "secondary_separator": _CAPTIONS_STAY,
    "enable_wildcard": _CAPTIONS_STAY,
    "caption_dropout_rate": "every step has its caption",
    "caption_dropout_every_n_epochs": "every step has its caption",
    "caption_tag_dropout_rate": _CAPTIONS_STAY,
    "token_warmup_min": _CAPTIONS_STAY,
    "token_warmup_step": _CAPTIONS_STAY,
    "color_aug": _COLOURS_STAY,
    "face_crop_aug_range": _COLOURS_STAY,
    "resize_interpolation": "images are resized in one way",
    "bucket_no_upscale": "small images are enlarged",
    "alpha_mask": "masks are images named like IMAGE_mask.png",
    "metadata_file": "captions are read from files beside the images",
    "conditioning_data_dir": "there is no conditioning image",
    "validation_split": "no images are held out by the file",
    "validation_seed": "no images are held out by the file",
    "network_multiplier": "every dataset has the weight one",
    "cache_info": "images are listed anew",
    "custom_attributes": "they name nothing here",
}


@dataclass(frozen=True, eq=False)
class RegularizationImages:
    """A folder of regularisation images (``is_reg``).

    Attributes:
        images: n images.
        captions: n captions; the class tokens for an image without one.
        repeats: How often the images are asked for.
    """

    images: ImageSet
    captions: tuple[str, ...]
    repeats: int


@dataclass(frozen=True)
class KohyaSettings:
    """Settings of the training; None for one that the file does not state.

    Attributes:
        resolution: Width and height in pixels.
        batch_size: Images per step.
        flip: Whether images are mirrored at random.
        random_crop: Whether images are cropped at random.
        buckets: Whether images of different aspect ratios keep them.
        bucket_step: Sides of buckets are multiples of it, in pixels.
        smallest_bucket: Least side of a bucket, in pixels.
        largest_bucket: Largest side of a bucket, in pixels.
    """

    resolution: tuple[int, int] | None = None
    batch_size: int | None = None
    flip: bool | None = None
    random_crop: bool | None = None
    buckets: bool | None = None
    bucket_step: int | None = None
    smallest_bucket: int | None = None
    largest_bucket: int | None = None


@dataclass(frozen=True, eq=False)
class KohyaConfig:
    """What a dataset configuration maps to.

    Attributes:
        subjects: One for each subset without ``is_reg``, in order, with its repeats.
        regularization: One for each subset with ``is_reg``.
        settings: Settings of the training.
        notes: Sentences about what was assumed or is not used; show them to the user.
    """

    subjects: tuple[Subject, ...]
    regularization: tuple[RegularizationImages, ...]
    settings: KohyaSettings
    notes: tuple[str, ...]


def read_dataset_config(
    path: str | Path, identifier: str | None = None, noun: str | None = None
) -> KohyaConfig:
    """Reads a dataset configuration of kohya's scripts.

    Args:
        path: The TOML file. Folders in it are relative to the current folder or to the file's.
        identifier: Replaces the first word of ``class_tokens``.
        noun: Replaces the other words of ``class_tokens``.

    Returns:
        Subjects, regularisation images, settings and notes.

    Raises:
        InputError: The file cannot be read, has no subset of a subject, or has a setting of another
            type, a folder does not exist, or a caption has neither identifier nor noun.
    """
    path = Path(path).expanduser()
    with explained("a dataset configuration (TOML)", path, "check the path"):
        data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"Expected TOML in {path}, got a syntax error: {error}; correct the file."
        ) from error
    subsets = [_Subset(path, settings) for settings in _subsets(table, path)]
    subjects = [subset for subset in subsets if not subset.regularization]
    if not subjects:
        raise InputError(
            f"Expected [[datasets.subsets]] with the subject's images in {path}, got "
            f"{'regularisation images alone' if subsets else 'none'}; add its image_dir."
        )
    opened = [subset.subject(identifier, noun) for subset in subjects]
    notes = [f"{s.folder}: {note}" for s, o in zip(subjects, opened, strict=True) for note in o[1]]
    settings, conflicts = _settings(subjects)
    unknown = sorted(set(table) - {"general", "datasets"})
    outside = (f"The table {name!r} of {path} is not used." for name in unknown)
    return KohyaConfig(
        tuple(subject for subject, _ in opened),
        tuple(subset.images() for subset in subsets if subset.regularization),
        settings,
        tuple(dict.fromkeys([*notes, *conflicts, *_unused(subsets), *outside])),
    )


class _Subset:
    """One subset with the settings that it inherits; its values are checked when they are read."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.regularization: bool = self._get("is_reg", bool, False)
        self.repeats: int = self._get("num_repeats", int, 1)
        self.tokens = str(self._get("class_tokens", str, "")).strip()
        extension = self._get("caption_extension", str, None)
        # The documentation names it correctly, older files as the first version of the script did.
        extension = extension or self._get("caption_extention", str, ".caption")
        self.suffix = extension if extension.startswith(".") else f".{extension}"
        self.folder = self._folder()
        if self.repeats < 1:
            raise InputError(
                f"Expected num_repeats of at least 1 in {path}, got {self.repeats}; correct it."
            )

    def subject(self, identifier: str | None, noun: str | None) -> tuple[Subject, list[str]]:
        """The subject and its notes."""
        notes: list[str] = []
        first, _, rest = _ARTICLE.sub("", self.tokens).partition(" ")
        own: str | None = first or None
        named: str | None = rest.strip() or None
        if own and not named and noun is None:
            own, named = None, own
            notes.append(
                f"class_tokens {self.tokens!r} is one word: it is the class noun, and "
                f"{identifier or 'olis'!r} is the identifier."
            )
        suffixes = (self.suffix,)
        opened = Subject.without_captions(self.folder, own, noun or named, suffixes)
        captions, found = self._captions(opened.images, opened.phrase)
        subject = replace(opened.with_captions(captions), repeats=self.repeats)
        missing = len(opened) - found
        if found and missing:
            notes.append(f"{missing} images have no caption; '{opened.phrase}' is used for them.")
        below = [name for name in opened.images.ids if "/" in name]
        if below:
            notes.append(
                f"{len(below)} images are in subfolders (first: {below[0]}), which kohya's scripts "
                "do not read; they are used."
            )
        renamed = subject.renamed(identifier) if identifier else subject
        return renamed, [*renamed.notes, *notes]

    def images(self) -> RegularizationImages:
        """The regularisation images with their captions."""
        images = open_images(self.folder, (self.suffix,)).images
        captions, found = self._captions(images, self.tokens)
        if not self.tokens and found < len(images):
            raise InputError(
                f"Expected class_tokens or a caption ({self.suffix}) for each regularisation image "
                f"in {self.folder}, got {len(images) - found} images without; add class_tokens."
            )
        return RegularizationImages(images, tuple(captions), self.repeats)

    def _captions(self, images: ImageSet, default: str) -> tuple[list[str], int]:
        """Captions of images, and how many have a file."""
        before = self._get("caption_prefix", str, "")
        after = self._get("caption_suffix", str, "")
        captions, found = [], 0
        for name in images.ids:
            sidecar = (self.folder / name).with_suffix(self.suffix)
            text = read_caption(sidecar) if sidecar.is_file() else ""
            found += bool(text)
            captions.append(" ".join(f"{before} {text or default} {after}".split()))
        return captions, found

    def _folder(self) -> Path:
        text = self._get("image_dir", str, None)
        if text is None:
            raise InputError(
                f"Expected image_dir in every subset of {self.path}, got a subset without; add the "
                "folder."
            )
        folder = Path(text).expanduser()
        for candidate in (folder, self.path.absolute().parent / folder):
            if candidate.is_dir():
                return candidate
        raise InputError(
            f"Expected a folder as image_dir in {self.path}, got {text!r}, which does not exist "
            "here or beside the file; correct the path."
        )

    def _get(self, name: str, kind: type, default: Any) -> Any:
        value = self.settings.get(name, default)
        if value is not default and not _is(value, kind):
            raise InputError(
                f"Expected {name} as {_KINDS[kind]} in {self.path}, got {value!r}; correct it."
            )
        return value


_KINDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", str: "a text"}


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _subsets(table: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The settings of every subset, with those that it inherits."""
    general, datasets = table.get("general", {}), table.get("datasets", [])
    if not isinstance(general, dict) or not _tables(datasets):
        raise InputError(
            f"Expected [general] and [[datasets]] with [[datasets.subsets]] in {path}, got another "
            "structure; see kohya's documentation of --dataset_config."
        )
    found = []
    for dataset in datasets:
        subsets = dataset.get("subsets", [])
        if not _tables(subsets):
            raise InputError(
                f"Expected [[datasets.subsets]] in {path}, got {subsets!r}; make it tables."
            )
        shared = {name: value for name, value in dataset.items() if name != "subsets"}
        found += [{**general, **shared, **subset} for subset in subsets]
    return found


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _settings(subsets: Sequence[_Subset]) -> tuple[KohyaSettings, list[str]]:
    """The settings of the training, and notes on those that differ between subsets."""
    found: dict[str, Any] = {}
    notes = []
    for name, field in _OF_TRAINING.items():
        values = [_checked(s, name) for s in subsets if name in s.settings]
        if not values:
            continue
        found[field] = values[0]
        if any(value != values[0] for value in values):
            listed = ", ".join(map(str, dict.fromkeys(values)))
            notes.append(f"{name} differs between subsets ({listed}): {values[0]} is used for all.")
    return KohyaSettings(**found), notes


def _checked(subset: _Subset, name: str) -> Any:
    value = subset.settings[name]
    if name in ("flip_aug", "random_crop", "enable_bucket"):
        return subset._get(name, bool, None)
    if name == "resolution":
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) == 2 and all(_is(side, int) and side > 0 for side in sides):
            return tuple(sides)
        expected = "a number of pixels or [width, height]"
    elif _is(value, int) and value > 0:
        return value
    else:
        expected = "a whole number of at least 1"
    raise InputError(f"Expected {name} as {expected} in {subset.path}, got {value!r}; correct it.")


def _unused(subsets: Sequence[_Subset]) -> list[str]:
    """A note on every setting that is on and changes nothing here."""
    notes = []
    for subset in subsets:
        for name, value in sorted(subset.settings.items()):
            if name in _OF_A_SUBSET or name in _OF_TRAINING:
                continue
            # Off is what happens here anyway.
            if name in _UNUSED and value:
                notes.append(f"{name} = {value!r} is not used: {_UNUSED[name]}.")
            elif name not in _UNUSED:
                notes.append(f"{name} = {value!r} is not used: the setting is unknown.")
    return notes
