"""Training of the captioner, a small BLIP-2 that writes captions and answers yes/no questions.

A ViT with patch size 8 encodes the image, a Q-Former compresses it, and a small OPT generates the
text. Each image of a batch has one caption and one answer as targets. With these targets alone, the
ViT learns subjects slowly. Training therefore adds three auxiliary losses, whose heads are
discarded: the patches predict the classifier's feature map (distillation from a convolutional
teacher, Touvron et al. 2021), linear heads predict the attributes, and one head predicts the
subject of each half of an image with two subjects. In the first third of training only the ViT is
trained. Muon optimises its matrices; with AdamW it learns several times slower.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from visdiff.miniature import world
from visdiff.miniature.train import classifier
from visdiff.miniature.train.clip import WIDTH, AttributeHeads, pixels
from visdiff.miniature.train.data import ATTRIBUTES, Renderings
from visdiff.miniature.train.loop import fit
from visdiff.miniature.train.tokenizers import captioner_tokenizer

QUERIES = 8
_TEXT_WIDTH = 128
_SUBJECT, _SECOND = ATTRIBUTES.index("subject"), ATTRIBUTES.index("second")


def build(tokenizer, seed: int) -> torch.nn.Module:
    """Returns a fresh, small ``Blip2ForConditionalGeneration``."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        OPTConfig,
    )

    torch.manual_seed(seed)
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=5,
                num_attention_heads=6,
                image_size=64,
                patch_size=8,
                layer_norm_eps=1e-5,
                initializer_range=0.02,
            ).to_dict(),
            qformer_config=Blip2QFormerConfig(
                vocab_size=len(tokenizer),
                hidden_size=_TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=4 * _TEXT_WIDTH,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                cross_attention_frequency=1,
                encoder_hidden_size=WIDTH,
            ).to_dict(),
            text_config=OPTConfig(
                vocab_size=len(tokenizer),
                hidden_size=_TEXT_WIDTH,
                word_embed_proj_dim=_TEXT_WIDTH,
                ffn_dim=4 * _TEXT_WIDTH,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=96,
                dropout=0.0,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            ).to_dict(),
            num_query_tokens=QUERIES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    # With BLIP-2's zeros, all queries would be equal until their gradients differ.
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    return model


def train(
    data: Renderings,
    folder: Path,
    work: Path,
    teacher: torch.nn.Module,
    *,
    steps: int,
    seed: int,
    device: torch.device,
) -> torch.nn.Module:
    """Trains on captions and questions; writes the model and its processor to ``folder``."""
    from transformers import Blip2Processor, BlipImageProcessor

    tokenizer = captioner_tokenizer(seed)
    model = build(tokenizer, seed).to(device)
    heads, cells = AttributeHeads(), torch.nn.Linear(WIDTH, classifier.WIDTH)
    halves = torch.nn.Linear(WIDTH, len(world.SUBJECTS + world.PROFESSIONS))
    parts = torch.nn.ModuleDict(
        {"model": model, "heads": heads, "cells": cells, "halves": halves}
    ).to(device)
    teacher = teacher.to(device).eval().requires_grad_(False)
    with_two = np.flatnonzero(data.truth[:, _SECOND] >= 0)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        # Two subjects in an image are small and each pair is rare, so they are oversampled.
        index = np.concatenate([rng.choice(len(data.scenes), 24), rng.choice(with_two, 24)])
        scenes = [data.scenes[j] for j in index]
        images = pixels(data.images[index], device)
        images = images + 0.03 * torch.randn(images.shape, generator=generator).to(device)
        questions = [world.question(s, rng) for s in scenes]
        texts = [("", " " + world.full_caption(s)) for s in scenes]
        texts += [(f"question: {q} answer:", f" {a}") for q, a in questions]
        visual = model.vision_model(images)
        patches = visual.last_hidden_state[:, 1:].unflatten(1, (8, 8))
        pooled = patches.unflatten(2, (4, 2)).unflatten(1, (4, 2)).mean((2, 4)).flatten(1, 2)
        with torch.no_grad():
            target = teacher.resnet(images).last_hidden_state.flatten(2).transpose(1, 2)
            target = F.layer_norm(target.float(), target.shape[-1:])
        image_loss = heads.loss(visual.pooler_output, data.truth[index])
        image_loss = image_loss + F.mse_loss(cells(pooled).float(), target)
        truth = torch.from_numpy(data.truth[index]).to(device)
        has_two = truth[:, _SECOND] >= 0
        sides = patches[has_two].unflatten(2, (2, 4)).mean((1, 3))
        image_loss = image_loss + F.cross_entropy(
            halves(sides).float().flatten(0, 1), truth[has_two][:, [_SUBJECT, _SECOND]].flatten()
        )
        if i < steps // 3:
            return image_loss
        return image_loss + language_loss(model, tokenizer, visual.last_hidden_state, texts)

    blocks = (model.vision_model.encoder, model.qformer.encoder, model.language_model.model.decoder)
    fit(
        parts,
        step,
        steps=steps,
        lr=1e-3,
        checkpoint=work / "captioner.pt",
        seed=seed,
        matrices=[
            layer.weight
            for block in blocks
            for layer in block.modules()
            if isinstance(layer, torch.nn.Linear)
        ],
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(folder)
    processor = BlipImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    Blip2Processor(processor, tokenizer, num_query_tokens=QUERIES).save_pretrained(folder)
    return model.float()


def language_loss(
    model: torch.nn.Module,
    tokenizer,
    visual: torch.Tensor,
    texts: Sequence[tuple[str, str]],
) -> torch.Tensor:
    """Returns the cross-entropy of the continuation of each prompt.

    Args:
        model: ``Blip2ForConditionalGeneration``.
        tokenizer: Its tokenizer.
        visual: (n, tokens, d), the output of the image tower.
        texts: A multiple of n pairs (prompt, continuation); text k belongs to image k mod n.
    """
    queries = model.query_tokens.expand(len(visual), -1, -1)
    queries = model.qformer(query_embeds=queries, encoder_hidden_states=visual).last_hidden_state
    prefix = model.language_projection(queries)
    prefix = prefix.repeat(len(texts) // len(visual), 1, 1)
    rows, labels = [], []
    for prompt, continuation in texts:
        context = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
        output = tokenizer.encode(continuation, add_special_tokens=False)
        output += [tokenizer.eos_token_id]
        rows.append(context + output)
        labels.append([-100] * (QUERIES + len(context)) + output)
    length = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([r + [pad] * (length - len(r)) for r in rows], device=visual.device)
    mask = torch.tensor(
        [[1] * (QUERIES + len(r)) + [0] * (length - len(r)) for r in rows], device=visual.device
    )
    target = torch.tensor(
        [t + [-100] * (QUERIES + length - len(t)) for t in labels], device=visual.device
    )
    embedded = model.get_input_embeddings()(ids)
    embedded = torch.cat([prefix.to(embedded.dtype), embedded], dim=1)
    return model.language_model(inputs_embeds=embedded, attention_mask=mask, labels=target).loss
