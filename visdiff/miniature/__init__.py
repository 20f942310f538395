"""The bundled small models: a world of drawings whose every attribute is known.

``folder("clip")`` and its kin are ordinary checkpoints: open_clip, transformers and diffusers
load them by path as they load any other. See ``MODEL_CARD.md`` beside this file.
"""

from pathlib import Path

from visdiff.errors import InputError, MissingBackendError

MODELS = ("clip", "diffusion", "captioner", "classifier")


def folder(name: str) -> Path:
    """Returns the folder of one bundled model.

    Args:
        name: "clip" (open_clip), "diffusion" (StableDiffusionPipeline), "captioner"
            (Blip2ForConditionalGeneration) or "classifier" (image classification).

    Raises:
        InputError: No such model.
        MissingBackendError: The weights are not in this installation.
    """
    if name not in MODELS:
        raise InputError(f"The miniature has no model {name!r}; choose from {', '.join(MODELS)}.")
    path = Path(__file__).parent / "weights" / name
    if not path.is_dir():
        raise MissingBackendError(
            f"Expected the miniature's {name} at {path}; reinstall visdiff from a complete wheel "
            "or checkout, or train it with `python -m visdiff.miniature.train`."
        )
    return path


def available() -> bool:
    """Whether all the bundled weights are in this installation."""
    root = Path(__file__).parent / "weights"
    return all((root / name).is_dir() for name in MODELS)
