"""The bundled small models of a world of drawings with known attributes.

``folder(name)`` is an ordinary checkpoint, which open_clip, transformers or diffusers load by path.
See ``MODEL_CARD.md`` in this folder.
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
        InputError: The model does not exist.
        MissingBackendError: The weights are not installed.
    """
    if name not in MODELS:
        raise InputError(f"Expected one of {', '.join(MODELS)}, got {name!r}; correct the name.")
    path = Path(__file__).parent / "weights" / name
    if not path.is_dir():
        raise MissingBackendError(
            f"Expected the miniature's {name} at {path}, got no such folder; reinstall visdiff "
            "from a complete wheel or checkout, or train it: `python -m visdiff.miniature.train`."
        )
    return path


def available() -> bool:
    """Returns whether all bundled weights are installed."""
    root = Path(__file__).parent / "weights"
    return all((root / name).is_dir() for name in MODELS)
