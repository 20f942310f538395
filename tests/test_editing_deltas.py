"""Tests of the interface of every kind of weight change."""

from typing import Any

import pytest
import tiny_pipelines as tiny
import torch

from editing.edit import Edit
from editing.edit.deltas import (
    KINDS,
    Delta,
    Full,
    LowRank,
    NewTokens,
    SharedMap,
    content,
    pack,
    unpack,
)
from editing.linear import LinearMap
from editing.pipelines.weights import parameter, projections
from editing.training import Plan
from visdiff.errors import InputError

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


def shared_map(pipe: Any) -> Delta:
    layers = tuple(projections(pipe))
    width = parameter(pipe, layers[0].name).shape[1]
    mapping = LinearMap(torch.randn(2, width).double(), torch.randn(2, width).double())
    return SharedMap(layers, mapping, 0.5)


def low_rank(pipe: Any) -> Delta:
    out, width = parameter(pipe, LAYER).shape
    return LowRank(LAYER, torch.randn(out, 2), torch.randn(2, width), 0.5)


def full(pipe: Any) -> Delta:
    return Full(LAYER, torch.randn(parameter(pipe, LAYER).shape), 0.5)


def new_tokens(pipe: Any) -> Delta:
    width = pipe.text_encoder.get_input_embeddings().embedding_dim
    return NewTokens("tokenizer", "text_encoder", {"<new>": torch.randn(width)})


EXAMPLES = {
    "shared map": shared_map,
    "low rank": low_rank,
    "full": full,
    "new tokens": new_tokens,
}


@pytest.fixture(params=list(KINDS))
def change(request: pytest.FixtureRequest, pipe: Any) -> Delta:
    torch.manual_seed(0)
    return EXAMPLES[request.param](pipe)


def test_deltas_have_the_shape_of_their_tensors_and_factors_agree(pipe: Any, change: Delta) -> None:
    assert change.names() or change.tokens()
    for name in change.names():
        weight = parameter(pipe, name).detach()
        delta = change.delta(name, weight)
        assert delta.shape == weight.shape
        assert delta.dtype == torch.float64
        up, down = change.factors(name, weight)
        torch.testing.assert_close(up @ down, delta)


def test_scaling_is_linear_or_an_error(pipe: Any, change: Delta) -> None:
    if change.tokens():
        assert change.scaled(1.0) is change
        with pytest.raises(InputError, match="scale 1"):
            change.scaled(0.5)
    for name in change.names():
        weight = parameter(pipe, name).detach()
        expected = -3 * change.delta(name, weight)
        torch.testing.assert_close(change.scaled(-3).delta(name, weight), expected)


def test_packing_is_exact_to_the_bit(change: Delta) -> None:
    header, tensors = pack(change)
    again = unpack(header, tensors)
    assert type(again) is KINDS[header["form"]]
    assert content(again) == content(change)
    assert all(torch.equal(t, pack(again)[1][n]) for n, t in tensors.items())


def test_apply_and_revert_are_exact_to_the_bit(pipe: Any, change: Delta) -> None:
    before, tokenizer = tiny.weights(pipe), pipe.tokenizer
    edit = Edit.of(pipe, base_model="tiny", method="test", requests=(), config={},
                   changes=(change,))  # fmt: skip
    with edit.applied(pipe):
        during = tiny.weights(pipe)
        for name in change.names():
            weight = before[name]
            expected = weight.double() + change.delta(name, weight)
            assert torch.equal(during[name], expected.to(weight.dtype))
        assert set(change.tokens()) <= set(pipe.tokenizer.get_vocab())
    assert tiny.identical(before, tiny.weights(pipe))
    assert pipe.tokenizer is tokenizer


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError, match="spectral"):
        unpack({"form": "spectral"}, {})


@pytest.mark.parametrize(
    ("setting", "name", "hint"), [("optimizer", "adamx", "adam"), ("schedule", "cosin", "cosine")]
)
def test_an_unknown_name_in_a_plan_is_an_error(setting: str, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{hint}"):
        Plan(steps=1, lr=1.0, **{setting: name})  # pyright: ignore[reportArgumentType]
