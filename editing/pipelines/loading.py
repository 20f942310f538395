"""Loading of diffusers pipelines. No other module of `editing` loads one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from editing.pipelines.folders import check_folder, folder_error
from editing.pipelines.single_file import load_single_file
from editing.pipelines.source import check_source
from editing.pipelines.weights import components
from visdiff.encoders.hub import hub_offline, load_weights
from visdiff.errors import InputError
from visdiff.miniature.generate import load_pipeline as load_bundled
from visdiff.torchvision_compat import ensure_torchvision


def load_pipeline(model: Any, on_note: Callable[[str], None] | None = None) -> Any:
    """Loads a diffusers pipeline, without its safety checker if it has one.

    Args:
        model: A hub id ("stable-diffusion-v1-5/stable-diffusion-v1-5"), a folder that
            ``save_pretrained`` wrote, a checkpoint in one .safetensors file whose configuration is
            on disk, "miniature" for the bundled generator, or a pipeline, which is returned as it
            is.
        on_note: Called with a sentence if the safety checker is left out.

    Returns:
        The pipeline; when loaded here, in float32 on the CPU and without progress bars.

    Raises:
        InputError: The folder or file does not exist or cannot be loaded, or the object is not a
            pipeline.
        MissingBackendError: The weights of a hub id are not on disk and cannot be downloaded.
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
    ensure_torchvision()
    with _no_progress_bars():
        if path.is_dir():
            pipeline, config = _load_folder(path)
        elif path.is_file():
            pipeline, config = load_single_file(path)
        else:
            check_source(model)
            pipeline, config = load_weights(lambda: _load(str(model)), f"pipeline {model}")
    if _has_checker(config) and on_note is not None:
        on_note(
            f"{model} is used without its safety checker, whose black images would be measured as "
            "the model's; a folder written from it has none either"
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _load(model: str) -> tuple[Any, Mapping[str, Any]]:
    """Loads a folder or a hub id; returns the pipeline and the content of its index."""
    from diffusers import DiffusionPipeline

    config: Any = DiffusionPipeline.load_config(model)
    # diffusers saves a pipeline without a required component (T5 of Stable Diffusion 3), and then
    # refuses to load it.
    absent: dict[str, Any] = {n: None for n, kind in config.items() if kind == [None, None]}
    if _has_checker(config):
        absent |= {"safety_checker": None, "requires_safety_checker": False}
    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32, **absent)
    return pipeline, config


def _load_folder(path: Path) -> tuple[Any, Mapping[str, Any]]:
    check_folder(path)
    try:
        # No file of a folder is on the hub.
        with hub_offline():
            return _load(str(path))
    # diffusers and transformers raise errors of many kinds.
    except Exception as error:
        raise folder_error(path, error) from error


def _has_checker(config: Mapping[str, Any]) -> bool:
    return config.get("safety_checker") not in (None, [None, None], (None, None))


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from diffusers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
