"""A whole pipeline, as ``save_pretrained`` writes it."""

from pathlib import Path
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import Delta, Full, NewTokens
from editing.edit.formats.base import Imported
from editing.edit.saving import as_os_errors
from editing.linear import Tensor
from editing.pipelines.loading import load_pipeline
from editing.pipelines.weights import components
from editing.pipelines.wrappers import plain_modules
from visdiff.errors import InputError
from visdiff.files import explained

NAME = "folder"
TITLE = "the folder of a pipeline"


def is_pipeline(path: Path) -> bool:
    """Returns whether a path is the folder of a pipeline."""
    return (path / "model_index.json").is_file()


def write_folder(edit: Edit, pipe: Any, out: Path, force: bool = False) -> tuple[Path, ...]:
    """Writes the edited pipeline into a folder and returns its path.

    Args:
        edit: The edit.
        pipe: The unedited pipeline.
        out: The folder.
        force: Whether to write another base with the edit too.

    Raises:
        InputError: The base differs, the folder cannot be written to, or it is that of the base.
    """
    base = getattr(pipe.config, "_name_or_path", "") or ""
    if base and out.is_dir() and Path(base).is_dir() and out.samefile(base):
        raise InputError(
            f"Expected a folder for the edited pipeline, got that of the unedited one, {out}; "
            "choose another --out."
        )
    with (
        plain_modules(pipe),
        edit.applied(pipe, force=force),
        explained("a folder to write the pipeline to", out, "choose another --out"),
        as_os_errors(),
    ):
        pipe.save_pretrained(out)
    return (out,)


def read_folder(path: Path, pipe: Any) -> Imported:
    """Returns the differences of a folder's pipeline to another one.

    Tokens that its tokenizers have in addition become new tokens. The VAE is ignored.

    Raises:
        InputError: The folder holds no pipeline of the same components and shapes.
    """
    other = load_pipeline(path)
    changes: list[Delta] = []
    ignored: list[str] = []
    theirs = dict(components(other))
    for component, module in components(pipe):
        if component not in theirs:
            raise InputError(
                f"Expected a pipeline with {component}, got {path} without it; name the base that "
                "it was made from."
            )
        base, edited = module.state_dict(), theirs[component].state_dict()
        added = _new_tokens(component, pipe, other)
        changes += added
        for name, value in edited.items():
            full = f"{component}.{name}"
            if name not in base:
                ignored.append(full)
                continue
            here = base[name].detach().cpu()
            if added and name.endswith("token_embedding.weight"):
                value = value[: len(here)]
            if value.shape != here.shape:
                raise InputError(
                    f"Expected {full} of shape {tuple(here.shape)}, got {tuple(value.shape)} in "
                    f"{path}; name the base that it was made from."
                )
            if torch.equal(value, here.to(value.dtype)):
                continue
            if component == "vae":
                ignored.append(full)
            else:
                changes.append(Full(full, _minus(value, here)))
    return Imported(tuple(changes), tuple(ignored))


def _minus(value: Tensor, base: Tensor) -> Tensor:
    return (value.to(torch.float64) - base.to(torch.float64)).to(torch.float32)


def _new_tokens(component: str, pipe: Any, other: Any) -> list[NewTokens]:
    tokenizer = component.replace("text_encoder", "tokenizer")
    ours, theirs = getattr(pipe, tokenizer, None), getattr(other, tokenizer, None)
    if not component.startswith("text_encoder") or ours is None or theirs is None:
        return []
    rows = getattr(other, component).get_input_embeddings().weight.detach()
    known = ours.get_vocab()
    added = sorted(
        (index, token) for token, index in theirs.get_vocab().items() if token not in known
    )
    vectors = {token: rows[index].clone() for index, token in added if index < len(rows)}
    return [NewTokens(tokenizer, component, vectors)] if vectors else []
