"""Loading of diffusers pipelines. No other module of `editing` loads one."""

from pathlib import Path
from typing import Any

import torch

from editing.pipelines.weights import components
from visdiff.encoders.hub import load_weights
from visdiff.errors import InputError
from visdiff.files import load_json, read_text
from visdiff.miniature.generate import load_pipeline as load_bundled
from visdiff.torchvision_compat import ensure_torchvision


def load_pipeline(model: Any) -> Any:
    """Loads a diffusers pipeline.

    Args:
        model: A hub id ("stable-diffusion-v1-5/stable-diffusion-v1-5"), a folder that
            ``save_pretrained`` wrote, "miniature" for the bundled generator, or a pipeline, which
            is returned as it is.

    Returns:
        The pipeline; when loaded here, in float32 on the CPU and without progress bars.

    Raises:
        InputError: The folder does not exist or holds no pipeline, or the object is not a pipeline.
        MissingBackendError: The weights are not on disk and cannot be downloaded.
    """
    if not isinstance(model, (str, Path)):
        if not any(isinstance(part, torch.nn.Module) for _, part in components(model)):
            raise InputError(
                "Expected a diffusers pipeline, a hub id, a folder or 'miniature', got "
                f"{type(model).__name__} without unet or transformer; pass one of these."
            )
        return model
    if model == "miniature":
        return load_bundled()
    path = Path(model).expanduser()
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise InputError(
            f"Expected the folder of a pipeline, got {path} without model_index.json; give the "
            "folder that save_pretrained wrote."
        )
    if path.is_file():
        raise InputError(
            f"Expected the folder of a pipeline, got the file {path}; convert it once with "
            "StableDiffusionPipeline.from_single_file(…).save_pretrained(FOLDER)."
        )
    if not path.is_dir() and not _could_be_hub_id(str(model)):
        raise InputError(
            f"Expected a hub id (owner/name), a folder or 'miniature', got {str(model)!r}, which "
            "is none of them; check the spelling."
        )
    ensure_torchvision()
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    bar_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = load_weights(
            lambda: DiffusionPipeline.from_pretrained(
                path if path.is_dir() else str(model), dtype=torch.float32, **_absent(path)
            ),
            f"pipeline {model}",
        )
    finally:
        if bar_enabled:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _absent(path: Path) -> dict[str, None]:
    """Returns the components that a folder was saved without, such as T5 of Stable Diffusion 3.

    diffusers saves a pipeline without a required component and then refuses to load it.
    """
    index = path / "model_index.json"
    if not index.is_file():
        return {}
    text = read_text(index, "the index of a pipeline")
    try:
        found = load_json(text)
    except ValueError as error:
        raise InputError(
            f"Expected JSON in {index}, got {error}; save the pipeline again."
        ) from error
    saved = found.items() if isinstance(found, dict) else ()
    return {name: None for name, kind in saved if kind == [None, None]}


def _could_be_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "~"))
