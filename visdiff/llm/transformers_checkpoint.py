"""A chat checkpoint of transformers: what it is, its weights, what it reads of a conversation."""

import io
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image

from visdiff.encoders.hub import cached_commit, load_weights
from visdiff.engine import resolve_device
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.hashing import weights_digest
from visdiff.llm import Message, Picture
from visdiff.torchvision_compat import ensure_torchvision

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
Inputs = dict[str, torch.Tensor]
T = TypeVar("T")


class Loaded(NamedTuple):
    """A model that is ready.

    Attributes:
        model: In evaluation mode, on its device, without the generation settings it came with.
        processor: Of text and pictures, or a tokenizer.
        tokenizer: Of text.
        device: Where it is.
        ends: Tokens that end a reply.
        context: Most tokens that it reads and writes; None where it does not say.
        commit: Of a hub model.
    """

    model: Any
    processor: Any
    tokenizer: Any
    device: str
    ends: list[int]
    context: int | None
    commit: str | None


class Checkpoint:
    """A causal language model, or an image-text-to-text model, with a chat template.

    Args:
        model: Hub id or local folder.
        revision: Commit, tag or branch of a hub model.
        device: "auto", "cpu", "cuda", "cuda:<index>" or "mps".

    Raises:
        InputError: The folder does not exist.
    """

    def __init__(self, model: str, revision: str | None, device: str) -> None:
        self.model = model
        self.revision = revision
        self.device = device
        self._folder = _folder(model)
        self._lock = threading.RLock()
        self._config: Any = None
        self._loaded: Loaded | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The content of a local folder, or the commit of a hub model."""
        if self._folder is not None:
            return {"weights": weights_digest(self._folder)}
        if self.revision and _COMMIT.fullmatch(self.revision):
            commit = self.revision
        else:
            commit = cached_commit(self.model, self.revision) or self.load().commit
        return {"model": self.model, "revision": commit}

    @property
    def sees(self) -> bool:
        """Whether its type is one of image-text-to-text models; reads only its configuration."""
        ensure_torchvision()
        import transformers
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
        )

        with self._lock:
            if self._config is None:
                source, options = self._source()
                self._config = self._guarded(
                    lambda: transformers.AutoConfig.from_pretrained(source, **options)
                )
            return self._config.model_type in NAMES

    def load(self) -> Loaded:
        """Load the weights on first use.

        Raises:
            InputError: It is no chat model.
            MissingBackendError: The weights cannot be loaded.
        """
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                device, sees = resolve_device(self.device), self.sees
                loaded = self._loaded = self._guarded(lambda: self._build(device, sees))
            return loaded

    def read(self, messages: Sequence[Message]) -> Inputs:
        """Make the model's input of a conversation, on the CPU.

        Raises:
            InputError: It is longer than the context, or the chat template refuses it.
        """
        loaded = self.load()
        if self.sees:
            turns = [{"role": m.role, "content": list(map(_content, m.parts))} for m in messages]
        else:
            turns = [{"role": m.role, "content": "\n".join(map(str, m.parts))} for m in messages]
        try:
            made = _templated(loaded, turns)
        except Exception as error:
            if turns[0]["role"] != "system" or len(turns) < 2:
                raise self._refusal(error) from error
            # Some templates know no system: what it says then begins what the user says.
            try:
                made = _templated(loaded, _without_system(turns))
            except Exception:
                raise self._refusal(error) from error
        inputs = {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}
        length = inputs["input_ids"].shape[1]
        if loaded.context is not None and length >= loaded.context:
            raise InputError(
                f"expected requests shorter than the {loaded.context} tokens that {self.model!r} "
                f"reads, got one of {length}: send fewer or shorter captions or images, or use "
                "another model."
            )
        return inputs

    def _refusal(self, error: Exception) -> InputError:
        return InputError(
            f"expected a conversation that the chat template of {self.model!r} takes, got "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}: use another model, or "
            "other roles."
        )

    def _source(self) -> tuple[str, dict[str, Any]]:
        if self._folder is not None:
            return str(self._folder), {"local_files_only": True}
        return self.model, {"revision": self.revision} if self.revision else {}

    def _guarded(self, build: Callable[[], T]) -> T:
        """Read from the folder, or from the hub, with errors that say what is missing."""
        if self._folder is None:
            return load_weights(build, f"chat model {self.model}")
        try:
            return build()
        except VisdiffError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise MissingBackendError(
                f"the chat model in {self._folder} cannot be loaded: expected what save_pretrained "
                f"of a model and its tokenizer or processor write, got {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error

    def _build(self, device: str, sees: bool) -> Loaded:
        import transformers

        source, options = self._source()
        dtype = torch.float32
        if device.startswith("cuda"):
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        auto: Any = transformers.AutoModelForCausalLM
        reader: Any = transformers.AutoTokenizer
        if sees:
            auto, reader = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
        processor = reader.from_pretrained(source, **options)
        tokenizer = getattr(processor, "tokenizer", processor)
        if not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
            raise InputError(
                f"expected a chat model, got {self.model!r}, which has no chat template: use the "
                "checkpoint of it that was tuned to follow instructions."
            )
        model, info = auto.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
        if info["missing_keys"]:
            logger.warning(
                "%d weights of chat model %s are not in its checkpoint and random, %s first",
                len(info["missing_keys"]),
                self.model,
                sorted(info["missing_keys"])[0],
            )
        named = model.generation_config.eos_token_id
        named = list(named) if isinstance(named, (list, tuple)) else [named]
        ends = [end for end in dict.fromkeys([*named, tokenizer.eos_token_id]) if end is not None]
        if not ends:
            raise InputError(
                f"expected a chat model that can end a reply, got {self.model!r}, which names no "
                "end token: use another checkpoint."
            )
        pad = tokenizer.pad_token_id
        # Penalties and temperatures that the checkpoint brings along would change what is said.
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=ends, pad_token_id=ends[0] if pad is None else pad
        )
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        commit = getattr(model.config, "_commit_hash", None)
        model = model.to(device).eval()
        return Loaded(model, processor, tokenizer, device, ends, context, commit)


def joined(rows: Sequence[Inputs], loaded: Loaded) -> Mapping[str, torch.Tensor]:
    """Put inputs of one shape together; all models take pictures one after the other."""
    together: Inputs = {}
    for name in rows[0]:
        value = torch.cat([row[name] for row in rows]).to(loaded.device)
        together[name] = value.to(loaded.model.dtype) if value.is_floating_point() else value
    return together


def extended(inputs: Inputs, tokens: Sequence[int]) -> Inputs:
    """Append tokens to a prompt, and to whatever is kept for each of its tokens."""
    if not tokens:
        return inputs
    shape = inputs["input_ids"].shape
    longer = dict(inputs)
    for name, value in inputs.items():
        if name == "input_ids":
            more = torch.tensor([list(tokens)], dtype=value.dtype)
        elif value.shape == shape:
            more = torch.full((1, len(tokens)), int(name == "attention_mask"), dtype=value.dtype)
        else:
            continue
        longer[name] = torch.cat([value, more], 1)
    return longer


def _folder(model: str) -> Path | None:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError(
            f"expected a model's folder or a hub id (owner/name) for the chat model, got "
            f"{model!r}, which is no folder: check the path."
        )
    return None


def _templated(loaded: Loaded, turns: list[dict[str, Any]]) -> Mapping[str, Any]:
    return loaded.processor.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def _content(part: str | Picture) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    with Image.open(io.BytesIO(part.data)) as image:
        return {"type": "image", "image": image.convert("RGB")}


def _without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system, first, *others = turns
    content: Any
    if isinstance(first["content"], str):
        content = f"{system['content']}\n\n{first['content']}"
    else:
        content = [*system["content"], *first["content"]]
    return [{**first, "content": content}, *others]
