"""The model card of an edit: README.md with its origin and how to use it."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from editing.edit import Edit
from editing.edit.formats import FORMATS, folder
from editing.edit.formats.learned_embeds import token_files

EDIT_FILE = "edit.safetensors"
"""Name of the edit's own file beside its card."""

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+.!|~-])")


def model_card(
    edit: Edit, repo_id: str, exports: Sequence[str] = (), samples: Sequence[str] = ()
) -> str:
    """Returns the text of README.md for an edit.

    Text of the user (requests, tokens, names) is escaped: it appears as it was written, never as
    markup.

    Args:
        edit: The edit.
        repo_id: Where it is published, "owner/name"; a folder's path works too.
        exports: Names of `editing.edit.formats` that are beside the card.
        samples: Names of image files beside the card.

    Returns:
        Markdown with a YAML header.
    """
    title = repo_id.rpartition("/")[2] or repo_id
    parts = [
        f"---\n{_header(edit, exports)}\n---",
        f"# {_escaped(title)}",
        f"An edit of {_escaped(edit.base_model)} by the method {_escaped(edit.method)}: "
        f"{len(edit.tensors)} changed tensors, {len(_tokens(edit))} new tokens. Made with "
        f"visdiff {_escaped(edit.versions.get('visdiff', ''))}.",
        *_images(samples),
        *_requests(edit),
        "## Use with diffusers",
        *_diffusers(edit, repo_id, exports),
        "## Use with visdiff",
        _own_use(edit),
        "## Origin",
        _origin(edit),
        "Settings:",
        _fenced(json.dumps(dict(edit.config), indent=2, ensure_ascii=False), "json"),
    ]
    return "\n\n".join(parts) + "\n"


def _header(edit: Edit, exports: Sequence[str]) -> str:
    from huggingface_hub import ModelCardData

    tags = ["visdiff", "text-to-image", edit.method]
    if {"diffusers", "kohya"} & set(exports):
        tags.append("lora")
    if _tokens(edit):
        tags.append("textual_inversion")
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", edit.base_model)
    return ModelCardData(
        library_name="diffusers",
        base_model=edit.base_model if hub else None,
        tags=list(dict.fromkeys(tags)),
        pipeline_tag="text-to-image",
    ).to_yaml()


def _tokens(edit: Edit) -> list[str]:
    return list(dict.fromkeys(token for change in edit.changes for token in change.tokens()))


def _images(samples: Sequence[str]) -> list[str]:
    if not samples:
        return []
    return ["\n".join(f"![{_escaped(Path(name).stem)}]({quote(name)})" for name in samples)]


def _requests(edit: Edit) -> list[str]:
    lines = [f"- {_escaped(request.describe())}" for request in edit.requests]
    tokens = ", ".join(_escaped(token) for token in _tokens(edit))
    if tokens:
        lines.append(f"- New tokens, to be used in prompts: {tokens}")
    return ["## What it was asked to do", "\n".join(lines)] if lines else []


def _diffusers(edit: Edit, repo_id: str, exports: Sequence[str]) -> list[str]:
    where = repr(repo_id)
    start = ["from diffusers import DiffusionPipeline", ""]
    if folder.NAME in exports:
        return [_fenced("\n".join([*start, f"pipe = DiffusionPipeline.from_pretrained({where})"]))]
    pipe = [*start, f"pipe = DiffusionPipeline.from_pretrained({edit.base_model!r})"]
    lines = []
    if "diffusers" in exports or "kohya" in exports:
        form = FORMATS["diffusers" if "diffusers" in exports else "kohya"]
        lines.append(f"pipe.load_lora_weights({where}, weight_name={form.file!r})")
    if "custom-diffusion" in exports:
        name = FORMATS["custom-diffusion"].file
        lines.append(f"pipe.unet.load_attn_procs({where}, weight_name={name!r}, _pipeline=pipe)")
    if lines or "learned-embeds" in exports:
        for file in token_files(edit):
            encoder, tokenizer = file.encoder, file.encoder.replace("text_encoder", "tokenizer")
            lines.append(
                f"pipe.load_textual_inversion({where}, weight_name={file.name!r}, "
                f"text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer})"
            )
    if not lines:
        return [
            "No export for diffusers' own loaders is in this repository; apply the edit with "
            "visdiff, or write one with `visdiff edit export`."
        ]
    # An encoder's tokenizer is part of the weights' meaning: the base must be this one.
    return [
        f"The base must be {_escaped(edit.base_model)} (hash {edit.base_hash[:12]}).",
        _fenced("\n".join([*pipe, *lines])),
    ]


def _own_use(edit: Edit) -> str:
    return _fenced(
        "\n".join(
            [
                "import editing",
                "",
                f"pipe = editing.load_pipeline({edit.base_model!r})",
                f"edit = editing.Edit.load({EDIT_FILE!r})",
                "with edit.applied(pipe):",
                "    ...",
            ]
        )
    )


def _origin(edit: Edit) -> str:
    rows = {
        "Base model": edit.base_model,
        "Hash of the base": edit.base_hash,
        "Digest of the edit": edit.digest,
        "Method": edit.method,
        "Seeds": ", ".join(map(str, edit.seeds)) or "none",
        "Versions": ", ".join(f"{name} {number}" for name, number in edit.versions.items()),
    }
    lines = [f"| {name} | {_escaped(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _escaped(text: str) -> str:
    """Returns text of the user as one line of Markdown without markup."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return _MARKUP.sub(r"\\\1", plain)


def _fenced(code: str, language: str = "python") -> str:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
