"""Learned embeddings of textual inversion: ``pipe.load_textual_inversion`` reads them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.deltas import NewTokens
from editing.edit.formats.base import Format, Imported, cannot_hold
from editing.edit.formats.files import TensorFile
from editing.edit.saving import save_tensors
from editing.linear import Tensor
from visdiff.errors import InputError

_ENCODER = "visdiff_encoder"
# Names of the two encoders of SDXL in files of A1111 and of diffusers' advanced scripts.
_CLIP = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# A1111's files name no token: it is the name of the file.
_UNNAMED = ("emb_params", "string_to_param.*", *_CLIP)
_ADOBE = "modifier_token."


class LearnedEmbeds(Format):
    """``learned_embeds.safetensors``: token → vectors, shape (d,) or (n, d).

    A token of n vectors is the tokens "<x>", "<x>_1", … of the tokenizer. diffusers loads one token
    a file, so several have a file each. The second encoder's vectors are in files that end in "_2".
    """

    name: ClassVar[str] = "learned-embeds"
    title: ClassVar[str] = "learned embeddings (textual inversion)"
    file: ClassVar[str] = "learned_embeds.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether the tensors are a few vectors named by tokens."""
        if len(file.names) > 256:
            return False
        return bool(file.names) and all(
            len(file.shape(name)) in (1, 2)
            and (name in _UNNAMED or not name.endswith((".weight", ".bias", ".delta", ".alpha")))
            for name in file.names
        )

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns the new tokens of each encoder."""
        return Imported(tuple(read_tokens(file, file.names, pipe)))

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes one file a token and encoder."""
        edit.check_base(pipe)
        if edit.tensors:
            raise cannot_hold(edit.tensors, "learned embeddings")
        return write_tokens(edit, out)


def read_tokens(file: TensorFile, names: tuple[str, ...], pipe: Any) -> Iterator[NewTokens]:
    """Yields the new tokens of each encoder that vectors of a file belong to.

    Args:
        file: The file.
        names: Names of the vectors.
        pipe: The pipeline that they are for.

    Raises:
        InputError: No encoder has vectors of this length, or the tokenizer has the token.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name in names:
        vectors = file.tensor(name)
        rows = vectors[None] if vectors.ndim == 1 else vectors
        token = file.path.stem if name in _UNNAMED else name.removeprefix(_ADOBE)
        table = found.setdefault(_encoder(file, name, rows.shape[1], pipe), {})
        table |= {f"{token}_{n}" if n else token: row for n, row in enumerate(rows)}
    for encoder, table in found.items():
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        known = [t for t in table if t in getattr(pipe, tokenizer).get_vocab()]
        if known:
            raise InputError(
                f"Expected tokens that the model does not have, got {', '.join(known)} in "
                f"{file.path}; rename them in the file, or use the model without them."
            )
        yield NewTokens(tokenizer, encoder, table)


def write_tokens(edit: Edit, out: Path) -> tuple[Path, ...]:
    """Writes the tokens of an edit, if it has any, and returns the paths.

    Args:
        edit: The edit.
        out: A folder; a path of one file for one token of one encoder, if the edit changes nothing
            else.

    Raises:
        InputError: The files need a folder, or cannot be written.
    """
    files = token_files(edit)
    if out.suffix == ".safetensors" and files and (len(files) > 1 or edit.tensors):
        raise InputError(
            f"Expected a folder for an edit that needs several files (tokens have their own), got "
            f"{out}; give a path without a suffix."
        )
    return tuple(
        save_tensors(
            {file.token: file.vectors},
            out if out.suffix == ".safetensors" else out / file.name,
            {_ENCODER: file.encoder},
        )
        for file in files
    )


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A file of one token for one text encoder.

    Attributes:
        name: Name of the file.
        encoder: Name of the text encoder.
        token: The token.
        vectors: Shape (n, d).
    """

    name: str
    encoder: str
    token: str
    vectors: Tensor


def token_files(edit: Edit) -> tuple[TokenFile, ...]:
    """Returns the files that hold the tokens of an edit, one a token and text encoder."""
    found = [
        (encoder, token, vectors)
        for change in edit.changes
        for encoder, embeddings in change.embeddings().items()
        for token, vectors in _grouped(embeddings).items()
    ]
    single = len({token for _, token, _ in found}) == 1
    files = []
    for encoder, token, vectors in found:
        stem = "learned_embeds" if single else re.sub(r"[/\\:\0]", "_", token)
        suffix = "_2" if encoder == "text_encoder_2" else ""
        files.append(TokenFile(f"{stem}{suffix}.safetensors", encoder, token, vectors))
    return tuple(files)


def _grouped(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns token → vectors, shape (n, d), with "<x>_1", "<x>_2", … as further rows of "<x>"."""
    found: dict[str, list[Tensor]] = {}
    for token, vector in embeddings.items():
        stem, _, number = token.rpartition("_")
        if stem in found and number == str(len(found[stem])):
            found[stem].append(vector)
        else:
            found[token] = [vector]
    return {token: torch.stack(rows) for token, rows in found.items()}


def _encoder(file: TensorFile, name: str, width: int, pipe: Any) -> str:
    """Returns the text encoder that vectors are for: by their name, the file's, or their length."""
    widths = {
        encoder: module.get_input_embeddings().weight.shape[1]
        for encoder in ("text_encoder", "text_encoder_2")
        if (module := getattr(pipe, encoder, None)) is not None
    }
    stated = file.metadata.get(_ENCODER) or _CLIP.get(name)
    if stated is None and file.path.stem.endswith("_2"):
        stated = "text_encoder_2"
    fitting = [encoder for encoder, w in widths.items() if w == width]
    if stated in fitting:
        return str(stated)
    if not fitting or stated in widths:
        raise InputError(
            f"Expected embeddings of length {' or '.join(map(str, widths.values()))} for "
            f"{type(pipe).__name__}, got {width} in {file.path}; name the base that they were "
            "learnt for."
        )
    return fitting[0]
