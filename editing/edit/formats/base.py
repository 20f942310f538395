"""The interface of every file format of other tools."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from editing.edit import Edit
from editing.edit.deltas import Delta
from editing.edit.formats.files import TensorFile
from visdiff.errors import InputError


@dataclass(frozen=True, eq=False)
class Imported:
    """What a file holds for a pipeline.

    Attributes:
        changes: The changes of the pipeline.
        ignored: Names in the file that were not used.
    """

    changes: tuple[Delta, ...]
    ignored: tuple[str, ...] = field(default=())


class Format(ABC):
    """A file format of other tools.

    Attributes:
        name: Name in `editing.edit.formats.FORMATS` and on the command line.
        title: What a file of this format is, in words.
        file: Name of the file that diffusers expects.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]

    @abstractmethod
    def detect(self, file: TensorFile) -> bool:
        """Returns whether a file is of this format, by the names and shapes of its tensors."""

    @abstractmethod
    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns the changes that a file makes to a pipeline.

        Raises:
            InputError: The file is of another model, or has content that cannot be represented.
        """

    @abstractmethod
    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes an edit and returns the paths of the files.

        Args:
            edit: The edit.
            pipe: The unedited pipeline that it was fitted to.
            out: A folder, or a path with the suffix .safetensors where one file is enough.

        Raises:
            InputError: The format cannot hold the edit, or a file cannot be written.
        """


def one_file(out: Path, name: str) -> Path:
    """Returns the path of a format's only file: ``out`` itself, or ``name`` in this folder."""
    return out if out.suffix == ".safetensors" else out / name


def cannot_hold(names: Sequence[str], title: str) -> InputError:
    """Returns the error for an edit that changes what a format cannot hold.

    Args:
        names: What cannot be held: tensors or tokens.
        title: The format, in words.
    """
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return InputError(
        f"Expected an edit that {title} can hold, got one that changes {names[0]}{more}; use "
        "--as folder, or the edit's own file."
    )
