"""Training of CLIP: a ResNet image tower and a text tower of 4 × 192, in open_clip's format.

The image tower is CLIP's ModifiedResNet (Radford et al. 2021). A ViT 6 × 192 with patch size 16
learned subjects several times slower: subjects have arbitrary positions in these scenes, while its
sixteen patches are fixed.

Training uses the known attributes of the scenes: it is known which sentences of a batch are true of
which images, so that "on the grass" is a positive for every image on grass. Linear heads, which are
discarded afterwards, predict every attribute from both embeddings.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from visdiff.files import write_whole
from visdiff.miniature import world
from visdiff.miniature.train.data import ATTRIBUTES, Renderings, encode, true_of
from visdiff.miniature.train.loop import fit, inner_weights
from visdiff.miniature.train.tokenizers import CONTEXT_LENGTH, save_clip_tokenizer

WIDTH = 192
MODEL_CONFIG = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "image_size": 64,
        "layers": [1, 2, 2, 1],
        "width": 16,
        "head_width": 64,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": 0,
        "width": WIDTH,
        "heads": 6,
        "layers": 4,
        "hf_tokenizer_name": "local",
    },
}
PREPROCESS_CONFIG = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def pixels(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Returns (n, 3, 64, 64) float32 in [-1, 1] from (n, 64, 64, 3) uint8."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def build(folder: Path, seed: int) -> tuple[torch.nn.Module, object]:
    """Writes configuration and tokenizer to ``folder``; returns a new model and the tokenizer."""
    import open_clip

    save_clip_tokenizer(folder, seed)
    config = json.loads(json.dumps(MODEL_CONFIG))
    config["text_cfg"]["vocab_size"] = len(json.loads((folder / "vocab.json").read_text()))
    described = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS_CONFIG}, indent=2)
    write_whole(folder / "open_clip_config.json", described.encode())
    # HFTokenizer reads this file to find the tokenizer's class.
    torch.manual_seed(seed)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}", load_weights=False)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def train(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Trains CLIP on pairs of scenes that differ in one attribute and writes it to ``folder``."""
    model, tokenizer = build(folder, seed)
    model.to(device)
    heads = AttributeHeads()
    towers = torch.nn.ModuleDict({"clip": model, "heads": heads}).to(device)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        index, texts, stated = _pairs_and_sentences(data, rng)
        images = _jitter(pixels(data.images[index], device), rng)
        image = model.visual(images)
        if i < steps // 2:
            # Contrast with sentences of an untrained text tower slows the image tower down.
            return heads.loss(image, data.truth[index])
        text = encode_text(model, tokenizer(texts).to(device))
        positive = torch.from_numpy(true_of(stated, data.truth[index])).to(device)
        return (
            contrastive_loss(image, text, positive, model.logit_scale)
            + heads.loss(image, data.truth[index])
            + 0.5 * heads.loss(text, stated)
        )

    fit(towers, step, steps=steps, lr=2e-3, checkpoint=work / "clip.pt", seed=seed)
    _save(model, folder)
    return model


def train_image_tower(
    data: Renderings, folder: Path, work: Path, *, steps: int, seed: int, device: torch.device
) -> torch.nn.Module:
    """Continues to train the image tower of the CLIP in ``folder`` with a frozen text tower.

    This reverses the roles of locked-image tuning (LiT, Zhai et al., CVPR 2022). The generator uses
    only the text tower, so it can be trained at the same time.
    """
    import open_clip

    model = load(folder).to(device).requires_grad_(False)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    visual = model.visual.requires_grad_(True)
    torch.manual_seed(seed)
    heads = AttributeHeads()
    parts = torch.nn.ModuleDict({"visual": visual, "heads": heads}).to(device)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
        index, texts, stated = _pairs_and_sentences(data, rng)
        image = visual(_jitter(pixels(data.images[index], device), rng))
        with torch.no_grad():
            text = encode_text(model, tokenizer(texts).to(device))
        positive = torch.from_numpy(true_of(stated, data.truth[index])).to(device)
        loss = contrastive_loss(image, text, positive, model.logit_scale)
        loss = loss + heads.loss(image, data.truth[index])
        # Gender shows in a few pixels, and few sentences of a batch differ only in gender.
        persons = [k for k, j in enumerate(index) if data.scenes[j].is_person]
        sentences = [
            world.full_caption(replace(data.scenes[index[k]], gender=gender))
            for k in persons
            for gender in world.GENDERS
        ]
        with torch.no_grad():
            text = encode_text(model, tokenizer(sentences).to(device)).unflatten(0, (-1, 2))
        truth = torch.from_numpy(data.truth[index[persons], ATTRIBUTES.index("gender")]).to(device)
        return loss + choice_loss(image[persons], text, truth, model.logit_scale)

    fit(
        parts,
        step,
        steps=steps,
        lr=1e-3,
        checkpoint=work / "clip-image.pt",
        seed=seed,
        matrices=inner_weights(visual, "conv1", "attnpool.positional_embedding", "attnpool.c_proj"),
    )
    _save(model, folder)
    return model


def _save(model: torch.nn.Module, folder: Path) -> None:
    weights = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in model.state_dict().items()
    }
    write_whole(folder / "open_clip_model.safetensors", lambda part: save_file(weights, part))


class AttributeHeads(torch.nn.Module):
    """Linear classifiers of every attribute, shared by image and text embeddings."""

    _SIZES = (len(world.SUBJECTS + world.PROFESSIONS), 2, 5, len(world.PLACES), len(world.STYLES))
    _COLUMNS = tuple(ATTRIBUTES.index(a) for a in ("subject", "gender", "tone", "place", "style"))

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, n) for n in self._SIZES)

    def loss(self, embedding: torch.Tensor, stated: np.ndarray) -> torch.Tensor:
        """Returns the sum over attributes of the cross-entropy where they are stated.

        Args:
            embedding: (n, d), not normalised.
            stated: (n, 6) from `visdiff.miniature.train.data.encode`, -1 where not stated.
        """
        truth = torch.from_numpy(stated).to(embedding.device)
        total = embedding.new_zeros(())
        for head, column in zip(self.heads, self._COLUMNS, strict=True):
            logits = head(embedding).float()
            known = truth[:, column] >= 0
            if known.any():
                loss = F.cross_entropy(logits[known], truth[known, column])
                total = total + loss
            if column == 0 and (both := truth[:, 1] >= 0).any():
                # The image does not show which of two subjects is the first: both are targets.
                total = total + 0.1 * F.cross_entropy(logits[both], truth[both, 1])
        return total


def encode_text(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Returns ``model.encode_text`` of tokens truncated to the longest row of the batch.

    Attention is causal and the end token has the largest id, so the padding after it has no effect.
    open_clip's own function requires the full context length.
    """
    end = tokens.argmax(1)
    length = int(end.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    return model.ln_final(x)[torch.arange(len(x)), end] @ model.text_projection


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, positive: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Returns CLIP's symmetric loss without false negatives.

    Args:
        image: (n, d) embeddings.
        text: (n, d) embeddings; text i was written for image i.
        positive: (n, n) bool, [text, image]: whether the sentence is true of the image.
        logit_scale: Log of the inverse temperature.
    """
    scale = logit_scale.clamp(max=4.6).exp()
    logits = scale * F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T
    own = torch.arange(len(logits), device=logits.device)
    # A sentence that is also true of another image is neither a positive nor a negative for it.
    others = positive & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(others, float("-inf"))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def choice_loss(
    image: torch.Tensor, text: torch.Tensor, truth: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Returns the cross-entropy of the true one of k sentences that differ in one word.

    These are hard negatives as in NegCLIP (Yuksekgonul et al., ICLR 2023), for one attribute.

    Args:
        image: (n, d) embeddings.
        text: (n, k, d) embeddings.
        truth: (n,) index of the true sentence.
        logit_scale: Log of the inverse temperature.
    """
    similarity = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1)[:, :, None]
    return F.cross_entropy(logit_scale.clamp(max=4.6).exp() * similarity.squeeze(-1), truth)


def _pairs_and_sentences(
    data: Renderings, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Samples 64 pairs of scenes that differ in one attribute and a sentence about each scene.

    Returns:
        Indices (128,), the sentences, and the attributes (128, 6) that they state.
    """
    first = 2 * rng.choice(len(data.scenes) // 2, 64, replace=False)
    index = np.sort(np.concatenate([first, first + 1]))
    texts, attributes = zip(*(_sentence(data.scenes[j], rng) for j in index), strict=True)
    stated = [encode(data.scenes[j], a) for j, a in zip(index, attributes, strict=True)]
    return index, list(texts), np.array(stated)


def _sentence(scene: world.Scene, rng: np.random.Generator) -> tuple[str, frozenset]:
    if rng.random() < 0.3:
        phrases = world.bare_phrases(scene)
        text, attribute = phrases[int(rng.integers(len(phrases)))]
        return text, frozenset({attribute})
    return world.caption(scene, rng)


def _jitter(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    # Generated images and VAE reconstructions differ slightly in brightness and sharpness.
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (len(images), 1, 1, 1))).to(images)
    noise = torch.from_numpy(rng.normal(0, 0.03, images.shape).astype(np.float32)).to(images)
    return images * gain + noise


def text_encoder(model: torch.nn.Module, tokenizer_folder: Path) -> torch.nn.Module:
    """Returns CLIP's text tower as transformers' ``CLIPTextModel``, as in SD 2's pipeline."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    source = {k: v.detach().float().cpu() for k, v in model.state_dict().items()}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=MODEL_CONFIG["text_cfg"]["layers"],
        num_attention_heads=MODEL_CONFIG["text_cfg"]["heads"],
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    target = CLIPTextModel(config).eval()
    renamed = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    for i in range(config.num_hidden_layers):
        old, new = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        qkv = zip(
            ("q", "k", "v"),
            source[old + "attn.in_proj_weight"].chunk(3),
            source[old + "attn.in_proj_bias"].chunk(3),
            strict=True,
        )
        for name, weight, bias in qkv:
            renamed[f"{new}self_attn.{name}_proj.weight"] = weight
            renamed[f"{new}self_attn.{name}_proj.bias"] = bias
        for theirs, ours in (
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            for kind in ("weight", "bias"):
                renamed[f"{new}{ours}.{kind}"] = source[f"{old}{theirs}.{kind}"]
    prefix = "text_model." if any(k.startswith("text_model.") for k in target.state_dict()) else ""
    missing, unexpected = target.load_state_dict(
        {prefix + k: v for k, v in renamed.items()}, strict=False
    )
    missing = [k for k in missing if not k.endswith("position_ids")]
    if missing or unexpected:
        raise RuntimeError(
            "Expected open_clip's weights to match CLIPTextModel, got missing weights "
            f"{missing} and unexpected ones {unexpected}; update their mapping for this version of "
            "transformers."
        )
    return target


def load(folder: Path) -> torch.nn.Module:
    """Loads the trained model, float32."""
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.float()
