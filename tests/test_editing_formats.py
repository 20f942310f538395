"""Tests of the files of other tools: export, diffusers' own loaders, and import of it again."""

import copy
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file

import editing
from editing.edit import Edit
from editing.edit.deltas import Full, LowRank, NewTokens, SpectralShift
from editing.edit.formats import (
    FORMATS,
    describe,
    export_edit,
    import_edit,
    is_edit,
    open_edit,
)
from editing.edit.formats.names import Names, original_name
from editing.pipelines.weights import parameter
from editing.requests import Erase
from visdiff.errors import InputError

MAKERS = {"sd1": tiny.sd1, "sd2": tiny.sd2, "sdxl": tiny.sdxl}
BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
CONVOLUTION = "unet.down_blocks.1.resnets.0.conv1.weight"
PROMPT = "a church"


@pytest.fixture(scope="module", params=list(MAKERS))
def pipe(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def sd1() -> Any:
    return tiny.sd1()


def make_edit(pipe: Any, *changes: Any) -> Edit:
    """Returns an edit with the given changes."""
    return Edit.of(pipe, base_model="tiny", method="by hand", requests=(), config={},
                   changes=changes)  # fmt: skip


def encoders(pipe: Any) -> list[str]:
    """Returns the names of the text encoders of a pipeline."""
    return [n for n in ("text_encoder", "text_encoder_2") if getattr(pipe, n, None) is not None]


def low_rank(pipe: Any, name: str, rank: int = 2, scale: float = 0.3) -> LowRank:
    """Returns a random change of a weight."""
    rows, columns = parameter(pipe, name).flatten(1).shape
    g = torch.Generator().manual_seed(len(name))
    up, down = torch.randn(rows, rank, generator=g), torch.randn(rank, columns, generator=g)
    return LowRank(name, up, down, scale)


def attention(pipe: Any, part: str) -> str:
    """Returns the name of a weight of the first layer of a text encoder's attention."""
    component, _, _ = part.partition(".")
    inner = "text_model." if hasattr(getattr(pipe, component), "text_model") else ""
    return part.replace(".", f".{inner}encoder.layers.0.", 1)


def tokens(pipe: Any, *names: str) -> list[NewTokens]:
    """Returns new tokens of every text encoder."""
    g = torch.Generator().manual_seed(3)
    return [
        NewTokens(
            encoder.replace("text_encoder", "tokenizer"),
            encoder,
            {n: torch.randn(getattr(pipe, encoder).config.hidden_size, generator=g) for n in names},
        )
        for encoder in encoders(pipe)
    ]


def lora(pipe: Any) -> Edit:
    """Returns an edit of the UNet's attention, a convolution, and the text encoders."""
    names = [f"{BLOCK}.attn1.to_out.0.weight", f"{BLOCK}.attn2.to_k.weight", CONVOLUTION]
    names += [attention(pipe, f"{e}.self_attn.q_proj.weight") for e in encoders(pipe)]
    names += [attention(pipe, f"{e}.mlp.fc1.weight") for e in encoders(pipe)]
    changes = [low_rank(pipe, name, 2 + n % 2) for n, name in enumerate(names)]
    return make_edit(pipe, *changes, *changes[:1])


def pictures(pipe: Any, edit: Edit, prompt: str = PROMPT) -> tuple[Any, Any]:
    """Returns an image of the base and one of the edit, which differ visibly."""
    plain = tiny.picture(pipe, prompt)
    with edit.applied(pipe):
        edited = tiny.picture(pipe, prompt)
    assert abs(edited - plain).max() > 1e-2
    return plain, edited


def deltas(pipe: Any, edit: Edit) -> dict[str, torch.Tensor]:
    """Returns the change of each tensor, float64."""
    found: dict[str, torch.Tensor] = {}
    for change in edit.changes:
        for name in change.names():
            delta = change.delta(name, parameter(pipe, name).detach())
            found[name] = found.get(name, 0) + delta
    return found


def added(edit: Edit) -> dict[tuple[str, str], torch.Tensor]:
    """Returns (encoder, token) → vector."""
    return {
        (change.encoder, token): vector
        for change in edit.changes
        if isinstance(change, NewTokens)
        for token, vector in change.vectors.items()
    }


def assert_same_change(pipe: Any, edit: Edit, other: Edit) -> None:
    """Checks that two edits change the same weights by the same, to 1e-6 of the largest."""
    a, b = deltas(pipe, edit), deltas(pipe, other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        size = float(value.abs().max()) + float(parameter(pipe, name).detach().abs().max())
        torch.testing.assert_close(b[name], value, atol=1e-6 * size, rtol=0)
    vectors, again = added(edit), added(other)
    assert vectors.keys() == again.keys()
    assert all(torch.equal(vector, again[key]) for key, vector in vectors.items())


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_round_trips_through_diffusers(pipe: Any, form: str, tmp_path: Path) -> None:
    edit = lora(pipe)
    plain, edited = pictures(pipe, edit)
    (path,) = export_edit(edit, pipe, form, tmp_path)
    assert path.name == FORMATS[form].file
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    found = tiny.picture(pipe)
    pipe.unload_lora_weights()
    assert abs(found - edited).max() <= 1e-4
    assert abs(tiny.picture(pipe) - plain).max() == 0
    again = import_edit(path, pipe)
    assert describe(path)["files"][0]["format"] == form
    assert {type(change) for change in again.changes} == {LowRank}
    assert "ignored" not in again.diagnostics
    assert_same_change(pipe, edit, again)


@pytest.mark.parametrize("form", ["diffusers", "kohya", "weights"])
def test_an_erasure_round_trips(pipe: Any, form: str, tmp_path: Path) -> None:
    edit = editing.fit(pipe, [Erase("church")], nearest=0)
    _, edited = pictures(pipe, edit)
    (path,) = export_edit(edit, pipe, form, tmp_path / "e.safetensors")
    if form != "weights":
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
        found = tiny.picture(pipe)
        pipe.unload_lora_weights()
        assert abs(found - edited).max() <= 1e-4
    again = import_edit(path, pipe)
    assert_same_change(pipe, edit, again)
    with again.applied(pipe):
        assert abs(tiny.picture(pipe) - edited).max() <= 1e-4


def test_a_lora_with_tokens_is_written_with_its_embeddings(pipe: Any, tmp_path: Path) -> None:
    edit = make_edit(pipe, *lora(pipe).changes, *tokens(pipe, "<dog>"))
    paths = export_edit(edit, pipe, "diffusers", tmp_path)
    assert len(paths) == 1 + len(encoders(pipe))
    assert_same_change(pipe, edit, import_edit(tmp_path, pipe))
    with pytest.raises(InputError, match="Expected a folder for an edit that needs several files"):
        export_edit(edit, pipe, "diffusers", tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


def test_learned_embeddings_round_trip_through_diffusers(pipe: Any, tmp_path: Path) -> None:
    edit = make_edit(pipe, *tokens(pipe, "<dog>", "<dog>_1"))
    _, edited = pictures(pipe, edit, "a <dog>")
    paths = export_edit(edit, pipe, "learned-embeds", tmp_path)
    names = ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    assert [path.name for path in paths] == names[: len(encoders(pipe))]
    assert load_file(paths[0])["<dog>"].shape[0] == 2
    other = copy.deepcopy(pipe)
    for path, encoder in zip(paths, encoders(other), strict=True):
        other.load_textual_inversion(
            str(path),
            text_encoder=getattr(other, encoder),
            tokenizer=getattr(other, encoder.replace("text_encoder", "tokenizer")),
        )
    assert abs(tiny.picture(other, "a <dog>") - edited).max() <= 1e-4
    assert_same_change(pipe, edit, import_edit(tmp_path, pipe))
    with pytest.raises(InputError, match="tokens that the model does not have, got <dog>, <dog>_1"):
        import_edit(paths[0], other)
    with pytest.raises(InputError, match="embeddings can hold"):
        export_edit(lora(pipe), pipe, "learned-embeds", tmp_path / "no")


@pytest.mark.parametrize("whole", [False, True])
def test_custom_diffusion_round_trips_through_diffusers(
    pipe: Any, whole: bool, tmp_path: Path
) -> None:
    parts = ["to_k", "to_v", *(["to_q", "to_out.0"] if whole else [])]
    changes = [
        Full(n, torch.randn(parameter(pipe, n).shape, generator=torch.Generator().manual_seed(1)))
        for n in (f"{BLOCK}.attn2.{part}.weight" for part in parts)
    ]
    edit = make_edit(pipe, *changes, *tokens(pipe, "<new1>"))
    _, edited = pictures(pipe, edit, "a <new1>")
    paths = export_edit(edit, pipe, "custom-diffusion", tmp_path)
    plain = pipe.unet.attn_processors
    with make_edit(pipe, *tokens(pipe, "<new1>")).applied(pipe):
        pipe.unet.load_attn_procs(str(tmp_path), weight_name=paths[0].name, _pipeline=pipe)
        found = tiny.picture(pipe, "a <new1>")
        pipe.unet.set_attn_processor(plain)
    assert abs(found - edited).max() <= 1e-4
    assert_same_change(pipe, edit, import_edit(tmp_path, pipe))
    with pytest.raises(InputError, match="processors of Custom Diffusion can hold"):
        export_edit(lora(pipe), pipe, "custom-diffusion", tmp_path / "no")


def test_spectral_shifts_round_trip(pipe: Any, tmp_path: Path) -> None:
    names = [f"{BLOCK}.attn1.to_q.weight", CONVOLUTION, f"{BLOCK}.norm1.weight"]
    names += [attention(pipe, f"{e}.self_attn.q_proj.weight") for e in encoders(pipe)]
    g = torch.Generator().manual_seed(2)
    sizes = [min(w.flatten(1).shape) if w.ndim > 1 else 1 for w in map(pipe_weight(pipe), names)]
    changes = [
        SpectralShift(name, 2 * torch.randn(size, generator=g), scale=0.5)
        for name, size in zip(names, sizes, strict=True)
    ]
    edit = make_edit(pipe, *changes, *tokens(pipe, "<dog>"))
    paths = export_edit(edit, pipe, "spectral-shifts", tmp_path)
    assert {p.name for p in paths} >= {
        "spectral_shifts.safetensors",
        "spectral_shifts_te.safetensors",
    }
    assert "mid_block.attentions.0.transformer_blocks.0.norm1.delta" in load_file(paths[0])
    again = import_edit(tmp_path, pipe)
    assert_same_change(pipe, edit, again)
    pictures(pipe, again)
    with pytest.raises(InputError, match="Expected a folder"):
        export_edit(edit, pipe, "spectral-shifts", tmp_path / "one.safetensors")
    vector = SpectralShift(f"{BLOCK}.norm1.weight", torch.ones(16), "elementwise")
    for refused in (make_edit(pipe, vector), make_edit(pipe, *changes, *changes), lora(pipe)):
        with pytest.raises(InputError, match="a file of spectral shifts"):
            export_edit(refused, pipe, "spectral-shifts", tmp_path / "no")


def pipe_weight(pipe: Any) -> Any:
    """Returns the function from a name to the weight."""
    return lambda name: parameter(pipe, name)


def test_a_folder_round_trips(pipe: Any, tmp_path: Path) -> None:
    bias = Full("unet.conv_in.bias", torch.ones(8))
    edit = make_edit(pipe, *lora(pipe).changes, bias, *tokens(pipe, "<dog>", "<dog>_1"))
    _, edited = pictures(pipe, edit, "a <dog>")
    export_edit(edit, pipe, "folder", tmp_path)
    other = editing.load_pipeline(tmp_path)
    assert abs(tiny.picture(other, "a <dog>") - edited).max() <= 1e-4
    assert_same_change(pipe, edit, import_edit(tmp_path, pipe))


def test_weights_of_every_component_round_trip(pipe: Any, tmp_path: Path) -> None:
    whole = [
        Full("unet.conv_in.bias", torch.ones(8)),
        Full(f"{BLOCK}.norm1.weight", torch.ones(16)),
    ]
    edit = make_edit(pipe, *lora(pipe).changes, *whole)
    (path,) = export_edit(edit, pipe, "weights", tmp_path)
    assert_same_change(pipe, edit, import_edit(path, pipe))
    with pytest.raises(InputError, match="one that adds tokens, which a file of weights"):
        export_edit(make_edit(pipe, *tokens(pipe, "<dog>")), pipe, "weights", tmp_path)


def test_original_names_are_those_of_diffusers_converter(pipe: Any, tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    state = pipe.unet.state_dict()
    original = {
        f"model.diffusion_model.{original_name(name, 1, pipe.unet)}": value
        for name, value in state.items()
    }
    converted = convert_ldm_unet_checkpoint(original, pipe.unet.config)
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_fused_single_file_is_read(pipe: Any, prefix: str, tmp_path: Path) -> None:
    edit = make_edit(pipe, *[c for c in lora(pipe).changes if c.names()[0].startswith("unet")])
    with edit.applied(pipe):
        tensors = {
            f"{prefix}{original_name(name, 1, pipe.unet)}": value.clone()
            for name, value in pipe.unet.state_dict().items()
        }
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    save_file(tensors, tmp_path / "fused.safetensors")
    again = import_edit(tmp_path / "fused.safetensors", pipe)
    assert_same_change(pipe, edit, again)
    assert again.diagnostics["ignored"] == {
        "count": 1,
        "names": ["first_stage_model.decoder.conv_in.weight"],
    }
    assert "1 tensors of the file were not used" in again.diagnostics["warnings"][0]


def test_text_encoders_of_single_files_are_read(tmp_path: Path) -> None:
    pipe = tiny.sdxl()
    first = {
        f"conditioner.embedders.0.transformer.text_model.{n}": v + 0.25
        for n, v in pipe.text_encoder.state_dict().items()
        if n.endswith("weight")
    }
    second: dict[str, torch.Tensor] = {}
    for name in pipe.text_encoder_2.state_dict():
        if ".layers.1.self_attn.q_proj" in name:
            part = name.rpartition(".")[2]
            own = [
                pipe.text_encoder_2.state_dict()[name.replace("q_proj", f"{p}_proj")] for p in "qkv"
            ]
            key = f"conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_{part}"
            second[key] = torch.cat([own[0] + 0.5, *own[1:]])
    save_file({**first, **second}, tmp_path / "f.safetensors")
    edit = import_edit(tmp_path / "f.safetensors", pipe)
    assert len(edit.tensors) == len(first) + 2
    assert "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj.bias" in edit.tensors


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_files_of_uce_and_esd_are_read(sd1: Any, suffix: str, nested: bool, tmp_path: Path) -> None:
    state = {
        name: value + 0.01
        for name, value in sd1.unet.state_dict().items()
        if "attn2.to_k" in name or "attn2.to_v" in name
    }
    path = tmp_path / f"uce{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "step": 3} if nested else state, path)
    edit = open_edit(path, sd1)
    assert set(edit.tensors) == {f"unet.{name}" for name in state}
    for change in edit.changes:
        assert isinstance(change, Full)
        torch.testing.assert_close(change.difference, torch.full_like(change.difference, 0.01),
                                   atol=1e-6, rtol=0)  # fmt: skip
    with edit.applied(sd1):
        for name, value in state.items():
            assert torch.allclose(sd1.unet.state_dict()[name], value, atol=1e-7, rtol=0)


def test_adobes_delta_is_read(sd1: Any, tmp_path: Path) -> None:
    name = f"{BLOCK.removeprefix('unet.')}.attn2.to_k.weight"
    value = sd1.unet.state_dict()[name] + 1
    torch.save(
        {"unet": {name: value}, "modifier_token": {"<new1>": torch.ones(tiny.WIDTH)}},
        tmp_path / "delta.bin",
    )
    edit = import_edit(tmp_path / "delta.bin", sd1)
    assert edit.tensors == (f"unet.{name}",)
    assert [t for c in edit.changes for t in c.tokens()] == ["<new1>"]


def test_half_precision_files_change_only_what_they_edit(sd1: Any, tmp_path: Path) -> None:
    state = {name: value.half() for name, value in sd1.unet.state_dict().items()}
    state["conv_in.bias"] = state["conv_in.bias"] + 1
    save_file(state, tmp_path / "half.safetensors")
    assert import_edit(tmp_path / "half.safetensors", sd1).tensors == ("unet.conv_in.bias",)


@pytest.mark.parametrize("alpha", [1, 8])
@pytest.mark.parametrize("dora", [False, True])
def test_a_lora_of_peft_is_read_with_its_alpha(alpha: int, dora: bool, tmp_path: Path) -> None:
    pipe = tiny.sd1()
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    config = LoraConfig(r=4, lora_alpha=alpha, use_dora=dora, init_lora_weights=False,
                        target_modules=["to_k", "conv1"] if not dora else ["to_k"],
                        alpha_pattern={"mid_block.*to_k": 2})  # fmt: skip
    torch.manual_seed(0)
    pipe.unet.add_adapter(config)
    if dora:
        for name, parameter_ in pipe.unet.named_parameters():
            if "magnitude" in name:
                parameter_.data.mul_(1.3)
    expected = tiny.picture(pipe)
    layers: dict[str, Any] = get_peft_model_state_dict(pipe.unet)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers,
        **_collate_lora_metadata({"unet": pipe.unet}),
    )
    pipe = tiny.sd1()
    edit = import_edit(tmp_path / "pytorch_lora_weights.safetensors", pipe)
    assert {type(c) for c in edit.changes} == {Full if dora else LowRank}
    assert abs(tiny.picture(pipe) - expected).max() > 1e-2
    with edit.applied(pipe):
        assert abs(tiny.picture(pipe) - expected).max() <= 1e-4


def test_kohyas_names_of_sdxl_and_its_alpha_are_read(tmp_path: Path) -> None:
    pipe = tiny.sdxl()
    edit = lora(pipe)
    (path,) = export_edit(edit, pipe, "kohya", tmp_path)
    renamed = {}
    for name, value in load_file(path).items():
        module, _, part = name.partition(".")
        if module.startswith("lora_unet_"):
            full = Names(pipe).of_module(module)
            assert full is not None
            own = original_name(full.removeprefix("unet."), 1, pipe.unet)
            module = "lora_unet_" + own.removesuffix(".weight").replace(".", "_")
        renamed[f"{module}.{part}"] = value * 0.5 if part == "alpha" else value
    assert not any("mid_block" in name for name in renamed)
    renamed["lora_unet_no_such_layer.alpha"] = torch.tensor(1.0)
    save_file(renamed, tmp_path / "sgm.safetensors")
    again = import_edit(tmp_path / "sgm.safetensors", pipe)
    assert_same_change(pipe, edit.scaled(0.5), again)
    assert again.diagnostics["ignored"]["names"] == ["lora_unet_no_such_layer.alpha"]


def test_a_lora_of_flux_round_trips(tmp_path: Path) -> None:
    pipe = tiny.flux()
    edit = make_edit(pipe, low_rank(pipe, "transformer.transformer_blocks.0.attn.to_q.weight"))
    _, edited = pictures(pipe, edit)
    (path,) = export_edit(edit, pipe, "diffusers", tmp_path)
    pipe.load_lora_weights(str(tmp_path))
    found = tiny.picture(pipe)
    pipe.unload_lora_weights()
    assert abs(found - edited).max() <= 1e-4
    assert_same_change(pipe, edit, import_edit(path, pipe))
    with pytest.raises(InputError, match="Expected Stable Diffusion 1, 2 or XL"):
        export_edit(edit, pipe, "kohya", tmp_path)


def test_kohyas_names_of_flux_are_read(tmp_path: Path) -> None:
    pipe = tiny.flux()
    g = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=g), torch.randn(96, 2, generator=g)
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
    path = tmp_path / "f.safetensors"
    save_file({f"{module}.{part}": value for part, value in tensors.items()}, path)
    found = deltas(pipe, import_edit(path, pipe))
    parts = (up @ down * 0.5).chunk(3)
    names = [f"transformer.transformer_blocks.0.attn.to_{part}.weight" for part in "qkv"]
    assert set(found) == set(names)
    for name, expected in zip(names, parts, strict=True):
        torch.testing.assert_close(found[name].float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "encoder"), [("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")]
)
def test_embeddings_without_a_name_have_that_of_the_file(
    key: str, encoder: str, tmp_path: Path
) -> None:
    save_file({key: torch.ones(2, tiny.WIDTH // 2)}, tmp_path / "style.safetensors")
    (change,) = import_edit(tmp_path / "style.safetensors", tiny.sdxl()).changes
    assert isinstance(change, NewTokens)
    assert (change.encoder, change.tokens()) == (encoder, ("style", "style_1"))


def test_embeddings_of_a1111_are_read(sd1: Any, tmp_path: Path) -> None:
    vectors = torch.ones(2, tiny.WIDTH, requires_grad=True)
    saved = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "x"}
    torch.save(saved, tmp_path / "style.pt")
    (change,) = import_edit(tmp_path / "style.pt", sd1).changes
    assert change.tokens() == ("style", "style_1")


def test_a_folder_with_one_lora_twice_is_an_error(sd1: Any, tmp_path: Path) -> None:
    for form in ("diffusers", "kohya"):
        export_edit(lora(sd1), sd1, form, tmp_path)
    with pytest.raises(InputError, match=r"weights.safetensors and pytorch.*_kohya.*both change"):
        import_edit(tmp_path, sd1)


def test_ones_own_edits_are_opened_too(sd1: Any, tmp_path: Path) -> None:
    edit = lora(sd1)
    path = edit.save(tmp_path / "e.safetensors")
    assert is_edit(path)
    assert open_edit(path, sd1).digest == edit.digest
    with pytest.raises(InputError, match="an edit of visdiff; use it directly"):
        import_edit(path, sd1)


WRONG = [
    ({"a.hada_w1_a": (2, 2)}, "an adapter of another kind"),
    ({"x.weight": (2, 2)}, r"none of whose 1 tensors \(x.weight, …\)"),
    ({"lora_unet_nothing.lora_down.weight": (2, 2)}, "none of whose 1 layers"),
    ({"conv_in.bias": (3,)}, r"Expected unet.conv_in.bias of shape \(8,\), got \(3,\)"),
    ({"<dog>": (3,)}, "Expected embeddings of length 64"),
    ({"conv_in.delta": (3,)}, "Expected 8 shifts of unet.conv_in.weight, got 3"),
    ({"a": (1, 1, 1)}, "of no known format"),
    ({}, "no tensors, which is of no known format"),
    (
        {"unet.conv_in.lora_A.weight": (2, 3), "unet.conv_in.lora_B.weight": (8, 2)},
        "Expected a LoRA for unet.conv_in.weight of shape",
    ),
]


@pytest.mark.parametrize(("shapes", "sentence"), WRONG)
def test_a_file_that_cannot_be_read_is_an_error(
    sd1: Any, shapes: Any, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.safetensors"
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(InputError, match=sentence):
        import_edit(path, sd1)


def test_what_is_no_file_of_weights_is_an_error(sd1: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_edit(tmp_path / "nothing.safetensors", sd1)
    with pytest.raises(InputError, match="without any"):
        import_edit(tmp_path, sd1)
    text = tmp_path / "a.txt"
    text.write_text("x")
    with pytest.raises(InputError, match=r"Expected a file of weights \(.safetensors"):
        import_edit(text, sd1)
    for name in ("broken.safetensors", "broken.pt"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(InputError, match="which cannot be read"):
            import_edit(tmp_path / name, sd1)
    torch.save(print, tmp_path / "code.pt")
    with pytest.raises(InputError, match="cannot be read without running code"):
        import_edit(tmp_path / "code.pt", sd1)
    same = {"conv_in.bias": sd1.unet.conv_in.bias.detach().clone()}
    save_file(same, tmp_path / "same.safetensors")
    with pytest.raises(InputError, match="which changes none"):
        import_edit(tmp_path / "same.safetensors", sd1)
    with pytest.raises(InputError, match="Expected a format, got 'onnx'; use one of custom"):
        export_edit(lora(sd1), sd1, "onnx", tmp_path)
    tensors = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
    }
    for text, where in [
        ("{", "its metadata: Invalid JSON"),
        ("[1]", "its metadata: Input should be an object"),
        ('{"unet.lora_alpha": "high"}', "lora_alpha: Input should be a valid number"),
        ('{"alpha_pattern": {"to_k(": 2}}', "'to_k\\(' is no regular expression"),
    ]:
        metadata = {"lora_adapter_metadata": text}
        save_file(tensors, tmp_path / "json.safetensors", metadata)
        with pytest.raises(InputError, match=f"configuration of a LoRA as JSON.*{where}"):
            import_edit(tmp_path / "json.safetensors", sd1)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of a few thousand bytes at most, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_sentence_and_leaves_no_file(sd1: Any, tmp_path: Path) -> None:
    edit = make_edit(sd1, low_rank(sd1, f"{BLOCK}.attn2.to_k.weight", 16))
    with pytest.raises(InputError, match="a path to write the edit to"):
        edit.save(tmp_path / "e.safetensors")
    for form in ("diffusers", "kohya", "weights", "custom-diffusion"):
        with pytest.raises(InputError, match="a path to write the weights to"):
            export_edit(edit, sd1, form, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="a folder to write the pipeline to"):
        export_edit(edit, sd1, "folder", tmp_path / "whole")


def test_a_file_is_described_without_its_model(sd1: Any, tmp_path: Path) -> None:
    export_edit(make_edit(sd1, *lora(sd1).changes, *tokens(sd1, "<dog>")), sd1, "kohya", tmp_path)
    found = describe(tmp_path)
    assert [f["format"] for f in found["files"]] == ["learned-embeds", "kohya"]
    json.dumps(found)


def test_a_base_in_half_precision_is_changed_only_where_the_file_edits_it(tmp_path: Path) -> None:
    pipe = tiny.sd1()
    state = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    state["conv_in.bias"] = state["conv_in.bias"] + 1
    save_file(state, tmp_path / "single.safetensors")
    edit = import_edit(tmp_path / "single.safetensors", pipe.to(torch.float16))
    assert edit.tensors == ("unet.conv_in.bias",)


def test_files_that_a_folder_import_does_not_read_are_named(sd1: Any, tmp_path: Path) -> None:
    export_edit(lora(sd1), sd1, "diffusers", tmp_path)
    stem = FORMATS["diffusers"].file.removesuffix(".safetensors")
    torch.save({}, tmp_path / f"{stem}.bin")  # the same weights in another form
    assert not import_edit(tmp_path, sd1).warnings
    torch.save({"<cat>": torch.ones(tiny.WIDTH)}, tmp_path / "learned_embeds.bin")
    (warning,) = import_edit(tmp_path, sd1).warnings
    assert "1 others were not read: learned_embeds.bin" in warning


def test_magnitudes_of_columns_are_not_taken_for_those_of_rows(sd1: Any, tmp_path: Path) -> None:
    """A square weight has as many columns as rows."""
    name = f"{BLOCK}.attn1.to_q"
    weight = parameter(sd1, f"{name}.weight").detach()
    assert weight.shape[0] == weight.shape[1]
    flat = "lora_unet_" + name.removeprefix("unet.").replace(".", "_")
    tensors = {f"{flat}.lora_up.weight": torch.ones(len(weight), 1),
               f"{flat}.lora_down.weight": torch.ones(1, len(weight)),
               f"{flat}.dora_scale": weight.norm(dim=1, keepdim=True)}  # fmt: skip
    save_file(tensors, tmp_path / "rows.safetensors")
    assert import_edit(tmp_path / "rows.safetensors", sd1).tensors == (f"{name}.weight",)
    tensors[f"{flat}.dora_scale"] = weight.norm(dim=0, keepdim=True)
    save_file(tensors, tmp_path / "columns.safetensors")
    with pytest.raises(InputError, match="one a row"):
        import_edit(tmp_path / "columns.safetensors", sd1)
