"""LoRA as diffusers and peft save it: ``pipe.load_lora_weights`` reads it."""

from pathlib import Path
from typing import Any, ClassVar

from editing.edit import Edit
from editing.edit.formats.base import Format, Imported, one_file
from editing.edit.formats.files import TensorFile
from editing.edit.formats.learned_embeds import write_tokens
from editing.edit.formats.lora import is_lora, read_lora, to_lora
from editing.edit.saving import save_tensors


class DiffusersLora(Format):
    """``pytorch_lora_weights.safetensors``: "unet.….lora_A.weight", "text_encoder.…".

    Alpha equals the rank, so that tools which do not read peft's configuration scale it correctly.
    New tokens are written as learned embeddings into the same folder.
    """

    name: ClassVar[str] = "diffusers"
    title: ClassVar[str] = "a LoRA of diffusers or peft"
    file: ClassVar[str] = "pytorch_lora_weights.safetensors"

    def detect(self, file: TensorFile) -> bool:
        """Returns whether a tensor has a name as diffusers or peft give it."""
        marks = (".lora_A", ".lora_B", ".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.")
        return is_lora(file.names, (*marks, ".lora_linear_layer."))

    def read(self, file: TensorFile, pipe: Any) -> Imported:
        """Returns one low-rank change a layer; a full change for DoRA."""
        return read_lora(file, pipe)

    def write(self, edit: Edit, pipe: Any, out: Path) -> tuple[Path, ...]:
        """Writes the LoRA, and the tokens if there are any."""
        tensors = {_text_name(name): tensor for name, tensor in to_lora(edit, pipe).items()}
        tokens = write_tokens(edit, out)
        metadata = {"visdiff_edit_digest": edit.digest}
        return save_tensors(tensors, one_file(out, self.file), metadata), *tokens


def _text_name(name: str) -> str:
    # diffusers recognises text encoders by these names; with peft's it fails on "fc1" alone.
    if not name.startswith("text_encoder") or "text_projection" in name:
        return name
    down, up = ".lora_linear_layer.down.", ".lora_linear_layer.up."
    return name.replace(".lora_A.", down).replace(".lora_B.", up)
