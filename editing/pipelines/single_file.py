"""Checkpoints in one file, in the names of the original code: what Civitai and ComfyUI have.

The file holds weights only. The configuration and the tokenizer are those of the model that it is a
variant of, which diffusers recognises, and which must be in the hub's cache.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from editing.pipelines.folders import describe_error
from visdiff.encoders.hub import hub_offline
from visdiff.errors import InputError

_DENOISER = ("model.diffusion_model.", "double_blocks.", "joint_blocks.")
"""First parts of the names of a denoiser's weights."""

_CLASSES = (
    ("xl_inpaint", "StableDiffusionXLInpaintPipeline"),
    ("xl_refiner", "StableDiffusionXLImg2ImgPipeline"),
    ("xl", "StableDiffusionXLPipeline"),
    ("playground", "StableDiffusionXLPipeline"),
    ("flux", "FluxPipeline"),
    ("sd3", "StableDiffusion3Pipeline"),
    ("inpainting", "StableDiffusionInpaintPipeline"),
)
"""First part of diffusers' name of a kind of checkpoint → class of its pipeline."""


def load_single_file(path: Path) -> tuple[Any, Mapping[str, Any]]:
    """Loads a checkpoint in one file, without the network.

    Args:
        path: A .safetensors file.

    Returns:
        The pipeline in float32, and the index of the model that it is a variant of.

    Raises:
        InputError: The file is no whole checkpoint, or its configuration is not on disk; the
            message has the command that converts it.
    """
    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"Expected the folder of a pipeline or a .safetensors file, got {path}; convert it "
            f"once, with network access: {_conversion(path, '')}"
        )
    kind, repository = _recognise(path)
    import diffusers

    try:
        with hub_offline():
            config: Any = diffusers.DiffusionPipeline.load_config(repository)
            build = getattr(diffusers, config["_class_name"])
            without: dict[str, Any] = {}
            if "safety_checker" in config:
                without = {"safety_checker": None, "requires_safety_checker": False}
            pipeline = build.from_single_file(
                str(path),
                config=repository,
                dtype=torch.float32,
                local_files_only=True,
                **without,
            )
    # diffusers raises errors of many kinds.
    except Exception as error:
        raise InputError(
            f"Expected a checkpoint whose configuration is on disk, got {path}, a variant of "
            f"{repository}, which is not, or lacks a part ({describe_error(error)}); convert it "
            f"once, with network access: {_conversion(path, kind)}"
        ) from error
    pipeline.register_to_config(_name_or_path=str(path))
    return pipeline, config


def _recognise(path: Path) -> tuple[str, str]:
    """Returns diffusers' name of the kind of a checkpoint, and the repository of its model."""
    from diffusers.loaders import single_file_utils
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"Expected a checkpoint in {path}, got a file that cannot be read ({error}); download "
            f"it again, or give the folder of a pipeline, as from_single_file and save_pretrained "
            "of diffusers make it."
        ) from error
    if not any(name.startswith(_DENOISER) for name in shapes):
        first = ", ".join(list(shapes)[:3]) or "no tensors"
        raise InputError(
            f"Expected a whole checkpoint, got {path} with {first}, which has no denoiser in the "
            "names of the original code; name the base model here, and give a LoRA or an edit "
            "with --edit."
        )
    # Shapes are enough to recognise a model.
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    kind = single_file_utils.infer_diffusers_model_type(tensors)
    return kind, single_file_utils.fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]


def _conversion(path: Path, kind: str) -> str:
    """Returns the command that writes the folder of a checkpoint's pipeline."""
    default = "StableDiffusionPipeline"
    name = next((name for first, name in _CLASSES if kind.startswith(first)), default)
    code = (
        f"from diffusers import {name} as P; "
        f"P.from_single_file({str(path)!r}).save_pretrained({str(path.with_suffix(''))!r})"
    )
    return f"python -c {shlex.quote(code)}"
