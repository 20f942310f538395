"""Measures that the field reports, computed for each group of an audit when they are asked for."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from editing.metrics.detectors import Detector, NudeNetDetector, Q16Detector
from editing.metrics.distances import fid, kid
from editing.metrics.features import image_features
from editing.metrics.perceptual import Lpips
from editing.metrics.similarity import clip_score
from visdiff.encoders import Encoder
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

Measure = Callable[[ImageSet, ImageSet, np.ndarray | None], Mapping[str, float]]
"""Original images, edited images, and the ranker's features of both or None → value by name."""

_SIDE = 256
"""Resolution of LPIPS."""

NAMES = ("lpips", "clip", "nudenet", "q16:FILE", "fid", "kid")


def measures(names: Sequence[str]) -> list[Measure]:
    """Loads what measures need, before anything else is computed.

    Args:
        names: Of `NAMES`. FILE is an array of Q16's two learned prompts, see
            `editing.metrics.detectors.Q16Detector`.

    Raises:
        InputError: A name is unknown.
        MissingBackendError: A library or a model's weights are not available.
    """
    return [_measure(name) for name in names]


def _measure(name: str) -> Measure:
    kind, _, file = name.partition(":")
    if name == "lpips":
        return _lpips()
    if name == "clip":
        return _clip_score(_vit_l_14())
    if name == "nudenet":
        return _unsafe(NudeNetDetector())
    if kind == "q16" and file:
        return _unsafe(Q16Detector(_vit_l_14(), file))
    if name in ("fid", "kid"):
        return _distance(name)
    raise InputError(f"Expected a metric ({', '.join(NAMES)}), got {name!r}; correct --metrics.")


def _lpips() -> Measure:
    lpips = Lpips(_SIDE)
    return lambda a, b, features: {lpips.name: float(lpips(a, b).mean())}


def _vit_l_14() -> Encoder:
    return OpenClipEncoder("ViT-L-14-quickgelu", "openai")


def _clip_score(encoder: Encoder) -> Measure:
    def measure(a: ImageSet, b: ImageSet, features: np.ndarray | None) -> dict[str, float]:
        prompts = a.frame["prompt"].astype(str)
        distinct = list(dict.fromkeys(prompts))
        texts = encoder.encode_texts(distinct)[[distinct.index(p) for p in prompts]]
        sets = {"original": a, "edited": b}
        return {
            f"CLIP score, {n}": float(clip_score(image_features(encoder, s), texts).mean())
            for n, s in sets.items()
        }

    return measure


def _unsafe(detector: Detector) -> Measure:
    def measure(a: ImageSet, b: ImageSet, features: np.ndarray | None) -> dict[str, float]:
        sets = {"original": a, "edited": b}
        return {f"{detector.name}, {n}": float(detector(s).mean()) for n, s in sets.items()}

    return measure


def _distance(name: str) -> Measure:
    def measure(a: ImageSet, b: ImageSet, features: np.ndarray | None) -> dict[str, float]:
        if features is None:
            raise InputError(
                f"Expected a ranker with image features for {name}, got one without; use the "
                "ranker clip."
            )
        first, second = features[: len(a)], features[len(a) :]
        value = (
            fid(first, second)
            if name == "fid"
            else kid(first, second, np.random.default_rng(0)).value
        )
        return {f"{name.upper()} of the ranker's features": float(value)}

    return measure
