"""Optional measures of each group of an audit: LPIPS, CLIP score, unsafe rates, FID and KID."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from editing.audits.metric_names import check_names
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
"""A function of original images, edited images and the ranker's features of both (or None) that
returns values by name."""

_SIDE = 256
"""Resolution of LPIPS, in pixels."""


def load_measures(names: Sequence[str]) -> dict[str, Measure]:
    """Loads measures with the models that they need.

    Args:
        names: Names from `NAMES`. FILE holds Q16's two learned prompts, see
            `editing.metrics.detectors.Q16Detector`.

    Returns:
        Name → measure, in order.

    Raises:
        InputError: A name is unknown.
        MissingBackendError: A library or a model's weights are not available.
    """
    check_names(names)
    return {name: _load_measure(name) for name in names}


def measure_all(
    measures: Mapping[str, Measure],
    original: ImageSet,
    edited: ImageSet,
    features: np.ndarray | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Computes measures of a group; one that the group does not allow does not end the audit.

    Args:
        measures: Name → measure.
        original: Images of the unedited model.
        edited: Images of the edited model, in the same order.
        features: The ranker's features of both, (2n, d); None if it has none.

    Returns:
        Values by name, and for each measure that was not computed its name → the reason.
    """
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, measure in measures.items():
        try:
            values |= measure(original, edited, features)
        except InputError as error:
            missing[name] = str(error)
    return values, missing


def _load_measure(name: str) -> Measure:
    kind, _, file = name.partition(":")
    if name == "lpips":
        return _lpips_measure()
    if name == "clip":
        return _clip_score_measure(_load_vit_l_14())
    if name == "nudenet":
        return _unsafe_rate_measure(NudeNetDetector())
    if kind == "q16" and file:
        return _unsafe_rate_measure(Q16Detector(_load_vit_l_14(), file))
    return _distance_measure(name)


def _lpips_measure() -> Measure:
    lpips = Lpips(_SIDE)
    return lambda a, b, features: {lpips.name: float(lpips(a, b).mean())}


def _load_vit_l_14() -> Encoder:
    return OpenClipEncoder("ViT-L-14-quickgelu", "openai")


def _clip_score_measure(encoder: Encoder) -> Measure:
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


def _unsafe_rate_measure(detector: Detector) -> Measure:
    def measure(a: ImageSet, b: ImageSet, features: np.ndarray | None) -> dict[str, float]:
        sets = {"original": a, "edited": b}
        return {f"{detector.name}, {n}": float(detector(s).mean()) for n, s in sets.items()}

    return measure


def _distance_measure(name: str) -> Measure:
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
