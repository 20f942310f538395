"""The miniature's tokenizers: byte-level BPE trained on captions of the world."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from visdiff.files import write_texts
from visdiff.miniature import world

#: A rare identifier for personalisation: a single token that occurs in no caption.
IDENTIFIER = "olis"
CONTEXT_LENGTH = 32
_VOCABULARY = 1280


def _corpus(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    scenes = [world.sample_scene(rng) for _ in range(20_000)]
    texts = [world.caption(s, rng)[0] for s in scenes] + [world.full_caption(s) for s in scenes]
    texts += [text for s in scenes[:2_000] for text, _ in world.bare_phrases(s)]
    texts += ["question: " + world.question(s, rng)[0] + " answer: yes no" for s in scenes[:4_000]]
    return texts + [" " + text for text in texts] + [IDENTIFIER] * 200


def save_clip_tokenizer(folder: Path, seed: int) -> None:
    """Writes ``vocab.json``, ``merges.txt`` and the configuration in CLIP's format."""
    from transformers import CLIPTokenizer

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    # Trained on printable ASCII words; the byte alphabet below makes every string encodable.
    tokenizer.train_from_iterator(
        _corpus(seed),
        trainers.BpeTrainer(vocab_size=_VOCABULARY, end_of_word_suffix="</w>", show_progress=False),
    )
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [c + "</w>" for c in alphabet]
    tokens += [a + b for a, b in merges if a + b not in set(tokens)]
    tokens = [*list(dict.fromkeys(tokens)), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({t: i for i, t in enumerate(tokens)})
    write_texts(
        folder,
        {
            "vocab.json": vocabulary,
            "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
        },
    )
    clip = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT_LENGTH
    )
    clip.save_pretrained(folder)


def captioner_tokenizer(seed: int):
    """Returns the language model's tokenizer: GPT-2's format, with ``<image>`` as in BLIP-2."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer.train_from_iterator(
        _corpus(seed),
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=specials,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=64,
    )
