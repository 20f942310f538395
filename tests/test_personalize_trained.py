"""What a personalisation trains: the base at the start, exact gradients, and the same edit."""

from collections.abc import Callable
from typing import Any

import pytest
import subjects
import tiny_pipelines as tiny
import torch

from editing.edit import Edit
from editing.personalize.custom_diffusion import CUSTOM_DIFFUSION
from editing.personalize.layers import ATTENTION, linear_layers, shifted_weights
from editing.personalize.trained import (
    Adapters,
    DoraAdapters,
    SpectralShifts,
    Together,
    TokenRows,
    Trained,
    Whole,
)
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.substitute import without_gradients
from visdiff.errors import InputError

KEYS = ("attn2.to_k", "attn2.to_v")


def names(pipe: Any) -> list[str]:
    """Layers of the UNet and of a text encoder."""
    layers = [*linear_layers(pipe, "unet", ATTENTION)]
    return [*layers, *linear_layers(pipe, "text_encoder", ("q_proj", "out_proj"))]


KINDS: dict[str, Callable[[Any], Trained]] = {
    "whole": lambda p: Whole(p, [f"{n}.weight" for n in names(p)] + ["unet.conv_in.bias"]),
    "low rank": lambda p: Adapters(p, names(p), 2, 6.0, seed=1),
    "dora": lambda p: DoraAdapters(p, names(p), 2, 2.0, seed=1),
    "spectral": lambda p: SpectralShifts(p, shifted_weights(p, "unet"), "scalar"),
    "spectral by element": lambda p: SpectralShifts(
        p, [*shifted_weights(p, "unet"), *shifted_weights(p, "text_encoder")], "elementwise"
    ),
    "spectral without norms": lambda p: SpectralShifts(p, shifted_weights(p, "unet"), "off"),
    "tokens": lambda p: TokenRows(p, {"<olis>": "dog", "<xi>": "fire engine"}, 2),
    "together": lambda p: Together(
        [Whole(p, [f"{n}.weight" for n in linear_layers(p, "unet", KEYS)]),
         TokenRows(p, {"<olis>": "cat"})]
    ),
}  # fmt: skip
PROMPTS = ["a <olis> dog on a <xi>", "a church"]


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


@pytest.fixture(scope="module")
def sd1() -> Any:
    return tiny.sd1()


def predict(pipe: Any, prompts: list[str] = PROMPTS) -> torch.Tensor:
    """Returns predictions at fixed points, with gradients."""
    denoiser = Denoiser(pipe)
    points = torch.randn(2, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    texts = denoiser.encode_with_gradients(prompts)
    return denoiser.forward(points, torch.tensor([10, 700]), texts)


def moved(trained: Trained, size: float = 0.2) -> dict[str, torch.Tensor]:
    """Returns other weights, leaf tensors."""
    g = torch.Generator().manual_seed(2)
    return {
        name: (value.detach() + size * torch.randn(value.shape, generator=g)).requires_grad_()
        for name, value in trained.initial.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_the_base_to_the_bit(pipe: Any, kind: str) -> None:
    before = tiny.weights(pipe)
    with torch.no_grad():
        trained = KINDS[kind](pipe)
        with trained.installed(), trained.substituted(trained.initial):
            # New tokens are other pieces in the base.
            prompts = ["a church", "a dog"] if trained.tokens else PROMPTS
            found = predict(pipe, prompts)
        expected = predict(pipe, prompts)
        if kind == "dora":  # Its rows are divided by their lengths and multiplied again.
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(found, expected)
    assert tiny.identical(tiny.weights(pipe), before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_is_trained_and_nothing_else(pipe: Any, kind: str) -> None:
    modules = [m for m in pipe.components.values() if isinstance(m, torch.nn.Module)]
    parameters = [p for m in modules for p in m.parameters()]
    trained = KINDS[kind](pipe)
    weights = moved(trained)
    with without_gradients(pipe), trained.installed(), trained.substituted(weights):
        predict(pipe).square().mean().backward()
    for name, value in weights.items():
        # SDXL's states are those of the layer before the last of the first encoder.
        last = ("text_encoder.encoder.layers.1.", "text_encoder.final_layer_norm.")
        if not (hasattr(pipe, "text_encoder_2") and any(n in name for n in last)):
            assert value.grad is not None, name
            assert value.grad.any(), name
    assert all(p.grad is None and p.requires_grad for p in parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_the_edit_computes_what_training_computed(pipe: Any, kind: str) -> None:
    trained = KINDS[kind](pipe)
    weights = moved(trained)
    with torch.no_grad():
        base = predict(pipe)
        with trained.installed(), trained.substituted(weights):
            expected = predict(pipe)
        changes = trained.deltas(weights)
        edit = Edit.of(pipe, base_model="", method="", requests=(), config={}, changes=changes)
        with edit.applied(pipe):
            found = predict(pipe)
    assert (found - base).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(predict(pipe).detach(), base)


def test_custom_diffusion_learns_nothing_from_the_first_token(sd1: Any) -> None:
    config = CUSTOM_DIFFUSION.config.changed(projections="qkvo")
    trained = CUSTOM_DIFFUSION.trained(sd1, [subjects.subject("<olis>")], config)
    weights = moved(trained)
    attention = sd1.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    start = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"
    states = {
        "to_k": torch.randn(2, 5, attention.to_k.in_features, requires_grad=True),
        "to_v": torch.randn(2, 5, attention.to_v.in_features, requires_grad=True),
        "to_q": torch.randn(2, 5, attention.to_q.in_features, requires_grad=True),
    }
    with trained.installed(), trained.substituted(weights):
        for name, given in states.items():
            weight = weights[f"{start}.{name}.weight"]
            found = getattr(attention, name)(given)
            torch.testing.assert_close(found, given @ weight.T)
            of_weight, of_states = torch.autograd.grad(found.sum(), [weight, given])
            # Queries are of positions in the image, and have no first token.
            used = given if name == "to_q" else given[:, 1:]
            torch.testing.assert_close(of_weight, used.sum((0, 1)).expand_as(weight))
            assert bool(of_states[:, 0].any()) is (name == "to_q")
            assert of_states[:, 1:].any()
    assert not any(module._forward_hooks for module in sd1.unet.modules())


def test_a_rank_above_the_layers_is_one_sentence(sd1: Any) -> None:
    layers = linear_layers(sd1, "unet", ATTENTION)
    with pytest.raises(InputError, match=r"rank of at most 16 for unet\..*, got 17; lower it"):
        Adapters(sd1, layers, 17, 1.0, seed=0)


def test_unknown_targets_are_one_sentence(sd1: Any) -> None:
    with pytest.raises(InputError, match="got to_x, which match none; correct the targets"):
        linear_layers(sd1, "unet", ("to_k", "to_x"))
    with pytest.raises(InputError, match=r"Expected linear layers to adapt, got unet\.conv_in"):
        Adapters(sd1, ["unet.conv_in"], 2, 2, seed=0)
    with pytest.raises(InputError, match=r"Expected a pipeline with the weight unet\.no\.weight"):
        Whole(sd1, ["unet.no.weight"])


def test_tokens_must_be_new(sd1: Any) -> None:
    with pytest.raises(InputError, match="token that the tokenizer does not have, got 'dog</w>'"):
        TokenRows(sd1, {"dog</w>": "dog"})
    with pytest.raises(InputError, match="word that the tokenizer has tokens for, got ' '"):
        TokenRows(sd1, {"<olis>": " "})
    with pytest.raises(InputError, match="use lora without a new token"):
        TokenRows(tiny.flux(), {"<olis>": "dog"})


def test_rows_of_several_tokens_keep_their_order(sd1: Any) -> None:
    trained = KINDS["tokens"](sd1)
    weights = moved(trained)
    with torch.no_grad(), trained.installed(), trained.substituted(weights):
        table = sd1.text_encoder.get_input_embeddings()
        for token in trained.tokens:
            own = [token, f"{token}_1"]
            ids = torch.tensor(sd1.tokenizer.convert_tokens_to_ids(own))
            assert torch.equal(table(ids), weights[f"tokens.tokenizer.{token}"])
        words = sd1.tokenizer("a church")["input_ids"]
        assert torch.equal(table(torch.tensor(words)), table.weight[words])


def test_an_interrupted_training_leaves_no_adapters(sd1: Any) -> None:
    before = {name: type(part) for name, part in sd1.unet.named_modules()}
    for kind in ("low rank", "dora", "tokens"):
        trained = KINDS[kind](sd1)
        with pytest.raises(KeyboardInterrupt), trained.installed():
            raise KeyboardInterrupt
    assert {name: type(part) for name, part in sd1.unet.named_modules()} == before
    assert not hasattr(sd1.unet, "peft_config")
    assert "<olis>" not in sd1.tokenizer.get_vocab()
