"""Generated images with their prompts, from any tool that leaves a manifest or a known layout.

Read are a folder with ``manifest.jsonl`` (`visdiff generate`), a manifest with a column of prompts
(BLIP-Diffusion, ELITE, IP-Adapter, ComfyUI, written by a line of a script), and folders
``NUMBER/i.png`` whose number is the line of a list of prompts, as published evaluators have them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editing.generate.folder import MANIFEST
from editing.generate.phrases import with_article
from editing.personalize.captions import has_identifier, replace_identifier
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.imageset.manifest import SUFFIXES

_PROMPT_COLUMNS = ("prompt", "caption", "text")


@dataclass(frozen=True, eq=False)
class Pictured:
    """Generated images and the prompt of each.

    Attributes:
        images: The images.
        prompts: Prompt of each image; None where it is unknown.
    """

    images: ImageSet
    prompts: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: Sequence[int]) -> "Pictured":
        """Returns some of the images with their prompts."""
        return Pictured(self.images.subset(list(rows)), tuple(self.prompts[i] for i in rows))

    def split(self, identifier: str) -> tuple["Pictured", "Pictured | None"]:
        """Returns the images of the subject, and those of the class noun if there are any."""
        named = [prompt is None or names_subject(prompt, identifier) for prompt in self.prompts]
        if all(named) or not any(named):
            return self, None
        rows = range(len(named))
        return (
            self.subset([i for i in rows if named[i]]),
            self.subset([i for i in rows if not named[i]]),
        )


def open_pictured(
    source: str | Path,
    where: Mapping[str, Any] | None = None,
    prompts: Sequence[str] | None = None,
) -> Pictured:
    """Opens generated images.

    Args:
        source: A folder or a manifest, see the module. The paths of a manifest are relative to it.
        where: Required value by column of the manifest.
        prompts: Prompts by number, for folders ``NUMBER/i.png``; the first is number 0.

    Raises:
        InputError: There is no image, or the number of a folder has no prompt.
    """
    path = Path(source).expanduser()
    manifest = path / MANIFEST if path.is_dir() else path
    if manifest.is_file() and manifest.suffix.lower() in SUFFIXES:
        images = ImageSet.open(manifest, where=where)
        frame = images.frame
        column = next((c for c in _PROMPT_COLUMNS if c in frame.columns), None)
        found = [] if column is None else frame[column].tolist()
        texts = tuple(t if isinstance(t, str) else None for t in found) or (None,) * len(images)
        return Pictured(images, texts)
    if where:
        raise InputError(
            f"Expected a manifest with --where, got {path} without {MANIFEST}; leave it out or "
            "name the manifest."
        )
    images = ImageSet.open(path)
    return Pictured(images, tuple(_numbered(name, prompts) for name in images.ids))


def _numbered(name: str, prompts: Sequence[str] | None) -> str | None:
    """Returns the prompt of the image "3/0.png"."""
    parent = Path(name).parent.name
    if prompts is None or not parent.isdecimal():
        return None
    if int(parent) >= len(prompts):
        raise InputError(
            f"Expected folders with numbers below {len(prompts)}, the number of prompts, got "
            f"{parent} ({name}); give the list of prompts that the images are of."
        )
    return prompts[int(parent)]


def without_identifier(prompt: str, identifier: str, nouns: Sequence[str]) -> str:
    """Returns a prompt as CLIP reads it: without the identifier, with the article of its noun.

    Args:
        prompt: "a olis dog on the beach"; the identifier may be in angle brackets.
        identifier: The identifier.
        nouns: Class nouns that may follow it.
    """
    bare = identifier.strip("<>")
    text = replace_identifier(replace_identifier(prompt, f"<{bare}>", ""), bare, "")
    text = " ".join(text.split())
    for noun in sorted(nouns, key=len, reverse=True):
        pattern = rf"\ban?\s+(?={re.escape(noun)}\b)"
        if text != prompt and re.search(pattern, text, re.IGNORECASE):
            article = with_article(noun).partition(" ")[0]
            return re.sub(pattern, f"{article} ", text, count=1, flags=re.IGNORECASE)
    return text


def with_noun(prompt: str, nouns: Sequence[str], noun: str) -> str | None:
    """Returns a prompt with another class noun; None if it has none of the nouns.

    Args:
        prompt: A prompt without identifier.
        nouns: Class nouns that the prompt may have; the longest that occurs is replaced.
        noun: The new one.
    """
    for old in sorted(nouns, key=len, reverse=True):
        pattern = rf"\b(?:(an?)\s+)?{re.escape(old)}\b"
        found = re.search(pattern, prompt, re.IGNORECASE)
        if found:
            named = with_article(noun) if found[1] else noun
            return f"{prompt[: found.start()]}{named}{prompt[found.end() :]}"
    return None


def names_subject(prompt: str, identifier: str) -> bool:
    """Returns whether a prompt has the identifier, with or without angle brackets."""
    bare = identifier.strip("<>")
    return has_identifier(prompt, f"<{bare}>") or has_identifier(prompt, bare)
