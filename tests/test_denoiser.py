"""Tests of the denoiser of every family, on tiny random pipelines."""

from pathlib import Path
from typing import Any

import pytest
import subjects
import tiny_pipelines as tiny
import torch

from editing.methods.score.esd import ESD_X
from editing.personalize.lora import LORA
from editing.pipelines.denoiser import Conditions, Denoiser
from editing.pipelines.family import Flux, StableDiffusion, StableDiffusion3
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings, draw
from editing.pipelines.text import Phrase, lay_out, neighbours
from editing.pipelines.weights import component_hashes, projections, weight_hash
from editing.requests import Erase
from visdiff.errors import InputError

FAMILIES = ["sd1", "sd2", "sdxl", "sd3", "sd3_without_t5", "flux"]
PROMPTS = ["a dog", "a church"]
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
# Height and width differ, and both differ from what the models were trained on.
SIZE = (32, 48)

_MADE: dict[str, Any] = {}


def made(family: str) -> Any:
    """Returns the family's pipeline, one for all tests that only read it."""
    if family not in _MADE:
        _MADE[family] = fresh(family)
    return _MADE[family]


def fresh(family: str) -> Any:
    """Returns a pipeline of its own, the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(tiny, family)()


@pytest.fixture(params=FAMILIES)
def pipe(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def noise(denoiser: Denoiser, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((n, *denoiser.shape), generator=torch.Generator().manual_seed(seed))


def timesteps(denoiser: Denoiser, n: int) -> torch.Tensor:
    found = torch.linspace(100, 900, n)
    return found if denoiser.prediction == "flow" else found.long()


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


# --- the network's inputs ---------------------------------------------------------------------


def test_a_prediction_is_that_of_the_pipelines_own_sampling(pipe: Any) -> None:
    """One step without guidance: the network receives the same inputs and returns the same."""
    denoiser = Denoiser(pipe, *SIZE)
    start = noise(denoiser, 2)
    calls: list[torch.Tensor] = []
    handle = denoiser.module.register_forward_hook(
        lambda module, args, output: calls.append(output[0])
    )
    # We take the length of T5's states from its tokenizer.
    t5 = any(type(getattr(pipe, name, None)).__name__ == "T5EncoderModel" for name in ENCODERS)
    try:
        pipe(
            PROMPTS,
            latents=denoiser.family.latents(start),
            num_inference_steps=1,
            guidance_scale=1.0,
            height=SIZE[0],
            width=SIZE[1],
            output_type="latent",
            **({"max_sequence_length": 32} if t5 else {}),
        )
        t = pipe.scheduler.timesteps[0].expand(2)
        with torch.no_grad():
            ours = denoiser.forward(start, t, denoiser.encode_with_gradients(PROMPTS))
    finally:
        handle.remove()
    assert len(calls) == 2
    assert largest(calls[0], calls[1]) <= 1e-5
    assert ours.shape == start.shape
    assert ours.dtype == torch.float32
    assert largest(denoiser.family.latents(ours), calls[0]) <= 1e-5
    assert ours.std() > 0.01


def test_the_attributes_describe_the_model(pipe: Any) -> None:
    denoiser = Denoiser(pipe)
    assert denoiser.size == (32, 32)
    assert denoiser.shape == (4, 8, 8)
    assert denoiser.dtype == torch.float32
    assert denoiser.device == torch.device("cpu")
    assert isinstance(denoiser.family, StableDiffusion | StableDiffusion3 | Flux)
    assert denoiser.module is getattr(pipe, "unet", None) or denoiser.module is pipe.transformer


def test_the_kind_of_prediction_is_the_schedulers() -> None:
    kinds = {family: Denoiser(made(family)).prediction for family in FAMILIES}
    assert kinds == {
        "sd1": "epsilon",
        "sd2": "v_prediction",
        "sdxl": "epsilon",
        "sd3": "flow",
        "sd3_without_t5": "flow",
        "flux": "flow",
    }
    other = fresh("sd1")
    other.scheduler.register_to_config(prediction_type="score")
    with pytest.raises(InputError, match="prediction_type epsilon, v_prediction"):
        _ = Denoiser(other).prediction


def test_latents_of_another_size_than_the_models_run(pipe: Any) -> None:
    """A batch of an aspect bucket equals that of a denoiser of its size."""
    square, wide = Denoiser(pipe), Denoiser(pipe, *SIZE)
    x = noise(wide, 2)
    t, conditions = timesteps(square, 2), square.encode(PROMPTS)
    assert torch.equal(square.forward(x, t, conditions), wide.forward(x, t, conditions))
    assert square.predict(noise(square, 2), t, conditions).shape == (2, 4, 8, 8)


def test_packing_is_inverted() -> None:
    x = torch.arange(2 * 4 * 6 * 8).view(2, 4, 6, 8).float()
    for memory in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(Flux().prediction(Flux().latents(memory), 6, 8), x)


def test_sizes_of_each_sample_change_sdxl_alone() -> None:
    denoiser = Denoiser(made("sdxl"))
    x, t = noise(denoiser, 2), timesteps(denoiser, 2)
    conditions = denoiser.encode(PROMPTS)
    default = denoiser.forward(x, t, conditions)
    own = torch.tensor([[32, 32, 0, 0, 32, 32], [64, 48, 8, 0, 32, 32]])
    found = denoiser.forward(x, t, conditions, own)
    assert largest(found[:1], default[:1]) <= 1e-6
    assert largest(found[1:], default[1:]) > 1e-3
    with torch.no_grad():
        assert torch.equal(found, denoiser.predict(x, t, conditions, sizes=own))
    other = Denoiser(made("sd1"))
    conditions = other.encode(PROMPTS)
    assert torch.equal(other.forward(x, t, conditions, own), other.forward(x, t, conditions))


# --- gradients --------------------------------------------------------------------------------


def test_gradients_reach_the_embeddings_of_the_prompts_tokens_and_no_others(pipe: Any) -> None:
    denoiser = Denoiser(pipe)
    conditions = denoiser.encode_with_gradients(PROMPTS)
    loss = denoiser.forward(noise(denoiser, 2), timesteps(denoiser, 2), conditions).square().mean()
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")
    for name, words in zip(ENCODERS, tokenizers, strict=True):
        if getattr(pipe, name, None) is None:
            continue
        table = getattr(pipe, name).get_input_embeddings().weight
        (gradient,) = torch.autograd.grad(loss, table, retain_graph=True)
        tokenizer = getattr(pipe, words)
        used = set(tokenizer(PROMPTS[0])["input_ids"]) | set(tokenizer(PROMPTS[1])["input_ids"])
        used |= {tokenizer.pad_token_id}
        reached = set(gradient.abs().sum(1).nonzero().flatten().tolist())
        assert reached
        assert reached <= used, name


def test_encodings_with_gradients_have_the_values_of_those_without(pipe: Any) -> None:
    denoiser = Denoiser(pipe)
    plain, trained = denoiser.encode(PROMPTS), denoiser.encode_with_gradients(PROMPTS)
    assert not plain.states.requires_grad
    assert trained.states.requires_grad
    assert largest(plain.states, trained.states) <= 1e-4
    assert (plain.pooled is None) == (trained.pooled is None)
    if plain.pooled is not None and trained.pooled is not None:
        assert largest(plain.pooled, trained.pooled) <= 1e-4
    with torch.no_grad():
        assert not denoiser.encode_with_gradients(PROMPTS).states.requires_grad


def test_the_empty_prompt_with_gradients_is_an_ordinary_prompt() -> None:
    denoiser = Denoiser(made("sdxl"))
    assert denoiser.encode_with_gradients([""]).states.abs().sum() > 0
    # The default negative prompt of this pipeline.
    assert denoiser.encode([""]).states.abs().sum() == 0
    for family in ("sd3", "flux"):
        other = Denoiser(made(family))
        assert largest(other.encode_with_gradients([""]).states, other.encode([""]).states) <= 1e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl", "flux"])
def test_a_placeholder_of_two_vectors_is_expanded(family: str) -> None:
    pipe = fresh(family)
    pipe.tokenizer.add_tokens(["<x>", "<x>_1"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    denoiser = Denoiser(pipe)
    found = denoiser.encode_with_gradients(["a <x>", "a dog"])
    plain = denoiser.encode(["a <x>", "a dog"])
    assert largest(found.states, plain.states) <= 1e-4
    loss = denoiser.forward(noise(denoiser, 2), timesteps(denoiser, 2), found).square().mean()
    table = pipe.text_encoder.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(loss, table)
    assert (gradient[-2:].abs().sum(1) > 0).all()


def test_both_forms_of_training_have_the_same_gradients(pipe: Any) -> None:
    """Of the network's own parameters, and of tensors that replace them for one call."""
    denoiser = Denoiser(pipe)
    x, t = noise(denoiser, 2), timesteps(denoiser, 2)
    conditions = denoiser.encode(PROMPTS)
    name, own = next(
        (n, p) for n, p in denoiser.module.named_parameters() if n.endswith("to_k.weight")
    )
    output = denoiser.forward(x, t, conditions)
    (gradient,) = torch.autograd.grad(output.square().mean(), own)
    other = own.detach().clone().requires_grad_()
    weights = {f"{denoiser.family.denoiser}.{name}": other}
    replaced = denoiser.predict(x, t, conditions, weights)
    (theirs,) = torch.autograd.grad(replaced.square().mean(), other)
    assert torch.equal(output, replaced)
    assert torch.equal(gradient, theirs)
    plain = denoiser.predict(x, t, conditions)
    assert torch.equal(plain, output)
    assert not plain.requires_grad


def test_gradient_checkpointing_does_not_change_the_gradients(pipe: Any) -> None:
    denoiser = Denoiser(pipe)
    x, t = noise(denoiser, 2), timesteps(denoiser, 2)
    conditions = denoiser.encode(PROMPTS)
    own = [p for n, p in denoiser.module.named_parameters() if n.endswith("to_q.weight")]
    network: Any = denoiser.module
    network.train()
    try:
        plain = torch.autograd.grad(denoiser.forward(x, t, conditions).square().mean(), own)
        network.enable_gradient_checkpointing()
        saved = torch.autograd.grad(denoiser.forward(x, t, conditions).square().mean(), own)
    finally:
        network.disable_gradient_checkpointing()
        network.eval()
    assert all(largest(a, b) <= 1e-6 for a, b in zip(plain, saved, strict=True))


def test_rows_and_concatenation_are_inverse(pipe: Any) -> None:
    found = Denoiser(pipe).encode([*PROMPTS, "a boat"])
    parts = [found.rows([0]), found.rows([1, 2])]
    again = Conditions.cat(parts)
    assert torch.equal(again.states, found.states)
    assert (again.pooled is None) == (found.pooled is None)
    if again.pooled is not None and found.pooled is not None:
        assert torch.equal(again.pooled, found.pooled)


# --- the VAE ----------------------------------------------------------------------------------


def test_latent_moments_are_those_of_the_vae(pipe: Any) -> None:
    pixels = torch.rand((2, 3, *SIZE), generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = Denoiser(pipe).latent_moments(pixels)
    assert mean.shape == std.shape == (2, 4, 8, 12)
    assert not mean.requires_grad
    config = pipe.vae.config
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
        # What the pipeline's decoding undoes.
        back = mean / config.scaling_factor + (config.shift_factor or 0.0)
        assert largest(back, posterior.mean) <= 1e-5
        assert largest(std, posterior.std * config.scaling_factor) <= 1e-6


def test_the_scale_of_each_channel_is_used() -> None:
    pipe = fresh("sdxl")
    means, stds = [0.5, -1.0, 0.0, 2.0], [2.0, 4.0, 1.0, 0.5]
    pixels = torch.zeros(1, 3, 32, 32)
    plain_mean, plain_std = Denoiser(pipe).latent_moments(pixels)
    pipe.vae.register_to_config(latents_mean=means, latents_std=stds)
    mean, std = Denoiser(pipe).latent_moments(pixels)
    shift, scale = torch.tensor(means).view(4, 1, 1), torch.tensor(stds).view(4, 1, 1)
    factor = pipe.vae.config.scaling_factor
    assert largest(mean, (plain_mean / factor - shift) / scale * factor) <= 1e-5
    assert largest(std * scale, plain_std) <= 1e-5


def test_a_float16_vae_computes_in_float32_and_is_unchanged() -> None:
    pipe = fresh("sdxl")
    pipe.vae.to(torch.float16)
    before = {name: value.clone() for name, value in pipe.vae.state_dict().items()}
    # The first layer's sums do not fit into float16.
    with torch.no_grad():
        pipe.vae.encoder.conv_in.bias.fill_(6e4)
    before["encoder.conv_in.bias"].fill_(6e4)
    mean, std = Denoiser(pipe).latent_moments(torch.ones(1, 3, 32, 32))
    assert mean.isfinite().all()
    assert std.dtype == torch.float32
    assert tiny.identical(before, pipe.vae.state_dict())


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_score_methods_and_closed_forms_refuse_other_denoisers(family: str) -> None:
    with pytest.raises(InputError, match="a pipeline with a UNet"):
        ESD_X.fit(made(family), [Erase("a dog")])
    if family == "sd3":
        with pytest.raises(InputError, match="closed-form edits support no other denoiser yet"):
            projections(made(family))


def test_float16_and_checkpointing_are_refused_where_gradients_would_be_wrong() -> None:
    pipe = fresh("sd1")
    pipe.unet.enable_gradient_checkpointing()
    Denoiser(pipe)
    with pytest.raises(InputError, match="without gradient checkpointing"):
        ESD_X.fit(pipe, [Erase("a dog")])
    pipe.unet.disable_gradient_checkpointing()
    pipe.to(torch.float16)
    denoiser = Denoiser(pipe)
    assert denoiser.dtype == torch.float16
    with pytest.raises(InputError, match="gradients underflow"):
        denoiser.check_functional_training()


def test_models_of_other_noise_levels_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    from diffusers import EDMEulerScheduler

    pipe = fresh("sd1")
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(InputError, match="EDMEulerScheduler"):
        ESD_X.fit(pipe, [Erase("church")], steps=1, runs=1, run_steps=2)
    with pytest.raises(InputError, match="EDMEulerScheduler"):
        LORA.fit(pipe, subjects.subject(), class_folder=tmp_path / "class", rank=2)
    assert not list(tmp_path.iterdir())


def test_other_inputs_models_and_sizes_are_refused() -> None:
    pipe = fresh("sd1")
    pipe.unet.register_to_config(in_channels=9)  # as for inpainting
    with pytest.raises(InputError, match="equal numbers of input and output channels, got 9 and 4"):
        Denoiser(pipe)
    with pytest.raises(InputError, match="Stable Diffusion 1, 2, XL or 3, or Flux"):
        Denoiser(tiny.unconditional())
    with pytest.raises(InputError, match="divisible by 8"):
        Denoiser(made("sd3"), 36, 32)
    assert Denoiser(made("sd3"), 128, 32).size == (128, 32)
    with pytest.raises(InputError, match="at most 128"):
        Denoiser(made("sd3"), 136, 32)


def test_offloading_is_refused() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = fresh("flux")
    add_hook_to_module(pipe.transformer, ModelHook())
    with pytest.raises(InputError, match="stays on one device"):
        Denoiser(pipe)


# --- Stable Diffusion 3 -----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd3", "sd3_without_t5"])
def test_sd3_is_saved_loaded_and_sampled(family: str, tmp_path: Path) -> None:
    pipe = made(family)
    settings = Settings(steps=2, guidance=3.0)
    images = draw(pipe, PROMPTS, [0, 0], settings=settings)
    assert images.shape == (2, 32, 32, 3)
    assert (images[0] != images[1]).any()
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    assert weight_hash(again) == weight_hash(pipe)
    assert (draw(again, PROMPTS, [0, 0], settings=settings) == images).all()


def test_sd3_images_are_those_of_a_plain_call_of_the_pipeline() -> None:
    pipe = made("sd3_without_t5")
    plain = pipe(
        PROMPTS,
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt=["a boat", "a boat"],
        output_type="np",
    ).images
    settings = Settings(steps=3, guidance=3.0, negative_prompt="a boat")
    ours = draw(pipe, PROMPTS, [5, 6], settings=settings)
    assert abs((plain * 255).round() - ours).max() <= 1


def test_sd3_hashes_cover_every_text_encoder_and_prompts_have_positions() -> None:
    pipe = made("sd3")
    assert list(component_hashes(pipe)) == ["transformer", *ENCODERS, "vae"]
    layout = lay_out(pipe, Phrase("a picture of {}", "fire engine"))
    assert (layout.start, layout.last - layout.first) == (1, 1)
    assert len(neighbours(pipe, "dog", 2)) == 2


def test_a_damaged_index_of_components_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="save the pipeline again"):
        load_pipeline(tmp_path)
