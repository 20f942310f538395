"""Image classifiers from torchvision, timm and transformers, and zero-shot CLIP.

A classifier is named "<library>:<model>": "torchvision:resnet50", "timm:resnet50.a1_in1k",
"transformers:microsoft/resnet-50" (or a local folder), "open_clip:ViT-B-32/openai" (zero-shot, from
the names of the data's classes), or "miniature", the bundled classifier. Each uses the
preprocessing of its weights.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from visdiff import miniature
from visdiff.encoders.hub import cached_commit, load_weights
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.encoders.zero_shot import nearest_text
from visdiff.engine import Refused, Runtime, apply
from visdiff.engine.device import resolve_device
from visdiff.errors import InputError, MissingBackendError
from visdiff.hashing import weights_digest
from visdiff.imageset import ImageSet, manifest
from visdiff.torchvision_compat import ensure_torchvision

LIBRARIES = ("torchvision", "timm", "transformers", "open_clip")
TEMPLATE = "a photo of a {}"

_WNID = re.compile(r"n\d{8}")
_TIMM_HUB = re.compile(r"^hf[-_]hub:")
_UNNAMED = re.compile(r"(?:label[ _]?)?\d+", re.IGNORECASE)


class _Loaded(NamedTuple):
    network: Any  # prepared images, stacked → (n, classes) scores
    prepare: Any
    names: tuple[str, ...]


class Classifier:
    """A trained classifier as a `visdiff.engine.ImageModel` that predicts class names.

    Args:
        spec: "torchvision:…", "timm:…", "transformers:…" or "miniature".
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".

    Raises:
        InputError: `spec` does not have this form.
    """

    kind = "prediction"

    def __init__(self, spec: str, device: str = "auto") -> None:
        self.library, self.model = _parse_spec(spec)
        self.device = device
        self._lock = threading.Lock()
        self._ready: _Loaded | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The library, its version, and the model or the digest of its local weights.

        A model of the hub has its commit; it is loaded first if it is not on disk.
        """
        version = metadata.version(self.library)
        identity: dict[str, Any] = {"library": self.library, "version": version}
        if self.library == "transformers" and Path(self.model).is_dir():
            return {**identity, "weights": weights_digest(Path(self.model))}
        identity["model"] = self.model
        if self.library == "transformers" or _TIMM_HUB.match(self.model):
            repo = _TIMM_HUB.sub("", self.model)
            if cached_commit(repo, None) is None:
                self._load()
            identity["revision"] = cached_commit(repo, None)
        return identity

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs."""
        return self._load().names

    def prepare(self, image: Image.Image) -> Any:
        """Returns the network's input, with the preprocessing of its weights."""
        return self._load().prepare(image)

    def __call__(self, batch: list[Any]) -> list[str | Refused]:
        """Returns the name of the most likely class of each prepared image."""
        import torch

        loaded = self._load()
        with torch.inference_mode():
            scores = loaded.network(torch.stack(batch)).float().cpu().numpy()
        return [
            loaded.names[int(row.argmax())] if np.isfinite(row).all() else Refused("not finite")
            for row in scores
        ]

    def _load(self) -> _Loaded:
        with self._lock:
            if self._ready is None:
                load = {
                    "torchvision": _torchvision,
                    "timm": _timm,
                    "transformers": _transformers,
                }[self.library]
                try:
                    ensure_torchvision()
                    device = resolve_device(self.device)
                    loaded = load(self.model, device)
                    self._ready = loaded._replace(names=_make_unique(loaded.names))
                except ImportError as error:
                    if isinstance(error, MissingBackendError):
                        raise
                    raise MissingBackendError(
                        f"Expected {self.library} for the classifier {self.library}:{self.model}, "
                        f"got an import error ({error}); run pip install {self.library}."
                    ) from error
            return self._ready


class ZeroShot:
    """A zero-shot classifier: predicts the class with the nearest text (CLIP, Radford et al. 2021).

    Args:
        spec: "open_clip:<model>/<weights>", or "open_clip:miniature".
        names: Names of the classes.
        texts: Text for each class, inserted into the template.
        template: Text with one ``{}``.
        device: As in `Classifier`.
    """

    kind = "prediction"

    def __init__(
        self,
        spec: str,
        names: Sequence[str],
        texts: Sequence[str],
        template: str = TEMPLATE,
        device: str = "auto",
    ) -> None:
        _, model = _parse_spec(spec)
        name, _, pretrained = model.rpartition("/") if ":" not in model else (model, "", "")
        self.encoder = OpenClipEncoder(name or model, pretrained if name else None, device)
        self.names = tuple(names)
        if template.count("{}") != 1:
            raise InputError(f"Expected a template with one {{}} for the class, got {template!r}.")
        self.texts = tuple(template.replace("{}", text) for text in texts)
        self._vectors: np.ndarray | None = None
        self._lock = threading.Lock()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The encoder's identity, the classes and their texts."""
        return {**self.encoder.identity, "names": list(self.names), "texts": list(self.texts)}

    def prepare(self, image: Image.Image) -> Any:
        """Returns CLIP's input."""
        return self.encoder.prepare(image)

    def __call__(self, batch: list[Any]) -> list[str | Refused]:
        """Returns the name of the class whose text is nearest to each prepared image."""
        with self._lock:
            if self._vectors is None:
                self._vectors = self.encoder.encode_texts(self.texts)
        return [
            v
            if isinstance(v, Refused)
            else self.names[int(nearest_text(v[None], self._vectors)[0])]
            for v in self.encoder(batch)
        ]


def predict(
    spec: str,
    images: ImageSet,
    truth: np.ndarray,
    *,
    class_names: Mapping[str, str] | None = None,
    template: str = TEMPLATE,
    runtime: Runtime,
    batch_size: int = 32,
    device: str = "auto",
) -> np.ndarray:
    """Runs a classifier on a set.

    A trained classifier's class names are matched with the data's by ``class_names``, or by equal
    text (ignoring case, "_" and "-"). If no name matches and the numbers of classes are equal,
    ImageNet's wnids, and the outputs of a classifier without names ("LABEL_0", "0"), are matched in
    the sorted order of the data's names, as torchvision's ImageFolder numbers them.

    Args:
        spec: The classifier, in the form of the module's docstring.
        images: The set.
        truth: (n,) str, the true class of each image, with the data's names.
        class_names: The data's class → the classifier's name for it, or the text for CLIP.
        template: Template of zero-shot classification.
        runtime: Its cache holds the predictions.
        batch_size: Number of images per batch.
        device: "auto", "cpu", "cuda" or "mps".

    Returns:
        (n,) str, with the data's name of a class where it has one, "" for an image that could not
        be classified.

    Raises:
        InputError: The model does not exist, or its classes do not match the data's.
        MissingBackendError: A library or a model's weights are not available.
    """
    called = class_names or {}
    known = sorted(set(truth.tolist()) - {""})
    if _parse_spec(spec)[0] == "open_clip":
        texts = [called.get(name) or name.replace("_", " ") for name in known]
        model: Classifier | ZeroShot = ZeroShot(spec, known, texts, template, device)
        named = {name: name for name in known}
    else:
        model = Classifier(spec, device)
        named = _match_names(model.names, known, called, spec)
    applied = apply(
        model,
        images,
        runtime,
        batch_size=batch_size,
        desc=f"predictions of {spec}",
    )
    return np.array([named.get(v, v) if v is not None else "" for v in applied.values], dtype=str)


def _match_names(
    own: Sequence[str], known: Sequence[str], called: Mapping[str, str], spec: str
) -> dict[str, str]:
    """Returns a mapping from the classifier's class names to the data's."""
    by_text = {_plain(called.get(name, name)): name for name in known}
    found = {name: by_text[_plain(name)] for name in own if _plain(name) in by_text}
    numbered = all(map(_WNID.fullmatch, known)) or all(map(_UNNAMED.fullmatch, own))
    if numbered and not called and not found and len(own) == len(known):
        return dict(zip(own, known, strict=True))
    if len(found) < len(known):
        lacking = sorted(set(known) - set(found.values()))
        raise InputError(
            f"Expected classes that {spec} knows, got {manifest.listed(lacking)}, which it does "
            f"not (it knows {manifest.listed(list(own))}); set class_names to its names of them."
        )
    return found


def _make_unique(names: Sequence[str]) -> tuple[str, ...]:
    """Makes names unique: torchvision's ImageNet classes have two cranes and two maillots."""
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _parse_spec(spec: str) -> tuple[str, str]:
    if spec == "miniature":
        return "transformers", str(miniature.folder("classifier"))
    library, _, model = spec.partition(":")
    if library not in LIBRARIES or not model:
        raise InputError(
            f"Expected a classifier as <library>:<model> ({', '.join(LIBRARIES)}) or miniature, "
            f"got {spec!r}; for example torchvision:resnet50."
        )
    return library, model


def _torchvision(model: str, device: str) -> _Loaded:
    from torchvision import models

    name, _, tag = model.partition("/")
    try:
        every: Any = models.get_model_weights(name)
        weights: Any = every[tag] if tag else every.DEFAULT
    except (ValueError, KeyError) as error:
        raise InputError(
            f"Expected a classifier of torchvision (such as resnet50/IMAGENET1K_V1), got {model!r}."
        ) from error
    network = load_weights(
        lambda: models.get_model(name, weights=weights), f"torchvision model {model}"
    )
    network = network.eval().to(device)
    return _Loaded(
        lambda x: network(x.to(device)), weights.transforms(), tuple(weights.meta["categories"])
    )


def _timm(model: str, device: str) -> _Loaded:
    import timm
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
    from timm.data import resolve_model_data_config as data_config

    if ":" not in model and not timm.is_model(model):
        raise InputError(
            f"Expected a classifier of timm (such as resnet50.a1_in1k), got {model!r}."
        )
    network: Any = load_weights(
        lambda: timm.create_model(model, pretrained=True), f"timm model {model}"
    )
    network = network.eval().to(device)
    names = network.pretrained_cfg.get("label_names")
    if not names:
        subset = infer_imagenet_subset(network)
        if subset is None:
            raise InputError(f"Expected a timm model that names its classes, got {model!r}.")
        info = ImageNetInfo(subset)
        names = [info.index_to_label_name(i) for i in range(network.num_classes)]
    transform = create_transform(**data_config(network), is_training=False)
    return _Loaded(lambda x: network(x.to(device)), transform, tuple(names))


def _transformers(model: str, device: str) -> _Loaded:
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    def load() -> tuple[Any, Any]:
        return (
            AutoModelForImageClassification.from_pretrained(model, dtype=torch.float32),
            AutoImageProcessor.from_pretrained(model),
        )

    network, processor = load_weights(load, f"classifier {model}")
    network = network.eval().to(device)
    names = tuple(network.config.id2label[i] for i in range(network.config.num_labels))

    def prepare(image: Image.Image) -> Any:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    return _Loaded(lambda x: network(pixel_values=x.to(device)).logits, prepare, names)
