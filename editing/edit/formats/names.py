"""Names of a pipeline's weights in the files of other tools.

The same weight has one name in diffusers, another in the original checkpoints of Stable Diffusion
("model.diffusion_model.input_blocks…"), and a flat one, without dots, in kohya's LoRAs.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch

from editing.pipelines.weights import components

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_OUTER = (
    ("conv_in.", "input_blocks.0.0."),
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
)
_PREFIXES = {
    "unet": ("", "model.diffusion_model.", "diffusion_model."),
    "transformer": ("", "model.diffusion_model.", "diffusion_model."),
    "text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
    "text_encoder_2": (),
    "text_encoder_3": (),
}
_KOHYA = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_unet_", "lora_transformer_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
    "text_encoder_3": ("lora_te3_",),
}


class Names:
    """Names of the weights of a pipeline's denoiser and text encoders, in every convention."""

    def __init__(self, pipe: Any) -> None:
        """Collects the names.

        Args:
            pipe: A pipeline.
        """
        self._full: dict[str, str] = {}
        self._flat: dict[str, str] = {}
        self.components = {name: m for name, m in components(pipe) if name != "vae"}
        for component, module in self.components.items():
            originals = _originals(module)
            for path in module.state_dict():
                full = f"{component}.{path}"
                for alias in _aliases(component, path, originals.get(path)):
                    self._full.setdefault(alias, full)
                if path.endswith(".weight"):
                    for flat in _flat(component, path, originals.get(path)):
                        self._flat.setdefault(flat, full)

    def full(self, name: str) -> str | None:
        """Returns the full name ("unet.….weight") of a weight, or None if there is none."""
        return self._full.get(name)

    def of_module(self, name: str) -> str | None:
        """Returns the full name of the weight of a module; kohya's flat names are allowed."""
        return self._flat.get(name) or self._full.get(f"{name}.weight")

    def within(self, component: str, name: str) -> str | None:
        """Returns the full name of a weight whose name lacks that of its component."""
        return self._full.get(f"{component}.{name}")


def to_transformers(component: str, path: str) -> str:
    """Returns the name of a text encoder's tensor in files, which has "text_model." in front.

    Newer versions of transformers have no such module in some of their classes.
    """
    inner = ("embeddings.", "encoder.layers.", "final_layer_norm.")
    if component.startswith("text_encoder") and path.startswith(inner):
        return f"text_model.{path}"
    return path


def _aliases(component: str, path: str, original: str | None) -> Iterator[str]:
    paths = dict.fromkeys(
        [path, to_transformers(component, path), path.removeprefix("text_model.")]
    )
    for each in paths:
        yield f"{component}.{each}"
        for prefix in _PREFIXES[component]:
            yield f"{prefix}{each}"
    if original is not None:
        for prefix in _PREFIXES[component]:
            yield f"{prefix}{original}"


def _flat(component: str, path: str, original: str | None) -> Iterator[str]:
    for each in dict.fromkeys([path, to_transformers(component, path), original]):
        if each is not None:
            flat = each.removesuffix(".weight").replace(".", "_")
            for prefix in _KOHYA[component]:
                yield prefix + flat


def _originals(module: torch.nn.Module) -> dict[str, str]:
    """Returns name in diffusers → name in the original checkpoints, for a UNet of one depth."""
    layers = getattr(getattr(module, "config", None), "layers_per_block", None)
    if not hasattr(module, "down_blocks") or not isinstance(layers, int):
        return {}
    return {path: original_name(path, layers, module) for path in module.state_dict()}


def original_name(path: str, layers: int, unet: Any) -> str:
    """Returns the name of a UNet's tensor in the original checkpoints of Stable Diffusion.

    Args:
        path: Its name in diffusers, without "unet.".
        layers: ``layers_per_block`` of the UNet.
        unet: The UNet.
    """
    for ours, theirs in _OUTER:
        if path.startswith(ours):
            name = theirs + path.removeprefix(ours)
            return _resnet(name) if "resnets" in ours else name
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", path)
    if found is None:
        return path
    side, block, kind, layer, rest = found.groups()
    start = (layers + 1) * int(block)
    if kind == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        position = 2 if getattr(unet.up_blocks[int(block)], "attentions", None) else 1
        return f"output_blocks.{start + layers}.{position}.{rest}"
    index = start + int(layer) + (1 if side == "down" else 0)
    position = 0 if kind == "resnets" else 1
    name = f"{'input' if side == 'down' else 'output'}_blocks.{index}.{position}.{rest}"
    return _resnet(name) if kind == "resnets" else name


def _resnet(name: str) -> str:
    for ours, theirs in _RESNET:
        name = re.sub(rf"\.{ours}\.", f".{theirs}.", name)
    return name
