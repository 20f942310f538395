"""Chat checkpoints of transformers: identity, loading, and encoding of conversations."""

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
from visdiff.engine.device import resolve_device
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.hashing import weights_digest
from visdiff.llm import Message, Picture
from visdiff.torchvision_compat import ensure_torchvision

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")
Inputs = dict[str, torch.Tensor]
T = TypeVar("T")


class Loaded(NamedTuple):
    """A loaded model.

    Attributes:
        model: The model in evaluation mode, without the checkpoint's generation settings.
        processor: The processor of text and images, or a tokenizer.
        tokenizer: The tokenizer.
        device: Device of the model.
        ends: End tokens.
        context: Context length in tokens; None if unknown.
        commit: Commit of a hub model.
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
    def has_vision(self) -> bool:
        """Whether it is an image-text-to-text model; reads only the configuration."""
        ensure_torchvision()
        import transformers
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
        )

        with self._lock:
            if self._config is None:
                source, options = self._source()
                self._config = self._convert_errors(
                    lambda: transformers.AutoConfig.from_pretrained(source, **options)
                )
            return self._config.model_type in NAMES

    def load(self) -> Loaded:
        """Loads the weights on first use.

        Raises:
            InputError: It is not a chat model.
            MissingBackendError: The weights cannot be loaded.
        """
        with self._lock:
            loaded = self._loaded
            if loaded is None:
                device, has_vision = resolve_device(self.device), self.has_vision
                loaded = self._loaded = self._convert_errors(
                    lambda: self._build(device, has_vision)
                )
            return loaded

    def read(self, messages: Sequence[Message]) -> Inputs:
        """Returns the model inputs of a conversation, on the CPU.

        Raises:
            InputError: It is longer than the context, or the chat template rejects it.
        """
        loaded = self.load()
        if self.has_vision:
            turns = [{"role": m.role, "content": list(map(_content, m.parts))} for m in messages]
        else:
            turns = [{"role": m.role, "content": "\n".join(map(str, m.parts))} for m in messages]
        try:
            templated = _apply_template(loaded, turns)
        except Exception as error:
            if turns[0]["role"] != "system" or len(turns) < 2:
                raise self._refusal(error) from error
            # Some templates have no system role: its text is prepended to the first user turn.
            try:
                templated = _apply_template(loaded, _without_system(turns))
            except Exception:
                raise self._refusal(error) from error
        inputs = {
            name: value for name, value in templated.items() if isinstance(value, torch.Tensor)
        }
        length = inputs["input_ids"].shape[1]
        if loaded.context is not None and length >= loaded.context:
            raise InputError(
                f"Expected requests shorter than the context of {self.model!r} ({loaded.context} "
                f"tokens), got one of {length}; send fewer or shorter captions or images, or use "
                "another model."
            )
        return inputs

    def _refusal(self, error: Exception) -> InputError:
        return InputError(
            f"Expected a conversation that the chat template of {self.model!r} accepts, got "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; use another model, or "
            "other roles."
        )

    def _source(self) -> tuple[str, dict[str, Any]]:
        if self._folder is not None:
            return str(self._folder), {"local_files_only": True}
        return self.model, {"revision": self.revision} if self.revision else {}

    def _convert_errors(self, build: Callable[[], T]) -> T:
        """Calls `build`, and converts its errors into ones that name the missing files."""
        if self._folder is None:
            return load_weights(build, f"chat model {self.model}")
        try:
            return build()
        except VisdiffError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise MissingBackendError(
                f"Expected a chat model and its tokenizer or processor in {self._folder}, got "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; give a folder that "
                "save_pretrained wrote."
            ) from error

    def _build(self, device: str, has_vision: bool) -> Loaded:
        import transformers

        source, options = self._source()
        dtype = torch.float32
        if device.startswith("cuda"):
            dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        auto: Any = transformers.AutoModelForCausalLM
        reader: Any = transformers.AutoTokenizer
        if has_vision:
            auto, reader = transformers.AutoModelForImageTextToText, transformers.AutoProcessor
        processor = reader.from_pretrained(source, **options)
        tokenizer = getattr(processor, "tokenizer", processor)
        if not (getattr(processor, "chat_template", None) or tokenizer.chat_template):
            raise InputError(
                f"Expected a chat model, got {self.model!r}, which has no chat template; use its "
                "instruction-tuned checkpoint."
            )
        model, info = auto.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
        if info["missing_keys"]:
            logger.warning(
                "%d weights of chat model %s are missing from its checkpoint and random, first %s",
                len(info["missing_keys"]),
                self.model,
                sorted(info["missing_keys"])[0],
            )
        eos = model.generation_config.eos_token_id
        eos = list(eos) if isinstance(eos, (list, tuple)) else [eos]
        ends = [end for end in dict.fromkeys([*eos, tokenizer.eos_token_id]) if end is not None]
        if not ends:
            raise InputError(
                f"Expected a chat model with an end token, got {self.model!r}, which has none; use "
                "another checkpoint."
            )
        pad = tokenizer.pad_token_id
        # The checkpoint's penalties and temperature would change the replies.
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=ends, pad_token_id=ends[0] if pad is None else pad
        )
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        commit = getattr(model.config, "_commit_hash", None)
        model = model.to(device).eval()
        return Loaded(model, processor, tokenizer, device, ends, context, commit)


def concatenate_inputs(rows: Sequence[Inputs], loaded: Loaded) -> Mapping[str, torch.Tensor]:
    """Concatenates inputs of one shape into a batch; pictures are concatenated in order."""
    batch: Inputs = {}
    for name in rows[0]:
        value = torch.cat([row[name] for row in rows]).to(loaded.device)
        batch[name] = value.to(loaded.model.dtype) if value.is_floating_point() else value
    return batch


def append_tokens(inputs: Inputs, tokens: Sequence[int]) -> Inputs:
    """Appends tokens to a prompt, and extends its per-token tensors such as the mask."""
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
            f"Expected a model's folder or a hub id (owner/name) for the chat model, got "
            f"{model!r}, which is not a folder; check the path."
        )
    return None


def _apply_template(loaded: Loaded, turns: list[dict[str, Any]]) -> Mapping[str, Any]:
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
