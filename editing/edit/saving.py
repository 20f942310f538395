"""Writing of safetensors files, whose errors are those of other files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from editing.linear import Tensor
from visdiff.files import explained, write_whole


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    metadata: Mapping[str, str],
    expected: str = "a path to write the weights to",
) -> Path:
    """Writes a safetensors file atomically and returns its path.

    Args:
        tensors: Name → tensor, on any device; they may share memory.
        path: Path of the file; missing parent folders are created.
        metadata: Header of the file.
        expected: What the path should have been, for the error message.

    Raises:
        InputError: The file cannot be written.
    """
    # safetensors does not accept tensors that share memory.
    own = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}

    def write(part: Path) -> None:
        with as_os_errors():
            save_file(own, part, dict(metadata))

    with explained(expected, path):
        write_whole(path, write)
    return path


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Turns an error of safetensors, such as a full disk, into an OSError."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
