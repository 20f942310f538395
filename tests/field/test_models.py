"""Models as people have them: safety checkers, wrapped layers, odd folders, other inputs."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import editing
from editing.cli import edit as edit_commands
from editing.cli.audit import app as audit_app
from editing.cli.generate import generate
from editing.edit import Edit
from editing.edit.formats import export_edit, import_edit
from editing.edit.formats.names import original_name, to_transformers
from editing.generate import generate as generate_images
from editing.generate.prompts import Sample
from editing.personalize import find
from editing.personalize.subject import Subject
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Sampler, Settings, draw
from editing.pipelines.weights import projections, weight_hash
from visdiff.errors import InputError
from visdiff.torchvision_compat import ensure_torchvision

ensure_torchvision()
from diffusers import (  # noqa: E402
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from peft import LoraConfig  # noqa: E402

REQUESTS = [editing.Erase("church"), editing.Preserve(["a castle"])]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
QUICK = Settings(steps=2)

uce = partial(editing.fit, requests=REQUESTS, nearest=0)


def run(app: Any, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def layers(edit: Edit) -> int:
    return len({name for change in edit.changes for name in change.names()})


def denoiser(pipe: Any) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"


def with_lora(make: Callable[[], Any] = tiny.sd1, targets: Any = ATTENTION) -> Any:
    pipe = make()
    # Not the zeros that adapters start from.
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    getattr(pipe, denoiser(pipe)).add_adapter(config)
    return pipe


def compiled(make: Callable[[], Any] = tiny.sd1) -> Any:
    pipe = make()
    name = denoiser(pipe)
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))
    return pipe


def as_bits(kind: Any, bits: Any, module: torch.nn.Module) -> None:
    """Stores linear layers as libraries for quantization do: a parameter of another dtype."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight = kind(layer.weight.detach().to(bits), requires_grad=False)


class Int8Params(torch.nn.Parameter):
    """A parameter of a library's own class, as bitsandbytes, quanto and GGUF have."""


def quantized(kind: str, make: Callable[[], Any] = tiny.sd1) -> Any:
    pipe = make()
    name = denoiser(pipe)
    module = getattr(pipe, name)
    match kind:
        case "torch.ao":
            dynamic = torch.ao.quantization.quantize_dynamic
            setattr(pipe, name, dynamic(module, {torch.nn.Linear}, dtype=torch.qint8))
        case "int8":
            as_bits(torch.nn.Parameter, torch.int8, module)
        case "float8":
            as_bits(torch.nn.Parameter, torch.float8_e4m3fn, module)
        case "own class":
            as_bits(Int8Params, torch.float16, module)
    return pipe


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    return Subject.without_captions(folder, "sks", "dog")


def personalize(pipe: Any, subject: Subject, method: str = "lora") -> Edit:
    return find(method).fit(pipe, subject, prior="none", steps=1)


# --- safety checkers


def checker() -> Any:
    """A safety checker that blackens every image."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    small = {
        **{"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1},
        **{"num_attention_heads": 4, "projection_dim": 32},
    }
    config = CLIPConfig(
        text_config=small | {"vocab_size": 1000},
        vision_config=small | {"image_size": 30, "patch_size": 6},
        projection_dim=32,
    )
    found = tiny.spread(StableDiffusionSafetyChecker(config), 5)
    found.concept_embeds_weights.fill_(-2.0)
    return found


def with_checker() -> Any:
    from transformers import CLIPImageProcessor

    p = tiny.sd1()
    extractor: Any = CLIPImageProcessor(
        size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}
    )
    pipe = StableDiffusionPipeline(
        p.vae, p.text_encoder, p.tokenizer, p.unet, p.scheduler, checker(), extractor
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Stable Diffusion 1 as the hub has it."""
    folder = tmp_path_factory.mktemp("model") / "sd1-safety"
    with_checker().save_pretrained(folder)
    return folder


def test_commands_leave_the_safety_checker_out_and_print_it_once(
    guarded: Path, tmp_path: Path
) -> None:
    import typer

    draws = typer.Typer()
    draws.command()(generate)
    edit, edited = tmp_path / "e.safetensors", tmp_path / "edited"
    steps = ("--steps", 2)
    results = [
        run(edit_commands.app, "erase", guarded, "--concept", "church", "--out", edit),
        run(draws, guarded, "--prompt", "a church", "--edit", edit, *steps,
            "--out", tmp_path / "g"),
        run(audit_app, "--base", guarded, "--edit", edit, *steps, "--images", 4, "--dry-run",
            "--out", tmp_path / "a"),
        run(edit_commands.app, "apply", guarded, edit, "--out", edited),
    ]  # fmt: skip
    for result in results:
        assert result.exit_code == 0, result.output
        assert result.stderr.count("without its safety checker") == 1, result.stderr
    for row in (tmp_path / "g" / "manifest.jsonl").read_text().splitlines():
        assert np.asarray(Image.open(tmp_path / "g" / json.loads(row)["path"])).any()
    # The folder is as complete as its index, and later commands do not print the note.
    assert not (edited / "safety_checker").exists()
    index = json.loads((edited / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]
    assert not index["requires_safety_checker"]
    notes: list[str] = []
    pipe = load_pipeline(edited, notes.append)
    assert notes == []
    assert weight_hash(pipe) == weight_hash(load_pipeline(edited))


def test_a_pipeline_is_drawn_without_its_checker_and_has_it_afterwards(tmp_path: Path) -> None:
    pipe, plain = with_checker(), tiny.sd1()
    own, config = pipe.safety_checker, dict(pipe.config)
    images = draw(pipe, ["a church"], [0], settings=QUICK)
    assert np.array_equal(images, draw(plain, ["a church"], [0], settings=QUICK))
    assert images.any()
    with pytest.raises(RuntimeError), Sampler(pipe, QUICK, 1).using_scheduler():
        raise RuntimeError
    assert pipe.safety_checker is own
    assert dict(pipe.config) == config
    assert not tiny.picture(pipe).any()
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "safety_checker").is_dir()


# --- layers behind wrappers


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (tiny.sd1, ["to_q", "to_v"]),
        (tiny.sd1, ATTENTION),
        (tiny.sdxl, ["attn2.to_k"]),
        (tiny.flux, ["to_q"]),
        (tiny.flux, ["context_embedder", "linear_1"]),
    ],
)
def test_a_loaded_lora_is_refused_with_the_line_that_removes_it(make: Any, targets: Any) -> None:
    pipe = with_lora(make, targets)
    for use in (uce, weight_hash):
        with pytest.raises(InputError) as caught:
            use(pipe)
        assert "'default'" in str(caught.value)
        assert "call pipe.unload_lora_weights(), or pipe.fuse_lora()" in str(caught.value)
    pipe.unload_lora_weights()
    assert weight_hash(pipe) == weight_hash(make())


def test_a_lora_of_a_text_encoder_is_refused(tmp_path: Path) -> None:
    pipe = tiny.sd1()
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"text_encoder.*unload_lora_weights"):
        generate_images(pipe, [Sample("a church", 0)], tmp_path)


def test_a_fused_lora_is_part_of_the_base(tmp_path: Path) -> None:
    pipe = with_lora(targets=["to_q", "to_v"])
    pipe.fuse_lora()
    edit = uce(pipe)
    assert layers(edit) == layers(uce(tiny.sd1())) == 8
    assert edit.base_hash != weight_hash(tiny.sd1())
    assert [w for w in edit.diagnostics["warnings"] if "fused LoRA 'default'" in w]
    with edit.applied(pipe):
        picture = tiny.picture(pipe)
    export_edit(edit, pipe, "folder", tmp_path)
    saved = load_pipeline(tmp_path)
    # Unloading keeps what was fused.
    pipe.unload_lora_weights()
    assert weight_hash(pipe) == edit.base_hash
    with edit.applied(pipe):
        assert np.array_equal(tiny.picture(pipe), picture)
        assert weight_hash(pipe) == weight_hash(saved)


def test_a_lora_that_is_switched_off_changes_nothing() -> None:
    pipe = with_lora()
    pipe.unet.disable_adapters()
    assert weight_hash(pipe) == weight_hash(tiny.sd1())
    assert uce(pipe).digest == uce(tiny.sd1()).digest


@pytest.mark.parametrize("make", [tiny.sd1, tiny.flux])
def test_a_compiled_model_has_the_edits_of_the_plain_one(make: Any) -> None:
    pipe, plain = compiled(make), make()
    before = getattr(pipe, denoiser(pipe))
    edit = uce(plain)
    assert weight_hash(pipe) == weight_hash(plain) == edit.base_hash
    assert uce(pipe).digest == edit.digest
    assert getattr(pipe, denoiser(pipe)) is before


def test_compiled_blocks_have_the_names_of_plain_ones() -> None:
    pipe, plain = tiny.sd1(), tiny.sd1()
    # A whole UNet would be traced for ten seconds.
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn2 = torch.compile(block.attn2, backend="eager")
    assert projections(pipe) == projections(plain)
    assert weight_hash(pipe) == weight_hash(plain)
    edit = uce(plain)
    original = tiny.picture(pipe)
    with edit.applied(pipe):
        expected, picture = weight_hash(pipe), tiny.picture(pipe)
    assert np.array_equal(tiny.picture(pipe), original)
    with edit.applied(plain):
        assert weight_hash(plain) == expected
        assert np.array_equal(tiny.picture(plain), picture)
    assert not np.array_equal(picture, original)


def test_weights_for_a_compiled_model_are_read_and_written(tmp_path: Path) -> None:
    plain = tiny.sd1()
    edit = uce(plain)
    (file,) = export_edit(edit, compiled(), "diffusers", tmp_path / "l.safetensors")
    again = import_edit(file, compiled())
    assert again.digest == import_edit(file, plain).digest
    assert set(again.tensors) == set(edit.tensors)


def test_training_on_a_compiled_model_is_that_of_the_plain_one(subject: Subject) -> None:
    pipe = compiled()
    before = pipe.unet
    assert personalize(pipe, subject).digest == personalize(tiny.sd1(), subject).digest
    assert pipe.unet is before


def test_training_with_a_loaded_lora(subject: Subject) -> None:
    pipe = with_lora()
    with pytest.raises(InputError, match="unload_lora_weights"):
        personalize(pipe, subject)
    with pytest.raises(InputError, match="unload_lora_weights"):
        editing.fit(pipe, [editing.Erase("church")], "esd-x", steps=1)
    # A fused one stays loaded, and can be separated again.
    pipe.fuse_lora()
    edit = personalize(pipe, subject)
    assert any("fused LoRA" in w for w in edit.diagnostics["warnings"])
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert torch.allclose(
        pipe.unet.mid_block.attentions[0].proj_in.weight,
        tiny.sd1().unet.mid_block.attentions[0].proj_in.weight,
    )


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        *((tiny.sd1, kind) for kind in ("torch.ao", "int8", "float8", "own class")),
        (tiny.flux, "torch.ao"),
        (tiny.flux, "own class"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_quantized_model_is_refused_in_one_sentence(
    make: Any, kind: str, subject: Subject
) -> None:
    edit = uce(make())
    pipe = quantized(kind, make)
    assert weight_hash(pipe) != weight_hash(make())
    tries: list[Callable[[], Any]] = [
        partial(uce, pipe),
        partial(edit.apply, pipe),
        partial(edit.apply, pipe, force=True),
        partial(personalize, pipe, subject),
    ]
    if make is tiny.sd1:
        tries.append(partial(editing.fit, pipe, [editing.Erase("church")], "esd-x", steps=1))
    for use in tries:
        with pytest.raises(InputError, match=r"quantized \(.*load the model without quantization"):
            use()


def test_a_quantized_text_encoder_is_no_hindrance_to_the_denoiser() -> None:
    pipe = tiny.sd1()
    as_bits(Int8Params, torch.float32, pipe.text_encoder)
    assert layers(uce(pipe)) == 8


@pytest.mark.parametrize("part", ["to_k", "to_v"])
def test_a_missing_key_or_value_is_refused(part: str) -> None:
    pipe = tiny.sd1()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    setattr(layer, part, torch.nn.Sequential(getattr(layer, part)))
    name = f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.{part}"
    with pytest.raises(InputError, match=f"{re.escape(name)}, got Sequential"):
        uce(pipe)


@pytest.mark.parametrize("make", [tiny.sd1, tiny.flux])
def test_fused_projections_are_refused(make: Any) -> None:
    pipe = make()
    getattr(pipe, denoiser(pipe)).fuse_qkv_projections()
    with pytest.raises(InputError, match="do not call fuse_qkv_projections"):
        uce(pipe)


# --- models that draw from more than a prompt


def sd(kind: Any, **more: Any) -> Any:
    p = tiny.sd1()
    unet = tiny.unet(tiny.WIDTH, **more)
    parts = (p.vae, p.text_encoder, p.tokenizer, unet, p.scheduler, None, None)
    return kind(*parts, requires_safety_checker=False)


@pytest.mark.parametrize(
    ("kind", "channels", "sentence"),
    [
        (StableDiffusionInpaintPipeline, 4, "AutoPipelineForText2Image"),
        (StableDiffusionImg2ImgPipeline, 4, "AutoPipelineForText2Image"),
        # The UNet of a depth model in the class that diffusers loads by default.
        (StableDiffusionPipeline, 5, "takes 5 channels and returns 4"),
    ],
)
def test_what_needs_an_image_is_not_drawn(kind: Any, channels: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Sampler(sd(kind, in_channels=channels), QUICK, 1)


def test_an_inpainting_model_is_edited_and_refused_before_anything_is_drawn(
    tmp_path: Path,
) -> None:
    folder, edit = tmp_path / "inpaint", tmp_path / "e.safetensors"
    sd(StableDiffusionInpaintPipeline, in_channels=9).save_pretrained(folder)
    result = run(edit_commands.app, "erase", folder, "--concept", "church", "--out", edit)
    assert result.exit_code == 0, result.output
    result = run(audit_app, "--base", folder, "--edit", edit, "--out", tmp_path / "a")
    assert isinstance(result.exception, InputError)
    assert "takes 9 channels and returns 4" in str(result.exception)
    assert not list(tmp_path.rglob("*.png"))


def test_the_advice_for_other_classes_works() -> None:
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pipe(sd(StableDiffusionImg2ImgPipeline))
    assert draw(pipe, ["a church"], [0], settings=QUICK).any()


# --- folders


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "sd1"
    tiny.sd1().save_pretrained(folder)
    return folder


_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def truncate(folder: Path) -> None:
    file = folder / _WEIGHTS
    file.write_bytes(file.read_bytes()[:999])


def rename(folder: Path, name: str, to: str) -> None:
    (folder / name).rename(folder / to)


def index(folder: Path, **changes: Any) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "where", "sentence"),
    [
        (lambda f: shutil.rmtree(f / "unet"), "", "which model_index.json names, got none"),
        (lambda f: shutil.rmtree(f / "tokenizer"), "", "which model_index.json names, got none"),
        (truncate, "", "copy its files again"),
        (partial(write, name=_WEIGHTS, content=_LFS), "", "git lfs pull"),
        (partial(write, name="unet/config.json", content=b"{"), "", "config.json"),
        (partial(write, name="model_index.json", content=b"{"), "", "Expected JSON"),
        (partial(write, name="model_index.json", content=b"[]"), "", "without _class_name"),
        (partial(index, _class_name="NoSuchPipeline"), "", "NoSuchPipeline"),
        (partial(index, unet=["diffusers", "NoSuchModel"]), "", "NoSuchModel"),
        (lambda f: (f / _WEIGHTS).unlink(), "", "no file named"),
        (
            partial(rename, name=_WEIGHTS, to=_WEIGHTS.replace(".safe", ".fp16.safe")),
            "",
            "'fp16' only",
        ),
        (lambda f: None, "unet", "a single component"),
        (lambda f: None, "..", "sd1 has one"),
    ],
)
def test_what_is_wrong_with_a_folder_is_reported_of_the_folder(
    saved: Path, tmp_path: Path, damage: Callable[[Path], None], where: str, sentence: str
) -> None:
    folder = tmp_path / "sd1"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        load_pipeline(folder / where)
    text = str(caught.value)
    assert sentence in text
    assert str(tmp_path) in text
    assert "hub" not in text
    assert "\n" not in text


def test_a_path_below_a_folder_is_not_looked_for_on_the_hub(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved.parent.parent)
    with pytest.raises(InputError, match="has no sd2; check the spelling"):
        load_pipeline(f"{saved.parent.name}/sd2")


# --- single files and the hub's cache

_VAE = (
    (r"(down_blocks)\.(\d)\.resnets", r"down.\2.block"),
    (r"(down_blocks)\.(\d)\.downsamplers\.0", r"down.\2.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{2 - int(m[1])}.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample"),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
)


def original_vae(name: str) -> str:
    for ours, theirs in _VAE:
        name = re.sub(ours, theirs, name)
    return name


def single_file(pipe: Any, path: Path) -> Path:
    """Writes a pipeline as one checkpoint in the names of the original code."""
    unet, encoder = pipe.unet, pipe.text_encoder
    state = {
        **{
            f"model.diffusion_model.{original_name(n, 1, unet)}": v
            for n, v in unet.state_dict().items()
        },
        **{f"first_stage_model.{original_vae(n)}": v for n, v in pipe.vae.state_dict().items()},
        **{
            f"cond_stage_model.transformer.{to_transformers('text_encoder', n)}": v
            for n, v in encoder.state_dict().items()
        },
    }
    save_file({n: v.contiguous().clone() for n, v in state.items()}, path)
    return path


def cached(folder: Path, cache: Path, name: str) -> None:
    """Puts a folder into the hub's cache under a name, as a download does."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


def test_a_checkpoint_in_one_file(
    guarded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    file = single_file(tiny.sd1(), tmp_path / "my model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError) as caught:
        load_pipeline(file)
    assert "StableDiffusionPipeline as P; P.from_single_file(" in str(caught.value)
    assert ".save_pretrained(" in str(caught.value)
    cached(guarded, tmp_path / "cache", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    notes: list[str] = []
    pipe = load_pipeline(file, notes.append)
    assert weight_hash(pipe) == weight_hash(tiny.sd1())
    assert len(notes) == 1
    assert uce(pipe).base_model == "my model"
    assert np.array_equal(tiny.picture(pipe), tiny.picture(tiny.sd1()))


def test_a_hub_id_is_loaded_without_its_checker(
    guarded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached(guarded, tmp_path, "someone/sd1")
    notes: list[str] = []
    pipe = load_pipeline("someone/sd1", notes.append)
    assert pipe.safety_checker is None
    assert len(notes) == 1
    assert weight_hash(pipe) == weight_hash(tiny.sd1())


def test_files_that_are_no_checkpoint(saved: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    save_file({"unet.to_k.lora_A.weight": torch.ones(2, 2)}, lora)
    with pytest.raises(InputError, match="--edit"):
        load_pipeline(lora)
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"old.ckpt.*from_single_file.*save_pretrained"):
        load_pipeline(tmp_path / "old.ckpt")
    shutil.copy(saved / _WEIGHTS, tmp_path / "unet.safetensors")
    assert load_file(tmp_path / "unet.safetensors")
    with pytest.raises(InputError, match="whole checkpoint"):
        load_pipeline(tmp_path / "unet.safetensors")
