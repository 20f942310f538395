"""Cross-attention maps: a partition of each place, of a pipeline in whatever state, unchanged."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.edit import Edit
from editing.edit.deltas import NewTokens
from editing.pipelines.attention import (
    attention_maps,
    attention_of_images,
    leak,
    positions_of,
)
from editing.pipelines.attention_figure import attention_figure, to_png
from editing.pipelines.sampling import Settings, draw
from editing.requests import Learn
from visdiff.errors import InputError

PROMPT = "a church of a dog"
SETTINGS = Settings(steps=2, guidance=4.0)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


@pytest.fixture
def sd1() -> Any:
    return tiny.sd1()


def plain(pipe: Any, prompt: str = PROMPT) -> np.ndarray:
    return draw(pipe, [prompt] * 3, [0, 1, 2], settings=SETTINGS, batch_size=2)


def recorded(pipe: Any, prompt: str = PROMPT, settings: Settings = SETTINGS) -> Any:
    return attention_maps(pipe, prompt, [0, 1, 2], settings=settings, batch_size=2)


def state(pipe: Any) -> tuple[Any, ...]:
    """What is attached to the UNet: processors, names, hooks and attributes of its modules."""
    return (
        [(name, id(processor)) for name, processor in pipe.unet.attn_processors.items()],
        list(pipe.unet.state_dict()),
        [(name, sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks))
         for name, m in pipe.unet.named_modules()],
    )  # fmt: skip


def test_maps_sum_to_1_over_words_and_images_are_those_without_maps(pipe: Any) -> None:
    before = state(pipe)
    found = recorded(pipe)
    assert np.array_equal(found.images, plain(pipe))
    assert found.maps.shape == (3, len(found.tokens), 8, 8)
    assert found.maps.min() >= 0
    words = found.of_words()
    assert [name.partition(" ")[2] for name in words][1:-1] == PROMPT.split()
    assert sum(words.values()) == pytest.approx(np.ones((3, 8, 8)), abs=1e-5)
    assert found.steps == 2
    assert state(pipe) == before


def test_maps_are_those_of_the_conditional_half_of_the_batch(sd1: Any) -> None:
    # After one call from the same noise, guidance has changed nothing yet.
    first = [recorded(sd1, settings=Settings(steps=1, guidance=g)).maps for g in (1.0, 9.0)]
    assert first[0] == pytest.approx(first[1], abs=1e-5)
    other = recorded(sd1, "a dog", Settings(steps=1, guidance=9.0)).maps
    assert abs(other - first[0]).max() > 1e-3


def test_maps_do_not_depend_on_the_batch(sd1: Any) -> None:
    alone = attention_maps(sd1, PROMPT, [2], settings=SETTINGS)
    assert alone.maps[0] == pytest.approx(recorded(sd1).maps[2], abs=1e-5)


def test_an_adapter_of_peft_takes_part(sd1: Any) -> None:
    base = recorded(sd1)
    from peft import LoraConfig

    torch.manual_seed(0)
    sd1.unet.add_adapter(
        LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=["to_k", "to_q"])
    )
    expected, before = plain(sd1), state(sd1)
    found = recorded(sd1)
    assert np.array_equal(found.images, expected)
    assert not np.array_equal(found.images, base.images)
    assert abs(found.maps - base.maps).max() > 1e-3
    assert state(sd1) == before


def test_trained_processors_of_custom_diffusion_take_part(sd1: Any) -> None:
    base = recorded(sd1)
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0

    torch.manual_seed(0)
    for module in sd1.unet.modules():
        if getattr(module, "is_cross_attention", False):
            width = module.to_k.out_features
            processor = CustomDiffusionAttnProcessor2_0(True, False, width, tiny.WIDTH)
            module.set_processor(processor)
    expected, before = plain(sd1), state(sd1)
    found = recorded(sd1)
    assert np.array_equal(found.images, expected)
    assert abs(found.maps - base.maps).max() > 1e-3
    assert state(sd1) == before
    assert any("to_k_custom_diffusion" in name for name in before[1])


def test_an_edit_with_a_token_of_two_vectors_takes_part(sd1: Any) -> None:
    g = torch.Generator().manual_seed(3)
    width = sd1.text_encoder.config.hidden_size
    token = NewTokens(
        "tokenizer",
        "text_encoder",
        {name: torch.randn(width, generator=g) for name in ("<olis>", "<olis>_1")},
    )
    edit = Edit.of(
        sd1, base_model="tiny", method="textual-inversion", requests=(Learn("<olis>", "dog"),),
        config={}, changes=(token,),
    )  # fmt: skip
    with edit.applied(sd1):
        expected = plain(sd1, "a <olis> dog")
        found = recorded(sd1, "a <olis> dog")
        assert np.array_equal(found.images, expected)
        assert [found.tokens[i] for i in positions_of(sd1, "a <olis> dog", "<olis>")] == [
            "<olis>", "<olis>_1",
        ]  # fmt: skip
        (noun,) = positions_of(sd1, "a <olis> dog", "dog")
        assert found.tokens[noun] == "dog</w>"


def test_processors_without_the_fused_function_give_the_same_maps(sd1: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    fused = recorded(sd1)
    sd1.unet.set_attn_processor(AttnProcessor())
    assert recorded(sd1).maps == pytest.approx(fused.maps, abs=1e-4)


def test_attention_that_cannot_be_observed_is_named_and_everything_is_restored(sd1: Any) -> None:
    sd1.unet.set_attention_slice(1)
    before = state(sd1)
    with pytest.raises(InputError, match="attention slicing"):
        recorded(sd1)
    assert state(sd1) == before
    with pytest.raises(InputError, match="mix words and places"):
        attention_maps(tiny.flux(), "a dog", [0])
    with pytest.raises(InputError, match="word of the prompt"):
        positions_of(sd1, "a dog", "cat")


def test_leak_is_0_for_a_full_mask_1_for_none_and_the_rest_of_the_area_if_uniform() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8))
    assert leak(maps, np.ones((2, 64, 64), bool)) == pytest.approx([0, 0])
    assert leak(maps, np.zeros((2, 64, 64), bool)) == pytest.approx([1, 1])
    mask = np.zeros((2, 64, 64), bool)
    mask[:, :, :16] = True
    assert leak(np.ones((2, 8, 8)), mask) == pytest.approx([0.75, 0.75])
    assert leak(maps, mask) + leak(maps, ~mask) == pytest.approx([1, 1])
    with pytest.raises(InputError, match="0 everywhere"):
        leak(np.zeros((2, 8, 8)), mask)
    with pytest.raises(InputError, match="mask"):
        leak(maps, mask[:1])


def test_the_figure_has_a_panel_for_each_image_and_word() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    maps = {"dog": np.random.default_rng(0).random((2, 4, 4)), "a": np.zeros((2, 4, 4))}
    figure = attention_figure(images, maps, {"dog": np.array([0.25, 0.5])})
    assert len(figure.axes) == 6
    assert figure.axes[1].get_xlabel() == "outside 25%"
    assert to_png(figure).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="one word or more"):
        attention_figure(images, {"dog": maps["dog"][:1]})


def test_the_command_writes_maps_and_the_leak_of_a_word(tmp_path: Path) -> None:
    tiny.sd1().save_pretrained(tmp_path / "model")
    (tmp_path / "masks").mkdir()
    full, empty = Image.new("L", (32, 32), 255), Image.new("L", (32, 32))
    full.save(tmp_path / "masks" / "0.png")
    empty.save(tmp_path / "masks" / "1.png")
    out = tmp_path / "out"
    arguments = [
        "attention", tmp_path / "model", f"{PROMPT} on a file", "--out", out, "--word", "dog",
        "--word", "file", "--seeds", "0-1", "--steps", "1", "--masks", tmp_path / "masks",
        "--device", "cpu", "--json",
    ]  # fmt: skip
    ran = CliRunner().invoke(app, list(map(str, arguments)))
    assert ran.exit_code == 3, ran.output
    rows = json.loads(ran.stdout)["rows"]
    assert [row["leak"] for row in rows] == [pytest.approx(0), None] * 2
    assert "seed 1" in ran.stderr
    with np.load(out / "maps.npz") as arrays:
        assert arrays["dog"].shape == arrays["file"].shape == (2, 8, 8)
    assert {f.name for f in out.iterdir()} == {
        "attention.png", "maps.npz", "0.png", "1.png", "masks",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_maps_of_given_images_do_not_depend_on_the_scheduler(pipe: Any, name: str) -> None:
    images, own = plain(pipe), pipe.scheduler
    expected = attention_of_images(pipe, images, PROMPT, noise_levels=(0.2, 0.7)).maps
    kind = getattr(importlib.import_module("diffusers"), name)
    try:
        pipe.scheduler = kind.from_config(own.config)
        # As after a call of the pipeline.
        pipe.scheduler.set_timesteps(5)
        found = attention_of_images(pipe, images, PROMPT, noise_levels=(0.2, 0.7)).maps
    finally:
        pipe.scheduler = own
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_maps_of_given_images_are_a_partition_and_change_nothing(pipe: Any) -> None:
    images = plain(pipe)
    before = state(pipe)
    found = attention_of_images(pipe, images, PROMPT, noise_levels=(0.2, 0.8))
    assert found.maps.shape == (3, len(found.tokens), 8, 8)
    np.testing.assert_allclose(found.maps.sum(axis=1), 1, atol=1e-5)
    assert found.steps == 2
    assert state(pipe) == before
    again = attention_of_images(pipe, images[:1], PROMPT, noise_levels=(0.2, 0.8))
    np.testing.assert_allclose(again.maps, found.maps[:1], atol=1e-5)
    with pytest.raises(InputError, match="noise levels"):
        attention_of_images(pipe, images, PROMPT, noise_levels=(1.0,))
