"""Real model classes with tiny random weights, saved as any checkpoint is, and small image sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from visdiff.torchvision_compat import ensure_torchvision

SIZE = 32
CONTEXT = 24


def pictures(n: int, seed: int = 0) -> list[Image.Image]:
    """Make n different noisy pictures."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        base = rng.integers(0, 256, 3)
        noise = rng.integers(-60, 60, (SIZE, SIZE, 3))
        found.append(Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8)))
    return found


def folder_of_pictures(folder: Path, n: int, seed: int = 0) -> Path:
    """Save n different pictures in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures(n, seed)):
        picture.save(folder / f"{index:03d}.png")
    return folder


def tokenizer() -> Any:
    """Make a byte-level tokenizer without merges, in which the end token has the highest id."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # ASCII, and byte-level's name for the blank: what comes out can be read.
    alphabet = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    names = ["<pad>", "<image>", "<s>", *alphabet, "</s>"]
    vocab = {name: index for index, name in enumerate(names)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def _image_processor() -> Any:
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": SIZE, "width": SIZE})


def _spread(model: torch.nn.Module, seed: int, scale: float) -> None:
    """Make weights large, so that pictures and prompts change what comes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, scale, generator=generator)


def save_blip2(folder: Path, seed: int = 0) -> Path:
    """Save a BLIP-2 with OPT, and its processor."""
    ensure_torchvision()
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    text = tokenizer()
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=16,
        ),
        qformer_config=Blip2QFormerConfig(
            vocab_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            cross_attention_frequency=1,
        ),
        text_config=OPTConfig(
            vocab_size=len(text),
            hidden_size=16,
            word_embed_proj_dim=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=16,
            max_position_embeddings=128,
            pad_token_id=text.pad_token_id,
            bos_token_id=text.bos_token_id,
            # Untrained, it would hardly ever say its one end token: let a third of the bytes end.
            eos_token_id=[text.eos_token_id, *range(5, len(text), 3)],
        ),
        num_query_tokens=4,
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    _spread(model, seed, 0.5)
    model.save_pretrained(folder)
    Blip2Processor(_image_processor(), text, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_blip(folder: Path, seed: int = 0, end_bias: float = 5.0) -> Path:
    """Save a BLIP and its processor; a high bias makes captions short, or empty."""
    ensure_torchvision()
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    text = tokenizer()
    config = BlipConfig(
        vision_config=BlipVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=16,
        ).to_dict(),
        text_config=BlipTextConfig(
            vocab_size=len(text),
            hidden_size=16,
            encoder_hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=text.pad_token_id,
            bos_token_id=text.bos_token_id,
            eos_token_id=text.eos_token_id,
            sep_token_id=text.eos_token_id,
        ).to_dict(),
    )
    model = BlipForConditionalGeneration(config)
    _spread(model, seed, 0.5)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[text.eos_token_id] = end_bias
        for special in (text.pad_token_id, text.bos_token_id, 1):
            model.text_decoder.cls.predictions.bias[special] = -100.0
    model.save_pretrained(folder)
    BlipProcessor(_image_processor(), text).save_pretrained(folder)
    return folder


def save_open_clip(folder: Path, seed: int = 0) -> Path:
    """Save an open_clip model of its own shape, its config and its tokenizer."""
    ensure_torchvision()
    import open_clip

    text = tokenizer()
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": len(text),
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "in this folder",
        },
    }
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = open_clip.CLIP(**model_cfg)
    torch.random.set_rng_state(torch_state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    text.save_pretrained(folder)
    return folder
