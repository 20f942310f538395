"""CLIP models through open_clip.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021),
arXiv:2103.00020; Cherti et al. (2022), arXiv:2212.07143.
"""

import threading
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from visdiff import miniature
from visdiff.encoders.hub import cached_commit, check_download, is_cached, load_weights
from visdiff.engine import Refused
from visdiff.engine.device import resolve_device
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.hashing import weights_digest
from visdiff.torchvision_compat import ensure_torchvision

if TYPE_CHECKING:
    # Imported on use: a run with cached embeddings needs no torch.
    import torch

_LOCAL = "local-dir:"
_TEXTS_AT_ONCE = 64
# Weights in the repositories of open_clip's models.
_HUB_CONFIG = "open_clip_config.json"
_HUB_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
REPOSITORIES = {
    ("ViT-B-32", "laion2b_s34b_b79k"): "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    ("ViT-SO400M-16-SigLIP2-384", "webli"): "timm/ViT-SO400M-16-SigLIP2-384",
    ("ViT-bigG-14", "laion2b_s39b_b160k"): "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
}
"""The hub's repositories of the presets' weights. open_clip has all, but its import needs torch."""


class _Loaded(NamedTuple):
    model: Any
    preprocess: Any
    tokenizer: Any
    device: str


class OpenClipEncoder:
    """A CLIP model as an encoder (`visdiff.encoders.Encoder`).

    Args:
        model: An architecture of open_clip ("ViT-B-32"), a hub model ("hf-hub:owner/name"), a local
            folder ("local-dir:/path" or a path that holds ``open_clip_config.json``,
            ``open_clip_model.safetensors`` and, with ``hf_tokenizer_name`` in the config's
            ``text_cfg``, a tokenizer), or "miniature", the bundled one.
        pretrained: Tag of the weights ("laion2b_s34b_b79k") or path of a weights file. Required for
            an architecture, ignored otherwise.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps". float32 everywhere.
        **_: Other fields of the configuration, ignored.
    """

    name = "open_clip"
    kind = "embedding"

    def __init__(
        self,
        model: str = "ViT-B-32",
        pretrained: str | None = "laion2b_s34b_b79k",
        device: str = "auto",
        **_: Any,
    ) -> None:
        self.model = model
        self.pretrained = pretrained
        self.device = device
        self._lock = threading.Lock()
        self._ready: _Loaded | None = None
        self._identity: Mapping[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Pickled without weights: the other process loads them itself.
        return {**vars(self), "_lock": None, "_ready": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend and weights: the content of a folder, a commit of the hub, or open_clip's tag.

        Raises:
            InputError: The folder does not exist, or an architecture has no weights.
            MissingWeightsError: A hub model is not on disk, and the hub does not respond.
        """
        if self._identity is None:
            self._identity = self._identify()
        return self._identity

    def _identify(self) -> dict[str, Any]:
        folder = self._folder()
        if folder is not None:
            return {"backend": self.name, "weights": weights_digest(folder)}
        identity: dict[str, Any] = {
            "backend": self.name,
            "model": self.model,
            "open_clip": metadata.version("open_clip_torch"),
        }
        if self.model.startswith("hf-hub:"):
            return {**identity, "revision": self._commit(self.model.removeprefix("hf-hub:"))}
        if not self.pretrained:
            raise InputError(
                f"Expected the tag of pretrained weights for open_clip model {self.model!r}, got "
                "none; untrained weights rank nothing."
            )
        file = Path(self.pretrained).expanduser()
        if file.is_file():
            return {**identity, "weights": weights_digest(file)}
        return {**identity, "pretrained": self.pretrained}

    def _commit(self, repo: str) -> str | None:
        """Returns the commit of a hub model that is loaded; downloads its configuration first."""
        from huggingface_hub import hf_hub_download

        if found := cached_commit(repo, None, _HUB_CONFIG):
            return found
        load_weights(lambda: hf_hub_download(repo, _HUB_CONFIG), self._description)
        return cached_commit(repo, None, _HUB_CONFIG)

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a text, start and end tokens included."""
        return int(self._load().tokenizer.context_length)

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Returns the pixels of an image, float32, shape (3, height, width)."""
        return self._load().preprocess(image)

    def __call__(self, batch: "list[torch.Tensor]") -> list[np.ndarray | Refused]:
        """Returns a float32 unit vector, shape (d,), for each prepared image."""
        import torch

        loaded = self._load()
        with torch.inference_mode():
            features = loaded.model.encode_image(torch.stack(batch).to(loaded.device))
            vectors = _unit(features)
        return [
            row if np.isfinite(row).all() else Refused("the embedding is not finite")
            for row in vectors
        ]

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encodes texts as they are, without a template.

        Args:
            texts: n texts; none is truncated.

        Returns:
            float32 unit vectors, shape (n, d).

        Raises:
            InputError: A text is longer than the context; the message contains it.
        """
        import torch

        loaded = self._load()
        for text in texts:
            self.check_text(text)
        rows = [np.zeros((0, self._dimension(loaded)), np.float32)]
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            tokens = loaded.tokenizer(list(texts[start : start + _TEXTS_AT_ONCE]))
            with torch.inference_mode():
                rows.append(_unit(loaded.model.encode_text(tokens.to(loaded.device))))
        return np.concatenate(rows)

    def check_text(self, text: str) -> None:
        """Raises InputError if a text is longer than the context."""
        tokenizer = self._load().tokenizer
        limit, used = int(tokenizer.context_length), _token_count(tokenizer, text)
        if used > limit:
            raise InputError(
                f"Expected a text of at most {limit} tokens for {self.model!r}, got {used}: "
                f"{text!r}; shorten it (texts are never truncated)."
            )

    def _dimension(self, loaded: _Loaded) -> int:
        import torch

        tokens = loaded.tokenizer([""])
        with torch.inference_mode():
            return int(loaded.model.encode_text(tokens.to(loaded.device)).shape[-1])

    def _folder(self) -> Path | None:
        if self.model == "miniature":
            return miniature.folder("clip")
        local = self.model.startswith(_LOCAL)
        path = Path(self.model.removeprefix(_LOCAL)).expanduser()
        if path.is_dir():
            if not (path / _HUB_CONFIG).is_file():
                raise InputError(
                    f"Expected open_clip_config.json and open_clip_model.safetensors in {path}, "
                    "got a folder without open_clip_config.json."
                )
            return path
        if local or path.is_absolute():
            raise InputError(
                f"Expected a folder with open_clip_config.json, got {path}, which is not a folder; "
                "check the path."
            )
        return None

    def check_weights(self) -> None:
        """Checks that the weights are on disk or that the hub can be asked, without loading them.

        Raises:
            InputError: The model's folder does not exist, or open_clip has no such model.
            MissingWeightsError: The weights are not on disk, and the hub does not respond.
        """
        if self._folder() is not None or self._is_on_disk():
            return
        check_download(self._description)

    def _is_on_disk(self) -> bool:
        if self.model.startswith("hf-hub:"):
            return is_cached(self.model.removeprefix("hf-hub:"), *_HUB_FILES)
        if self.pretrained and Path(self.pretrained).expanduser().is_file():
            return True
        repo = REPOSITORIES.get((self.model, self.pretrained or ""))
        if repo is None:
            self._check_names()
            source = _import_open_clip().get_pretrained_cfg(self.model, self.pretrained)
            repo = str(source.get("hf_hub") or "").rstrip("/")
        # Weights that come from elsewhere are not of the hub: its silence says nothing.
        return not repo or is_cached(repo, *_HUB_FILES)

    @property
    def _description(self) -> str:
        return f"open_clip model {self.model} ({self.pretrained or 'from the hub'})"

    def _load(self) -> _Loaded:
        with self._lock:
            if self._ready is None:
                _ = self.identity  # raises for invalid arguments before loading
                folder = self._folder()
                if folder is not None:
                    try:
                        self._ready = self._build(f"{_LOCAL}{folder}", None)
                    except VisdiffError:
                        raise
                    except (OSError, ValueError, KeyError, RuntimeError) as error:
                        raise MissingBackendError(
                            f"Expected a loadable open_clip model in {folder}, got "
                            f"{type(error).__name__}: {error}; check its files."
                        ) from error
                else:
                    self._check_names()
                    self._ready = load_weights(
                        lambda: self._build(self.model, self.pretrained),
                        self._description,
                    )
            return self._ready

    def _check_names(self) -> None:
        """Raises InputError for names unknown to open_clip, before a download is tried."""
        if self.model.startswith("hf-hub:") or not self.pretrained:
            return
        import difflib

        open_clip = _import_open_clip()
        if self.model not in open_clip.list_models():
            near = difflib.get_close_matches(self.model, open_clip.list_models(), n=3)
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            raise InputError(
                f"Expected a model of open_clip, got {self.model!r}{hint}; "
                "open_clip.list_models() lists them."
            )
        tags = open_clip.list_pretrained_tags_by_model(self.model)
        known = self.pretrained.lower().replace("-", "_") in tags
        if not known and not Path(self.pretrained).expanduser().is_file():
            raise InputError(
                f"Expected a weights tag of open_clip model {self.model!r} ({', '.join(tags)}) or "
                f"a file, got {self.pretrained!r}."
            )

    def _build(self, name: str, pretrained: str | None) -> _Loaded:
        open_clip = _import_open_clip()
        device = resolve_device(self.device)
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            None if name.startswith(("hf-hub:", _LOCAL)) else pretrained,
            precision="fp32",
            device=device,
            # Otherwise missing weights are random, with only a log message.
            require_pretrained=True,
        )
        return _Loaded(model.eval(), preprocess, open_clip.get_tokenizer(name), device)


def _import_open_clip() -> Any:
    try:
        ensure_torchvision()
        import open_clip
    except ImportError as error:
        raise MissingBackendError(
            f"Expected open_clip for the CLIP encoder, got an import error ({error}); install it "
            "with `pip install open_clip_torch`."
        ) from error
    return open_clip


def _unit(features: "torch.Tensor") -> np.ndarray:
    """Normalises rows to length 1, in float32."""
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def _token_count(tokenizer: Any, text: str) -> int:
    """Returns the number of a text's tokens before open_clip's tokenizers truncate them."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        # open_clip's own byte pair encoding, between a start and an end token.
        return len(tokenizer.encode(text)) + 2
    clean = getattr(tokenizer, "clean_fn", None)
    clean_text = clean(text) if clean else text
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        return len(inner(clean_text, add_special_tokens=False)["input_ids"]) + 3
    return len(inner(clean_text)["input_ids"])
