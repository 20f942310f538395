"""Tests of the interface of every kind of weight change."""

from pathlib import Path
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
    SpectralShift,
    content,
    pack,
    unpack,
)
from editing.edit.deltas.spectral_shift import decompose
from editing.edit.spectrum import singular
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


def spectral_shift(pipe: Any) -> Delta:
    # Small enough that no singular value reaches 0, so that the change is linear in the scale.
    sigma = singular(parameter(pipe, LAYER)).sigma
    return SpectralShift(LAYER, 0.1 * float(sigma[-1]) * torch.rand(len(sigma)), scale=0.5)


EXAMPLES = {
    "shared map": shared_map,
    "low rank": low_rank,
    "full": full,
    "spectral shift": spectral_shift,
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


def test_tokens_move_between_their_starts_and_their_vectors(pipe: Any) -> None:
    start, vector = torch.randn(2, pipe.text_encoder.config.hidden_size).unbind()
    tokens = NewTokens("tokenizer", "text_encoder", {"<new>": vector}, {"<new>": start})
    assert torch.equal(tokens.scaled(0.0).vectors["<new>"], start)
    torch.testing.assert_close(tokens.scaled(0.5).vectors["<new>"], (start + vector) / 2)
    torch.testing.assert_close(tokens.scaled(0.5).scaled(2.0).vectors["<new>"], vector)
    again = unpack(*pack(tokens))
    assert content(again) == content(tokens)
    edit = Edit.of(pipe, base_model="tiny", method="test", requests=(), config={},
                   changes=(tokens, low_rank(pipe)))  # fmt: skip
    plain = tiny.picture(pipe)
    with edit.applied(pipe, 0.0):
        assert abs(tiny.picture(pipe) - plain).max() == 0
        assert "<new>" in pipe.tokenizer.get_vocab()


def test_tokens_of_files_without_starts_are_read(pipe: Any) -> None:
    header, tensors = pack(new_tokens(pipe))
    assert set(tensors) == {"vectors"}
    assert dict(unpack(header, tensors).starts) == {}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="starts of the tokens <a>, got those of <b>"):
        NewTokens("tokenizer", "text_encoder", {"<a>": torch.ones(1)}, {"<b>": torch.ones(1)})


def test_a_pipeline_with_new_tokens_can_be_saved(pipe: Any, tmp_path: Path) -> None:
    from editing.pipelines.loading import load_pipeline

    edit = Edit.of(pipe, base_model="tiny", method="test", requests=(), config={},
                   changes=(new_tokens(pipe),))  # fmt: skip
    size = pipe.text_encoder.config.vocab_size
    with edit.applied(pipe):
        expected = tiny.picture(pipe, "a <new>")
        pipe.save_pretrained(tmp_path)
    assert pipe.text_encoder.config.vocab_size == size
    assert abs(tiny.picture(load_pipeline(tmp_path), "a <new>") - expected).max() <= 1e-6


CONVOLUTION = "unet.down_blocks.0.resnets.0.conv1.weight"
NORM = "unet.down_blocks.0.resnets.0.norm1.weight"


@pytest.mark.parametrize("name", [LAYER, CONVOLUTION, NORM])
@pytest.mark.parametrize("norm_mode", ["scalar", "elementwise"])
def test_a_spectral_shift_moves_singular_values(pipe: Any, name: str, norm_mode: Any) -> None:
    weight = parameter(pipe, name).detach() + (0 if name != NORM else torch.randn(8))
    sigma = decompose(weight, norm_mode).sigma
    shift = torch.randn(sigma.shape, dtype=torch.float64) * sigma
    change = SpectralShift(name, shift, norm_mode)
    expected = torch.relu(sigma + shift)
    edited = weight.double() + change.delta(name, weight)
    found = edited.abs() if weight.ndim == 1 else torch.linalg.svdvals(edited.flatten(1))
    if weight.ndim == 1 and norm_mode == "scalar":
        found = edited.norm()[None]
    torch.testing.assert_close(found.sort()[0], expected.sort()[0], atol=1e-5, rtol=1e-5)
    none = SpectralShift(name, torch.zeros_like(shift), norm_mode).delta(name, weight)
    assert not none.any()
    assert not change.scaled(0.0).delta(name, weight).any()
    up, down = change.factors(name, weight)
    if weight.ndim > 1:
        torch.testing.assert_close((up @ down).reshape(weight.shape), change.delta(name, weight))


def test_a_spectral_shift_of_another_model_is_an_error(pipe: Any) -> None:
    with pytest.raises(InputError, match="Expected 16 spectral shifts"):
        SpectralShift(LAYER, torch.zeros(3)).delta(LAYER, parameter(pipe, LAYER))
    with pytest.raises(InputError, match="Expected a norm mode, got 'both'"):
        SpectralShift(LAYER, torch.zeros(3), "both")  # pyright: ignore[reportArgumentType]


def test_low_rank_changes_a_convolution(pipe: Any) -> None:
    weight = parameter(pipe, CONVOLUTION).detach()
    up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight[0].numel())
    change = LowRank(CONVOLUTION, up, down)
    expected = (up.double() @ down.double()).reshape(weight.shape)
    torch.testing.assert_close(change.delta(CONVOLUTION, weight), expected)


def test_decompositions_are_kept_on_disk(tmp_path: Path) -> None:
    weight = torch.randn(256, 300, generator=torch.Generator().manual_seed(0))
    first = singular(weight, tmp_path)
    torch.testing.assert_close(
        first.u * first.sigma @ first.vt, weight.double(), atol=1e-5, rtol=1e-5
    )
    (path,) = tmp_path.iterdir()
    again = singular(weight, tmp_path)
    for name in ("u", "sigma", "vt"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    written = path.read_bytes()
    path.write_bytes(written[:-40] + bytes(40))
    assert torch.equal(singular(weight, tmp_path).vt, first.vt)
    assert path.read_bytes() == written
    path.write_bytes(b"damaged")
    assert torch.equal(singular(weight, tmp_path).vt, first.vt)
    assert path.read_bytes() == written


def test_the_folder_of_decompositions_is_bounded(tmp_path: Path) -> None:
    weights = [torch.randn(256, 256, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    for weight in weights:
        singular(weight, tmp_path, limit=1_200_000)
    assert len(list(tmp_path.iterdir())) == 2
    # The one that was used last stays.
    singular(weights[1], tmp_path, limit=1_200_000)
    kept = {path.name for path in tmp_path.iterdir()}
    singular(weights[0], tmp_path, limit=600_000)
    (path,) = tmp_path.iterdir()
    assert path.name not in kept
    singular(weights[2], tmp_path / "none", limit=1)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    (tmp_path / "file").write_text("")
    assert torch.equal(
        singular(weight, tmp_path / "file").u, singular(weight, tmp_path / "spectra").u
    )


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError, match="unknown"):
        unpack({"form": "unknown"}, {})


@pytest.mark.parametrize(
    ("setting", "name", "hint"), [("optimizer", "adamx", "adam"), ("schedule", "cosin", "cosine")]
)
def test_an_unknown_name_in_a_plan_is_an_error(setting: str, name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{hint}"):
        Plan(steps=1, lr=1.0, **{setting: name})  # pyright: ignore[reportArgumentType]
