"""Prompt templates: TOML files in this folder, each with an id, a version and placeholders.

A prompt determines the replies: its id and version are written into reports, and the sent text is
part of cache keys. So the text of a released file must not change without a new ``version``.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from visdiff.errors import InputError
from visdiff.hashing import digest_bytes

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompt:
    """A template with placeholders, such as ``{captions}``.

    Attributes:
        name: Name of the file.
        version: Version; it increases with every change of the text.
        text: The user message.
        system: The system message; "" for none.
    """

    name: str
    version: int
    text: str
    system: str = ""

    @property
    def id(self) -> str:
        """Name and version, such as "captions-llm@1"."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """SHA-256 of both texts."""
        return digest_bytes(f"{self.system}\x1f{self.text}".encode())

    def fill(self, **values: object) -> str:
        """Returns the text with its placeholders replaced in one pass; braces in values are kept.

        Raises:
            ValueError: A placeholder has no value, or a value has no placeholder.
        """
        placeholders = set(_PLACEHOLDER.findall(self.text))
        if placeholders != set(values):
            raise ValueError(
                f"Expected values for {sorted(placeholders)} of prompt {self.id}, got "
                f"{sorted(values)}; pass exactly these."
            )
        return _PLACEHOLDER.sub(lambda m: str(values[m[1]]), self.text).strip()


def names() -> list[str]:
    """Returns the names of the prompts of the package."""
    folder = resources.files(__name__)
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


@cache
def load(name: str) -> Prompt:
    """Loads a prompt by name.

    Raises:
        InputError: There is no such prompt.
    """
    if name not in names():
        raise InputError(f"Expected a prompt ({', '.join(names())}), got {name!r}; correct it.")
    data = tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text("utf-8"))
    return Prompt(data["id"], data["version"], data["text"].strip(), data.get("system", "").strip())
