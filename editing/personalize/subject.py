"""What is learnt: a subject's images, its identifier and class noun, captions and masks.

The layouts that people have are read as they are (`editing.personalize.reference_images`), with
kohya's ``10_olis dog`` folders. Files that are not images are counted and named, never a crash.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from editing.personalize.captions import insert_identifier, replace_identifier
from editing.personalize.reference_images import CAPTION_SUFFIXES, open_images
from editing.requests.wording import subject_phrase
from visdiff.errors import InputError, UnreadableImageError
from visdiff.hashing import canonical_json, digest_bytes
from visdiff.imageset import ImageSet

_KOHYA = re.compile(r"(?P<repeats>[1-9][0-9]*)_(?P<identifier>\S+)\s+(?P<noun>\S.*)")


@dataclass(frozen=True, eq=False)
class Subject:
    """A subject to teach to a model.

    Attributes:
        images: n images, 1 or more.
        captions: n training captions, each with the identifier before the class noun.
        masks: n masks of the subject ("L", white = subject, as large as its image), or None.
        identifier: The token that comes to mean the subject, "olis".
        noun: The class noun, "dog".
        repeats: How often kohya's folder name asks for the images; 1 elsewhere.
        notes: Sentences about what was left out or assumed; show them to the user.
        mask_files: n files of the masks; None without a mask, or for one in memory.
    """

    images: ImageSet
    captions: tuple[str, ...]
    masks: tuple[Image.Image | None, ...]
    identifier: str
    noun: str
    repeats: int = 1
    notes: tuple[str, ...] = ()
    mask_files: tuple[Path | None, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def phrase(self) -> str:
        """The subject as a prompt names it, "a olis dog"."""
        return subject_phrase(self.identifier, self.noun)

    @property
    def digest(self) -> str:
        """SHA-256 of the images, masks, captions and names, in order; 64 hexadecimal characters.

        File names do not count: a copied folder has the same digest.
        """
        masks = [
            None if mask is None else digest_bytes(f"{mask.size}".encode() + mask.tobytes())
            for mask in self.masks
        ]
        content = {
            "images": [self.images.digest(i) for i in range(len(self))],
            "masks": masks,
            "captions": self.captions,
            "identifier": self.identifier,
            "noun": self.noun,
            "repeats": self.repeats,
        }
        return digest_bytes(canonical_json(content).encode())

    def check_images(self) -> None:
        """Checks that every image can be decoded, before a training that draws them at random.

        Raises:
            InputError: Some cannot.
        """
        with ThreadPoolExecutor(thread_name_prefix="visdiff") as pool:
            found = list(pool.map(self._failure, range(len(self))))
        failures = [failure for failure in found if failure]
        if failures:
            raise InputError(
                f"Expected images of {self.phrase!r} that can be read, got {len(failures)} that "
                f"cannot; the first: {failures[0]}"
            )

    def _failure(self, index: int) -> str:
        try:
            self.images.image(index)
        except UnreadableImageError as error:
            return str(error)
        return ""

    @classmethod
    def open(
        cls,
        source: Any,
        identifier: str | None = None,
        noun: str | None = None,
        captions: Mapping[str, str] | None = None,
    ) -> "Subject":
        """Opens a subject.

        Args:
            source: A folder, a manifest (CSV, TSV, JSONL or Parquet with the column ``path`` or
                ``file_name``), a list of paths or Pillow images, an `ImageSet`, or a dataset of the
                ``datasets`` library with the column ``image``.
            identifier: "olis" when neither this nor a kohya folder name gives one.
            noun: The class noun; a kohya folder name may give it instead.
            captions: Image id → caption, before all captions that the source has.

        Raises:
            InputError: There is no image, no noun, a caption without identifier and noun, or a mask
                of another size than its image.
        """
        subject, texts = _read(source, identifier, noun)
        unknown = [name for name in captions or {} if name not in subject.images.ids]
        if unknown:
            raise InputError(
                f"Expected captions of the images {', '.join(subject.images.ids[:3])}, …, got one "
                f"of {unknown[0]!r}; use the image's path relative to the folder."
            )
        texts = {**texts, **(captions or {})}
        bare = sum(name not in texts for name in subject.images.ids)
        notes = subject.notes
        if texts and bare:
            notes += (f"{bare} images have no caption; '{subject.phrase}' is used for them.",)
        written = _with_identifier(subject, [texts.get(name) for name in subject.images.ids])
        return replace(subject, captions=written, notes=notes)

    @classmethod
    def without_captions(
        cls,
        source: Any,
        identifier: str | None = None,
        noun: str | None = None,
        suffixes: Sequence[str] = CAPTION_SUFFIXES,
    ) -> "Subject":
        """Opens a subject whose captions are to be written; those that the source has are unread.

        Args:
            source: As for `open`.
            identifier: As for `open`.
            noun: As for `open`.
            suffixes: Of files that are captions; others of a folder are named in the notes.

        Returns:
            The subject with its phrase ("a olis dog") as every caption.

        Raises:
            InputError: As `open`, except for captions.
        """
        return _read(source, identifier, noun, suffixes)[0]

    def with_captions(self, captions: Sequence[str]) -> "Subject":
        """Returns the subject with other captions, one an image, in order.

        Raises:
            InputError: There are not as many captions as images, or one has neither the identifier
                nor the noun.
        """
        if len(captions) != len(self):
            raise InputError(
                f"Expected one caption for each of {len(self)} images, got {len(captions)}; "
                "caption all of them."
            )
        return replace(self, captions=_with_identifier(self, captions))

    def renamed(self, identifier: str) -> "Subject":
        """Returns the subject with another identifier, in its captions and notes as well.

        Args:
            identifier: The new token; one in angle brackets ("<olis>") for textual inversion.

        Raises:
            InputError: The identifier is empty or has spaces.
        """
        new = _checked_identifier(identifier)
        return replace(
            self,
            identifier=new,
            captions=tuple(replace_identifier(c, self.identifier, new) for c in self.captions),
            notes=tuple(replace_identifier(n, self.identifier, new) for n in self.notes),
        )


def _read(
    source: Any,
    identifier: str | None,
    noun: str | None,
    suffixes: Sequence[str] = CAPTION_SUFFIXES,
) -> tuple[Subject, Mapping[str, str]]:
    """The subject with its phrase as every caption, and the captions of the source by image id."""
    repeats, notes = 1, []
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is not None and path.is_dir() and (named := _KOHYA.fullmatch(path.name)):
        repeats = int(named["repeats"])
        identifier, noun = identifier or named["identifier"], noun or named["noun"]
    if noun is None or not noun.strip():
        raise InputError(
            "Expected a class noun such as 'dog', got none; name what the subject is (--noun)."
        )
    identifier = _checked_identifier(identifier or "olis")
    opened, texts, masks, left_out = open_images(source, suffixes)
    if left_out:
        shown = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
        notes.append(f"{len(left_out)} files are no images and were left out ({shown}).")
    if len(opened) == 1:
        notes.append("There is one image: the subject's pose and background are likely learnt.")
    subject = Subject(
        opened,
        (subject_phrase(identifier, noun.strip()),) * len(opened),
        tuple(_mask(masks.get(name), opened, i) for i, name in enumerate(opened.ids)),
        identifier,
        noun.strip(),
        repeats,
        tuple(notes),
        tuple(
            Path(mask) if isinstance(mask := masks.get(name), (str, Path)) else None
            for name in opened.ids
        ),
    )
    return subject, texts


def _checked_identifier(identifier: str) -> str:
    if not re.fullmatch(r"\S+", identifier):
        raise InputError(
            f"Expected an identifier without spaces, got {identifier!r}; 'olis' is the default."
        )
    return identifier


def _with_identifier(subject: Subject, captions: Sequence[str | None]) -> tuple[str, ...]:
    """The captions with the identifier; the subject's phrase in place of a missing one."""
    written: list[str] = []
    foreign: list[str] = []
    for name, caption in zip(subject.images.ids, captions, strict=True):
        try:
            written.append(
                subject.phrase if caption is None
                else insert_identifier(caption, subject.noun, subject.identifier)
            )  # fmt: skip
        except InputError:
            foreign.append(f"{name} ({caption!r})")
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"Expected a caption with the class noun {subject.noun!r}, the identifier "
            f"{subject.identifier!r} or [identifier], got none of them in {foreign[0]}{more}; "
            "edit the captions or give another --noun."
        )
    return tuple(written)


def _mask(mask: Any, images: ImageSet, index: int) -> Image.Image | None:
    if mask is None:
        return None
    opened = mask if isinstance(mask, Image.Image) else ImageSet.open([str(mask)]).image(0)
    expected = images.image(index).size
    if opened.size != expected:
        raise InputError(
            f"Expected a mask of {expected[0]}×{expected[1]} pixels for {images.ids[index]}, got "
            f"{opened.size[0]}×{opened.size[1]}; resize the mask to its image."
        )
    return opened.convert("L")
