"""LoRA as kohya's sd-scripts save it: ComfyUI, A1111 and diffusers read it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from editing.edit import Edit
from editing.edit.formats.base import Format, Imported, one_file
from editing.edit.formats.files import TensorFile
from editing.edit.formats.learned_embeds import write_tokens
from editing.edit.formats.lora import is_lora, read_lora, to_lora
from editing.edit.saving import save_tensors
from editing.linear import Tensor
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

# Readers take the number for that of a layer, unless the original name is used.
_ORIGINAL = {
    "lora_unet_add_embedding_linear_1": "lora_unet_label_emb_0_0",
    "lora_unet_add_embedding_linear_2": "lora_unet_label_emb_0_2",
}


class KohyaLora(Format):
    """Names without dots: "lora_unet_….lora_down.weight", "….lora_up.weight", "….alpha".

    New tokens are written as learned embeddings into the same folder.
    """

    name: ClassVar[str] = "kohya"
    title: ClassVar[str] = "a LoRA of kohya's sd-scripts"
    file: ClassVar[str] = "pytorch_lora_weights_kohya.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether a tensor has a name as sd-scripts give it."""
        return is_lora(file.names, (".lora_down.", ".lora_up."))

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns one low-rank change a layer; a full change for DoRA."""
        return read_lora(file, pipe)

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes the LoRA, and the tokens if there are any."""
        tensors = to_kohya(edit, pipe)
        tokens = write_tokens(edit, out)
        metadata = {"visdiff_edit_digest": edit.digest, "ss_network_module": "networks.lora"}
        return save_tensors(tensors, one_file(out, self.file), metadata), *tokens


def to_kohya(edit: Edit, pipe: Any) -> dict[str, Tensor]:
    """Returns the edit as LoRA weights in kohya's names, float32; alpha is the rank.

    Raises:
        InputError: The pipeline has no UNet, or as `to_lora`.
    """
    if getattr(pipe, "unet", None) is None:
        raise InputError(
            f"Expected Stable Diffusion 1, 2 or XL for a LoRA of kohya, got {type(pipe).__name__}, "
            "whose layers have other shapes there; use --as diffusers."
        )
    ensure_torchvision()
    from diffusers.utils import convert_state_dict_to_kohya

    single = getattr(pipe, "text_encoder_2", None) is None
    found: dict[str, Tensor] = {}
    tensors = to_lora(edit, pipe)
    for name, tensor in convert_state_dict_to_kohya(tensors | _missing_outputs(tensors)).items():
        module, _, part = str(name).partition(".")
        module = _ORIGINAL.get(module, module)
        if single:
            module = module.replace("lora_te1_", "lora_te_", 1)
        found[f"{module}.{part}"] = tensor.to(torch.float32)
    return found


def _missing_outputs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns LoRA weights of zero for the output of one attention of each text encoder.

    diffusers recognises kohya's text encoders by the outputs of their attention, and without any
    loses the queries, keys and values.
    """
    found: dict[str, Tensor] = {}
    for name, down in tensors.items():
        module, _, part = name.rpartition(".lora_A")
        head, _, last = module.rpartition(".")
        encoder = head.partition(".")[0]
        if last not in ("q_proj", "k_proj", "v_proj") or not part:
            continue
        if any(n.startswith(encoder + ".") and ".out_proj." in n for n in (*tensors, *found)):
            continue
        # Attention maps a state to one of the same length.
        found[f"{head}.out_proj.lora_A.weight"] = torch.zeros_like(down)
        found[f"{head}.out_proj.lora_B.weight"] = torch.zeros_like(down.T)
    return found
