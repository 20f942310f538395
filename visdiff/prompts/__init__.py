"""Prompt texts as data: files beside this one, each with an id, a version and places to fill.

A prompt is part of what determines a reply: its id and version are written into reports, and the
text that was sent into cache keys. So a file that has been released is never edited in place: raise
its ``version`` with every change of its text.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from visdiff.errors import InputError
from visdiff.hashing import digest_bytes

_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """A text with places, such as ``{captions}``.

    Attributes:
        name: What it is loaded by.
        version: Raised with every change of the text.
        text: What is asked.
        system: What the model is told to be; "" when nothing.
    """

    name: str
    version: int
    text: str
    system: str = ""

    @property
    def id(self) -> str:
        """Name and version: "captions-llm@1"."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """SHA-256 of the texts."""
        return digest_bytes(f"{self.system}\x1f{self.text}".encode())

    def fill(self, **values: object) -> str:
        """Return the text with its places filled, in one pass: braces in a value stay as they are.

        Raises:
            ValueError: A place gets no value, or a value has no place.
        """
        places = set(_PLACE.findall(self.text))
        if places != set(values):
            raise ValueError(
                f"expected values for {sorted(places)} of prompt {self.id}, got {sorted(values)}"
            )
        return _PLACE.sub(lambda m: str(values[m[1]]), self.text).strip()


def names() -> list[str]:
    """List the prompts that come with visdiff."""
    folder = resources.files(__name__)
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


@cache
def load(name: str) -> Prompt:
    """Return a prompt by name.

    Raises:
        InputError: There is no such prompt.
    """
    if name not in names():
        raise InputError(f"expected a prompt ({', '.join(names())}), got {name!r}.")
    data = tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text("utf-8"))
    return Prompt(data["id"], data["version"], data["text"].strip(), data.get("system", "").strip())
