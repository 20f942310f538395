"""BLIP and BLIP-2 through transformers.

Decoding is greedy or beam search, without sampling. Every image of a batch gets the same prompt, so
no left padding is needed. A caption therefore depends on the image, the weights and the settings,
not on its batch. Inference uses float32 on the CPU and on MPS, and half precision on CUDA.

Li et al., "BLIP" (2022), arXiv:2201.12086; Li et al., "BLIP-2" (2023), arXiv:2301.12597.
"""

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from PIL import Image

from visdiff import miniature
from visdiff.captioners import Captioner
from visdiff.encoders.hub import cached_commit, check_download, load_weights
from visdiff.engine import Applied, ImageModel, Refused, Runtime, apply
from visdiff.engine.device import resolve_device
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.hashing import weights_digest
from visdiff.imageset import ImageSet
from visdiff.torchvision_compat import ensure_torchvision

if TYPE_CHECKING:
    # Imported where it is used: a run whose captions are all cached needs no torch.
    import torch

logger = logging.getLogger(__name__)

# Default revisions; those of other models are resolved when they are loaded.
_PINNED = {"Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Loaded(NamedTuple):
    """A transformers model, its processor, its device, and its commit on the hub."""

    model: Any
    processor: Any
    device: str
    commit: str | None


class _BlipFamily(Captioner, ABC):
    """The base of BLIP and BLIP-2: loading, batching, and cleaning of the generated text."""

    kind = "caption"
    _class: ClassVar[str]
    _model_type: ClassVar[str]
    _default_model: ClassVar[str]

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        max_new_tokens: int = 60,
        batch_size: int = 8,
        device: str = "auto",
        num_beams: int = 1,
        workers: int = 2,
        runtime: Runtime | None = None,
    ) -> None:
        self.model = model or self._default_model
        self.revision = revision or _PINNED.get(self.model)
        self.prompt = prompt or None
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.device = device
        self.num_beams = num_beams
        self.workers = workers
        self.runtime = runtime or Runtime()
        if max_new_tokens < 1 or num_beams < 1:
            raise InputError(
                "Expected max_new_tokens and num_beams of at least 1, "
                f"got {max_new_tokens} and {num_beams}."
            )
        self._lock = threading.Lock()
        self._ready: Loaded | None = None
        self._identity: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The backend, weights (digest of a folder or hub commit), prompt and decoding settings."""
        if self._identity is None:
            self._identity = self._identify()
        return self._identity

    def _identify(self) -> dict[str, Any]:
        folder = self._folder()
        weights: dict[str, Any]
        if folder is not None:
            weights = {"weights": weights_digest(folder)}
        else:
            weights = {"model": self.model, "revision": self._commit()}
        return {
            "backend": self.name,
            **weights,
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
        }

    def captions(self, images: ImageSet) -> Applied:
        """Returns a caption of every image (see `visdiff.captioners.Captioner`).

        An empty caption is a failure, and so is one without an end token within ``max_new_tokens``.

        Raises:
            InputError: The model's folder does not exist, or the device is not available.
            MissingBackendError: The weights cannot be loaded.
        """
        return apply(
            self,
            images,
            self.runtime,
            batch_size=self.batch_size,
            workers=self.workers,
            desc="captions",
        )

    @property
    def image_model(self) -> ImageModel:
        """The captioner itself."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Workers on other machines load the weights themselves.
        return {**vars(self), "_lock": None, "_ready": None, "runtime": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Returns the model's pixel values, float32, shape (3, height, width)."""
        return self.load().processor.image_processor(images=image, return_tensors="pt")[
            "pixel_values"
        ][0]

    def __call__(self, batch: "list[torch.Tensor]") -> list[str | Refused]:
        """Returns captions of a batch of prepared images."""
        import torch

        loaded = self.load()
        tokenizer = loaded.processor.tokenizer
        decoder = self._decoder(loaded.model)
        ends = self.end_tokens(loaded)
        prompt = self.prompt_ids(loaded)
        ids = torch.tensor([prompt] * len(batch), dtype=torch.long, device=loaded.device)
        pixels = torch.stack(batch).to(loaded.device, dtype=loaded.model.dtype)
        pad = tokenizer.pad_token_id
        with torch.inference_mode():
            output = loaded.model.generate(
                pixel_values=pixels,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                num_beams=self.num_beams,
                max_new_tokens=self.max_new_tokens,
                **self._stops(ends, ends[0] if pad is None else pad),
            )
        if not decoder.config.is_encoder_decoder:
            output = output[:, self._n_echoed(prompt) :]
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        results: list[str | Refused] = []
        for row, text in zip(output.tolist(), texts, strict=True):
            clean = " ".join(text.split())
            if not set(row) & set(ends):
                results.append(
                    Refused(f"no end within max_new_tokens={self.max_new_tokens}; raise it")
                )
            else:
                results.append(clean or Refused("empty caption"))
        return results

    # Implemented by BLIP and BLIP-2.

    @abstractmethod
    def _decoder(self, model: Any) -> Any:
        """Returns the part of the model that generates text."""

    @abstractmethod
    def prompt_ids(self, loaded: Loaded) -> list[int]:
        """Returns the tokens before the caption; in BLIP-2, the image placeholders come first."""

    @abstractmethod
    def _n_echoed(self, prompt: list[int]) -> int:
        """Returns the number of prompt tokens at the beginning of the output."""

    @abstractmethod
    def end_tokens(self, loaded: Loaded) -> list[int]:
        """Returns the tokens that end a caption."""

    @abstractmethod
    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        """Returns the arguments of ``generate`` for end and padding tokens."""

    # Loading.

    def _folder(self) -> Path | None:
        if self.model == "miniature":
            return miniature.folder("captioner")
        path = Path(self.model).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.model.startswith((".", "~")) or self.model.count("/") > 1:
            raise InputError(
                f"Expected a hub id (owner/name) or a folder as the captioner's model, got "
                f"{self.model!r}, which is not a folder; check the path."
            )
        return None

    def _commit(self) -> str | None:
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        if found := cached_commit(self.model, self.revision):
            return found
        self.check_weights()
        return self.load().commit

    def check_weights(self) -> None:
        """Checks that the weights are on disk or that the hub can be asked, without loading them.

        Raises:
            InputError: The model's folder does not exist.
            MissingWeightsError: The weights are not on disk, and the hub does not respond.
        """
        if self._folder() is None and cached_commit(self.model, self.revision) is None:
            check_download(f"captioner {self.model}")

    def load(self) -> Loaded:
        """Returns the model and its processor; loads them on the first call.

        Raises:
            InputError: The model's folder does not exist, or the device is not available.
            MissingBackendError: The weights cannot be loaded.
        """
        with self._lock:
            if self._ready is None:
                folder = self._folder()
                if folder is None:
                    self._ready = load_weights(self._build, f"captioner {self.model}")
                else:
                    try:
                        self._ready = self._build(folder)
                    except VisdiffError:
                        raise
                    except (OSError, ValueError, KeyError, RuntimeError) as error:
                        raise MissingBackendError(
                            f"Expected files in {folder} written by save_pretrained of "
                            f"{self._class} and its processor, got {type(error).__name__}: "
                            f"{error}; save the captioner again."
                        ) from error
            return self._ready

    def _build(self, folder: Path | None = None) -> Loaded:
        ensure_torchvision()
        import torch
        import transformers

        source = self.model if folder is None else str(folder)
        options: dict[str, Any] = {"local_files_only": True} if folder else {}
        if folder is None and self.revision:
            options["revision"] = self.revision
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type != self._model_type:
            raise InputError(
                f"Expected a {self._model_type} model for the captioner {self.name!r}, got "
                f"{self.model!r} of type {config.model_type!r}; choose another model or captioner."
            )
        device = resolve_device(self.device)
        dtype = torch.float32
        if device.startswith("cuda"):
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        model, info = getattr(transformers, self._class).from_pretrained(
            source, dtype=dtype, output_loading_info=True, **options
        )
        if info["missing_keys"]:
            logger.warning(
                "%d weights of captioner %s are missing from its checkpoint and were initialised "
                "at random; the first is %s.",
                len(info["missing_keys"]),
                self.model,
                sorted(info["missing_keys"])[0],
            )
        processor = transformers.AutoProcessor.from_pretrained(source, **options)
        commit = getattr(config, "_commit_hash", None)
        return Loaded(model.to(device).eval(), processor, device, commit)


class Blip2Captioner(_BlipFamily):
    """A captioner using BLIP-2: a frozen image encoder, a Q-Former, and an OPT or T5 decoder.

    Args:
        model: Hub id or local folder; "miniature" is the bundled one.
        revision: Commit, tag or branch of a hub model; its commit is part of the cache key.
        prompt: Instruction or question before the caption, such as "Question: what is in the image?
            Answer:"; None for no prompt.
        max_new_tokens: Maximum length of a caption; a longer one is a failure and is not cut.
        batch_size: Images per batch.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        num_beams: Number of beams; 1 is greedy, LAVIS uses 5.
        workers: Threads that decode images.
        runtime: The run's cache, progress and engine.
    """

    name = "blip2"
    _class = "Blip2ForConditionalGeneration"
    _model_type = "blip-2"
    _default_model = "Salesforce/blip2-flan-t5-xxl"

    def _decoder(self, model: Any) -> Any:
        return model.language_model

    def prompt_ids(self, loaded: Loaded) -> list[int]:
        """Returns one placeholder per query, then the prompt or, without one, the start token."""
        config, tokenizer = loaded.model.config, loaded.processor.tokenizer
        if config.image_token_id is None:
            raise MissingBackendError(
                f"Expected an image token in config.json of {self.model!r}, got none, as in "
                "checkpoints saved before transformers 4.46; use a newer revision."
            )
        # Not by the processor: the number of queries is part of the model's configuration.
        queries = [config.image_token_id] * config.num_query_tokens
        text = config.text_config
        if self.prompt is None and not text.is_encoder_decoder and text.bos_token_id is not None:
            return [*queries, text.bos_token_id]
        ids = list(tokenizer(self.prompt or "")["input_ids"])
        if not text.is_encoder_decoder and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            # After an end token, a decoder generates nothing.
            ids.pop()
        return [*queries, *ids]

    def _n_echoed(self, prompt: list[int]) -> int:
        return len(prompt)

    def end_tokens(self, loaded: Loaded) -> list[int]:
        """Returns the end tokens of the language model and of BLIP-2, or the tokenizer's."""
        ends: list[int] = []
        for part in (loaded.model.language_model, loaded.model):
            end = part.generation_config.eos_token_id
            ends += [] if end is None else end if isinstance(end, list) else [end]
        return list(dict.fromkeys(ends)) or [loaded.processor.tokenizer.eos_token_id]

    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        return {"eos_token_id": ends, "pad_token_id": pad}


class BlipCaptioner(_BlipFamily):
    """A captioner using BLIP: an image encoder and a BERT-like decoder with cross-attention.

    Args:
        model: Hub id or local folder.
        revision: Commit, tag or branch of a hub model; the base model's is pinned by default.
        prompt: Beginning of the caption, such as "a photo of"; the result does not include it.
        max_new_tokens: Maximum length of a caption; a longer one is a failure and is not cut.
        batch_size: Images per batch.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        num_beams: Number of beams; 1 is greedy.
        workers: Threads that decode images.
        runtime: The run's cache, progress and engine.
    """

    name = "blip"
    _class = "BlipForConditionalGeneration"
    _model_type = "blip"
    _default_model = "Salesforce/blip-image-captioning-base"

    def _decoder(self, model: Any) -> Any:
        return model.text_decoder

    def prompt_ids(self, loaded: Loaded) -> list[int]:
        """Returns the tokens of the prompt or, without one, the start and separator tokens."""
        text = loaded.model.config.text_config
        if self.prompt is None:
            return [text.bos_token_id, text.sep_token_id]
        return list(loaded.processor.tokenizer(self.prompt)["input_ids"])

    def _n_echoed(self, prompt: list[int]) -> int:
        # BLIP's generate drops the last token, the separator that its tokenizer appends.
        return len(prompt) - 1

    def end_tokens(self, loaded: Loaded) -> list[int]:
        """Returns the separator token, which ends a caption."""
        return [loaded.model.config.text_config.sep_token_id]

    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        # BLIP's generate takes both from the text model's configuration.
        return {}
