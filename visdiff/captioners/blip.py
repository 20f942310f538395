"""BLIP and BLIP-2 through transformers.

Decoding is greedy or beam search, never sampling, and every image of a batch gets the same prompt,
so that nothing is padded on the left: a caption depends on the image, the weights and the settings,
not on the batch it was made in. Weights run in float32 on the CPU and on MPS, in half precision on
CUDA.

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
from visdiff.encoders.hub import cached_commit, load_weights
from visdiff.engine import Applied, ImageModel, Refused, Runtime, apply, resolve_device
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.hashing import weights_digest
from visdiff.imageset import ImageSet
from visdiff.torchvision_compat import ensure_torchvision

if TYPE_CHECKING:
    # Imported where it computes: a run whose answers are all cached needs no torch.
    import torch

logger = logging.getLogger(__name__)

# What a model id means here when no revision is given; others are resolved when they are loaded.
_PINNED = {"Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b"}
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Loaded(NamedTuple):
    """A network of transformers, its processor, where it runs, and its commit on the hub."""

    model: Any
    processor: Any
    device: str
    commit: str | None


class _BlipFamily(Captioner, ABC):
    """What BLIP and BLIP-2 share: loading, batching, and care of the text that comes out."""

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
                "expected max_new_tokens and num_beams of at least 1, "
                f"got {max_new_tokens} and {num_beams}"
            )
        self._lock = threading.Lock()
        self._ready: Loaded | None = None
        self._identity: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """Backend, weights (content of a local folder, commit of a hub model), prompt, decoding."""
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
        """Caption every image (see `visdiff.captioners.Captioner`).

        An empty caption, and one that did not come to its end within ``max_new_tokens``, is a
        failure.

        Raises:
            InputError: The model's folder does not exist, or the device is not there.
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
        # Sent to another machine: it loads the weights itself.
        return {**vars(self), "_lock": None, "_ready": None, "runtime": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Return the pixels the network reads, float32, shape (3, height, width)."""
        return self.load().processor.image_processor(images=image, return_tensors="pt")[
            "pixel_values"
        ][0]

    def __call__(self, batch: "list[torch.Tensor]") -> list[str | Refused]:
        """Caption a batch of prepared images."""
        import torch

        loaded = self.load()
        tokenizer = loaded.processor.tokenizer
        decoder = self._decoder(loaded.model)
        ends = self.ends(loaded)
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
            output = output[:, self._given(prompt) :]
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

    # What differs between the two.

    @abstractmethod
    def _decoder(self, model: Any) -> Any:
        """Return the part that writes."""

    @abstractmethod
    def prompt_ids(self, loaded: Loaded) -> list[int]:
        """Return the tokens that stand before the caption; BLIP-2's places for the image first."""

    @abstractmethod
    def _given(self, prompt: list[int]) -> int:
        """Return how many of the prompt's tokens the output begins with."""

    @abstractmethod
    def ends(self, loaded: Loaded) -> list[int]:
        """Return the tokens that end a caption."""

    @abstractmethod
    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        """Return what ``generate`` has to be told of ends and padding."""

    # Loading.

    def _folder(self) -> Path | None:
        if self.model == "miniature":
            return miniature.folder("captioner")
        path = Path(self.model).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.model.startswith((".", "~")) or self.model.count("/") > 1:
            raise InputError(
                f"expected a model's folder or a hub id (owner/name) for the captioner, got "
                f"{self.model!r}, which is no folder"
            )
        return None

    def _commit(self) -> str | None:
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        return cached_commit(self.model, self.revision) or self.load().commit

    def load(self) -> Loaded:
        """Return the network and what goes with it; loaded on the first call.

        Raises:
            InputError: The model's folder does not exist, or the device is not there.
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
                            f"the captioner in {folder} cannot be loaded: expected what "
                            f"{self._class}.save_pretrained and its processor's write, got "
                            f"{type(error).__name__}: {error}"
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
                f"expected a {self._model_type} model for captioner {self.name!r}, got "
                f"{self.model!r}, "
                f"whose type is {config.model_type!r}"
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
                "%d weights of captioner %s are not in its checkpoint and random, %s first",
                len(info["missing_keys"]),
                self.model,
                sorted(info["missing_keys"])[0],
            )
        processor = transformers.AutoProcessor.from_pretrained(source, **options)
        commit = getattr(config, "_commit_hash", None)
        return Loaded(model.to(device).eval(), processor, device, commit)


class Blip2Captioner(_BlipFamily):
    """Captions by BLIP-2 (a frozen image encoder, a Q-Former, an OPT or T5 language model).

    Args:
        model: Hub id or local folder; "miniature" is the bundled one.
        revision: Commit, tag or branch of a hub model. The commit it stands for enters the cache
            key.
        prompt: Instruction or question before the caption, such as "Question: what is in the image?
            Answer:"; None captions without one.
        max_new_tokens: Longest caption; a longer one is a failure, not a stump.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        num_beams: 1 is greedy; LAVIS captions with 5.
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
        """Return a place for each query, then the prompt, or the start token without one."""
        config, tokenizer = loaded.model.config, loaded.processor.tokenizer
        if config.image_token_id is None:
            raise MissingBackendError(
                f"the checkpoint {self.model!r} names no image token in its config.json, as ones "
                "saved "
                "before transformers 4.46 do; use a newer revision of it"
            )
        # Made here rather than by the processor: the number of queries is the model's to know.
        queries = [config.image_token_id] * config.num_query_tokens
        text = config.text_config
        if self.prompt is None and not text.is_encoder_decoder and text.bos_token_id is not None:
            return [*queries, text.bos_token_id]
        ids = list(tokenizer(self.prompt or "")["input_ids"])
        if not text.is_encoder_decoder and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            # A decoder that reads its own end continues with nothing.
            ids.pop()
        return [*queries, *ids]

    def _given(self, prompt: list[int]) -> int:
        return len(prompt)

    def ends(self, loaded: Loaded) -> list[int]:
        """Return the end tokens of the language model and of the whole, or the tokenizer's."""
        ends: list[int] = []
        for part in (loaded.model.language_model, loaded.model):
            end = part.generation_config.eos_token_id
            ends += [] if end is None else end if isinstance(end, list) else [end]
        return list(dict.fromkeys(ends)) or [loaded.processor.tokenizer.eos_token_id]

    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        return {"eos_token_id": ends, "pad_token_id": pad}


class BlipCaptioner(_BlipFamily):
    """Captions by BLIP (an image encoder and a BERT-like decoder that attends to it).

    Args:
        model: Hub id or local folder.
        revision: Commit, tag or branch of a hub model; the base model's is pinned by default.
        prompt: Beginning of the caption, such as "a photo of"; it is not repeated in what is
            returned.
        max_new_tokens: Longest caption; a longer one is a failure, not a stump.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".
        num_beams: 1 is greedy.
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
        """Return the beginning of the caption, or the start and separator tokens."""
        text = loaded.model.config.text_config
        if self.prompt is None:
            return [text.bos_token_id, text.sep_token_id]
        return list(loaded.processor.tokenizer(self.prompt)["input_ids"])

    def _given(self, prompt: list[int]) -> int:
        # BLIP's generate drops the last token, the separator that its tokenizer appends.
        return len(prompt) - 1

    def ends(self, loaded: Loaded) -> list[int]:
        """Return the separator."""
        return [loaded.model.config.text_config.sep_token_id]

    def _stops(self, ends: list[int], pad: int) -> dict[str, Any]:
        # BLIP's generate sets both itself, from the text model's configuration.
        return {}
