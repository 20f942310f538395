"""Tests of edits: applying, reverting, files, scaling, composition and LoRA export."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file

import editing
from editing.edit import Edit
from editing.edit.compose import compose, overlap
from editing.edit.deltas import Full, LowRank, NewTokens, SharedMap, SpectralShift
from editing.edit.formats import export_edit
from editing.edit.formats.lora import to_lora
from editing.pipelines.loading import load_pipeline
from editing.pipelines.weights import base_name, parameter, projections, weight_hash
from editing.requests import Debias, Erase, Preserve, Replace
from visdiff.errors import InputError

MAKERS = {"sd1": tiny.sd1, "sd2": tiny.sd2, "sdxl": tiny.sdxl, "flux": tiny.flux}
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


@pytest.fixture(scope="module")
def edit(pipe: Any) -> Edit:
    return editing.fit(pipe, [Erase("church"), Preserve(["house"])], nearest=1)


def make_edit(pipe: Any, *changes: Any) -> Edit:
    """Returns an edit with the given changes."""
    return Edit.of(pipe, base_model="tiny", method="by hand", requests=(), config={},
                   changes=changes)  # fmt: skip


def test_applying_and_reverting_is_exact_to_the_bit(pipe: Any, edit: Edit) -> None:
    before = tiny.weights(pipe)
    address = parameter(pipe, LAYER).data_ptr()
    with edit.applied(pipe, scale=0.7) as same:
        assert same is pipe
        changed = {n for n, v in tiny.weights(pipe).items() if not torch.equal(v, before[n])}
        assert changed == set(edit.tensors)
    assert tiny.identical(before, tiny.weights(pipe))
    assert parameter(pipe, LAYER).data_ptr() == address
    handle = edit.apply(pipe)
    handle.revert()
    handle.revert()
    assert tiny.identical(before, tiny.weights(pipe))


def test_an_error_inside_the_block_still_reverts(pipe: Any, edit: Edit) -> None:
    before = tiny.weights(pipe)
    with pytest.raises(ZeroDivisionError), edit.applied(pipe):
        _ = 1 / 0
    assert tiny.identical(before, tiny.weights(pipe))


def test_a_pipeline_that_was_cast_meanwhile_is_reverted(edit: Edit) -> None:
    pipe = tiny.sd1()
    before = tiny.weights(pipe)
    with edit.applied(pipe):
        pipe.unet.to(torch.bfloat16)
    assert parameter(pipe, LAYER).dtype == torch.bfloat16
    assert torch.equal(parameter(pipe, LAYER), before[LAYER].to(torch.bfloat16))


def test_the_change_is_linear_in_the_scale(pipe: Any, edit: Edit) -> None:
    base = parameter(pipe, LAYER).detach().clone()
    found = []
    for scale in (0.5, 1.0, -1.0):
        with edit.applied(pipe, scale):
            found.append(parameter(pipe, LAYER).detach() - base)
    assert torch.allclose(found[0] * 2, found[1], atol=1e-5)
    assert torch.allclose(found[2], -found[1], atol=1e-5)
    with edit.applied(pipe, 0.0):
        assert torch.equal(parameter(pipe, LAYER), base)


def test_an_edit_is_saved_and_loaded(pipe: Any, edit: Edit, tmp_path: Path) -> None:
    path = edit.save(tmp_path / "deep" / "e.safetensors")
    assert [p.name for p in path.parent.iterdir()] == ["e.safetensors"]
    read = Edit.load(path)
    assert read.digest == edit.digest
    assert read.to_dict() == edit.to_dict()
    assert read.requests == edit.requests
    with edit.applied(pipe):
        expected = tiny.weights(pipe)
    with read.applied(pipe):
        assert tiny.identical(expected, tiny.weights(pipe))
    # The ledger is stored too: requests can be added and withdrawn after loading.
    more = editing.add(read, pipe, [Replace("dog", "cat")])
    assert editing.withdraw(more, [Replace("dog", "cat")]).digest == edit.digest
    slim = replace(edit, ledger=None).save(tmp_path / "slim.safetensors")
    assert slim.stat().st_size < path.stat().st_size
    assert Edit.load(slim).digest == edit.digest


def test_every_kind_of_change_is_saved_and_loaded(pipe: Any, tmp_path: Path) -> None:
    base = parameter(pipe, LAYER)
    g = torch.Generator().manual_seed(0)
    edited = make_edit(
        pipe,
        LowRank(LAYER, torch.randn(base.shape[0], 2, generator=g),
                torch.randn(2, base.shape[1], generator=g), 0.5),
        Full("unet.conv_in.bias", torch.full_like(pipe.unet.conv_in.bias.detach(), 0.25)),
        NewTokens("tokenizer", "text_encoder", {"<dog>": torch.ones(tiny.WIDTH)}),
    )  # fmt: skip
    read = Edit.load(edited.save(tmp_path / "e.safetensors"))
    assert read.digest == edited.digest
    assert read.tensors == (LAYER, "unet.conv_in.bias")
    before = pipe.unet.conv_in.bias.detach().clone()
    with read.applied(pipe):
        assert torch.equal(pipe.unet.conv_in.bias, before + 0.25)


def test_new_tokens_exist_only_inside_the_block(pipe: Any) -> None:
    edited = make_edit(
        pipe, NewTokens("tokenizer", "text_encoder", {"<dog>": torch.ones(tiny.WIDTH)})
    )
    before, words = tiny.weights(pipe), pipe.tokenizer
    plain = pipe.tokenizer("<dog>")["input_ids"]
    with edited.applied(pipe):
        (token,) = pipe.tokenizer("<dog>", add_special_tokens=False)["input_ids"]
        row = pipe.text_encoder.get_input_embeddings()(torch.tensor([token]))
        assert torch.equal(row, torch.ones(1, tiny.WIDTH))
        tiny.picture(pipe, "a <dog> at night")
    assert tiny.identical(before, tiny.weights(pipe))
    assert pipe.tokenizer is words
    assert pipe.tokenizer("<dog>")["input_ids"] == plain
    with pytest.raises(InputError, match="scale 1 for an edit that adds tokens"):
        edited.apply(pipe, 0.5)


def test_another_base_is_an_error_unless_forced(edit: Edit) -> None:
    other = tiny.sd1()
    with torch.no_grad():
        other.unet.conv_out.bias.add_(0.1)
    with pytest.raises(InputError, match="Expected the base that this edit was fitted to"):
        edit.apply(other)
    with edit.applied(other, force=True):
        pass
    with pytest.raises(InputError, match="got unet"), edit.applied(tiny.sd2()):
        pass


def test_a_missing_tensor_is_an_error_even_if_forced(edit: Edit) -> None:
    renamed = replace(edit, changes=(Full("unet.nothing.weight", torch.zeros(1)), *edit.changes))
    pipe = tiny.sd1()
    before = tiny.weights(pipe)
    with pytest.raises(InputError, match=r"with the weight unet\.nothing\.weight"):
        renamed.apply(pipe, force=True)
    narrow = make_edit(pipe, Full(LAYER, torch.zeros(2, 2)))
    with pytest.raises(InputError, match="of shape"):
        narrow.apply(pipe)
    assert tiny.identical(before, tiny.weights(pipe))


def test_another_vae_counts_as_the_same_base(edit: Edit) -> None:
    pipe = tiny.sd1()
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.add_(0.1)
    assert weight_hash(pipe) != edit.base_hash
    with edit.applied(pipe):
        pass


def test_applying_two_edits_at_once_is_an_error(pipe: Any, edit: Edit) -> None:
    with edit.applied(pipe), pytest.raises(InputError, match="without other edits"):
        edit.apply(pipe)


def test_the_digest_depends_on_what_affects_images(pipe: Any, edit: Edit) -> None:
    assert replace(edit, ledger=None).digest == edit.digest
    assert replace(edit, method="another", versions={}).digest == edit.digest
    assert edit.scaled(0.5).digest != edit.digest
    assert editing.fit(pipe, [Erase("dog")], nearest=0).digest != edit.digest
    # The digest includes the last bits of double-precision factors.
    (change,) = edit.changes
    assert isinstance(change, SharedMap)
    right = change.map.right.clone()
    right.view(-1)[0] = right.view(-1)[0] * (1 + 1e-15)
    nudged = replace(edit, changes=(replace(change, map=replace(change.map, right=right)),))
    assert nudged.digest != edit.digest


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "which does not exist"),
        (b"", "which cannot be read"),
        (b"not safetensors at all", "which cannot be read"),
        ({}, "without its description"),
        ({"visdiff_edit": "{}"}, "which cannot be read"),
        ({"visdiff_edit": json.dumps({"schema": 99})}, "of schema 99"),
    ],
)
def test_a_file_that_is_not_an_edit_is_an_error(
    tmp_path: Path, content: Any, sentence: str
) -> None:
    path = tmp_path / "e.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file({"x": torch.zeros(1)}, path, metadata=content)
    with pytest.raises(InputError, match=sentence):
        Edit.load(path)


def test_a_path_that_cannot_be_written_is_an_error(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a path to write the edit to"):
        edit.save(tmp_path / "file" / "e.safetensors")


@pytest.mark.parametrize("family", MAKERS)
def test_diffusers_loads_the_lora_and_draws_the_same(family: str, tmp_path: Path) -> None:
    pipe = MAKERS[family]()
    requests = [
        Erase("church"), Debias("judge", {"man": 0.5, "woman": 0.5}), Preserve(["house"])
    ]  # fmt: skip
    edit = editing.fit(pipe, requests, nearest=0)
    plain = tiny.picture(pipe)
    with edit.applied(pipe):
        merged = tiny.picture(pipe)
    assert abs(merged - plain).max() > 1e-2
    (path,) = export_edit(edit, pipe, "diffusers", tmp_path / "lora.safetensors")
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    assert abs(tiny.picture(pipe) - merged).max() <= 1e-4
    pipe.unload_lora_weights()
    assert abs(tiny.picture(pipe) - plain).max() == 0


def test_a_lora_represents_uce_2024_debiasing_and_full_changes(pipe: Any) -> None:
    debiased = editing.fit(
        pipe, [Debias("judge", {"man": 0.5, "woman": 0.5})], "uce-2024", nearest=0
    )
    g = torch.Generator().manual_seed(0)
    full = make_edit(pipe, Full(LAYER, torch.randn(parameter(pipe, LAYER).shape, generator=g)))
    for edited in (debiased, full):
        tensors = to_lora(edited, pipe)
        for name in edited.tensors:
            module = name.removesuffix(".weight")
            product = tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"]
            base = parameter(pipe, name).detach().clone()
            with edited.applied(pipe):
                changed = parameter(pipe, name).detach() - base
            assert torch.allclose(product, changed, atol=1e-5)


def test_edits_that_a_lora_cannot_represent_are_errors(pipe: Any) -> None:
    bias = make_edit(pipe, Full("unet.conv_in.bias", torch.zeros_like(pipe.unet.conv_in.bias)))
    with pytest.raises(
        InputError, match=r"a LoRA can hold, got one that changes unet.conv_in.bias"
    ):
        to_lora(bias, pipe)
    token = make_edit(
        pipe, NewTokens("tokenizer", "text_encoder", {"<dog>": torch.ones(tiny.WIDTH)})
    )
    with pytest.raises(InputError, match="one that adds tokens only"):
        to_lora(token, pipe)


def test_a_composition_is_the_sum_of_its_parts(pipe: Any) -> None:
    a = editing.fit(pipe, [Erase("church")], nearest=0)
    b = editing.fit(pipe, [Replace("dog", "cat")], "time", nearest=0)
    base = parameter(pipe, LAYER).detach().clone()
    parts = []
    for edit in (a, b):
        with edit.applied(pipe):
            parts.append(parameter(pipe, LAYER).detach() - base)
    both = compose([a, b], [1.0, 0.5]).edit
    with both.applied(pipe):
        found = parameter(pipe, LAYER).detach() - base
    assert torch.allclose(found, parts[0] + 0.5 * parts[1], atol=1e-5)
    assert both.method == "uce+time"
    assert both.requests == (Erase("church"), Replace("dog", "cat"))
    with pytest.raises(InputError, match="with its ledger"):
        editing.add(both, pipe, [Erase("bus")])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_personalisation_and_an_erasure_compose(family: str, tmp_path: Path) -> None:
    pipe = MAKERS[family]()
    g = torch.Generator().manual_seed(0)
    erasure = editing.fit(pipe, [Erase("church")], nearest=0)
    rows, width = parameter(pipe, LAYER).shape
    encoders = ["text_encoder", "text_encoder_2"] if family == "sdxl" else ["text_encoder"]
    tokenizer = encoders[-1].replace("text_encoder", "tokenizer")
    subject = make_edit(
        pipe,
        LowRank(LAYER, torch.randn(rows, 2, generator=g), torch.randn(2, width, generator=g)),
        Full("unet.conv_in.weight", 0.1 * torch.ones_like(pipe.unet.conv_in.weight.detach())),
        SpectralShift(LAYER.replace("to_k", "to_v"), torch.ones(min(rows, width))),
        *(
            NewTokens(encoder.replace("text_encoder", "tokenizer"), encoder,
                      {"<dog>": torch.randn(getattr(pipe, encoder).config.hidden_size)})
            for encoder in encoders
        ),
    )  # fmt: skip
    base = tiny.weights(pipe)
    names = {*subject.tensors, *erasure.tensors}
    total = {name: base[name].double() for name in names}
    for edit in (subject, erasure):
        with edit.applied(pipe):
            during = tiny.weights(pipe)
        total = {n: t + during[n].double() - base[n].double() for n, t in total.items()}
    both = Edit.load(compose([subject, erasure]).edit.save(tmp_path / "both.safetensors"))
    assert set(both.tensors) == names
    with both.applied(pipe):
        assert all("<dog>" in t.get_vocab() for t in (pipe.tokenizer, pipe.components[tokenizer]))
        during = tiny.weights(pipe)
    for name in names:
        torch.testing.assert_close(during[name].double(), total[name], atol=1e-5, rtol=1e-5)
    assert tiny.identical(base, tiny.weights(pipe))


def test_edits_of_the_same_concept_overlap_more_than_of_others(pipe: Any) -> None:
    def last(*requests: Any) -> Edit:
        return editing.fit(pipe, requests, tokens="last", nearest=0)

    church, again, dog = last(Erase("church")), last(Replace("church", "cat")), last(Erase("dog"))
    assert overlap(church, church) == pytest.approx(1)
    assert overlap(church, again) > overlap(church, dog)
    found = compose([church, again]).conflicts
    assert any("have different targets for 'church'" in c.reason for c in found)
    assert any("act on the same directions" in c.reason for c in found)
    assert [c.overlap for c in found] == sorted((c.overlap for c in found), reverse=True)


def test_an_edit_of_what_another_preserves_is_a_conflict(pipe: Any) -> None:
    a = editing.fit(pipe, [Erase("church"), Preserve(["dog"])], tokens="last", nearest=0)
    b = editing.fit(pipe, [Erase("dog")], tokens="last", nearest=0)
    for pair in ([a, b], [b, a]):
        assert any("different targets for 'dog'" in c.reason for c in compose(pair).conflicts)


def test_trained_edits_overlap_by_their_cosine(pipe: Any) -> None:
    g = torch.Generator().manual_seed(1)
    delta = torch.randn(parameter(pipe, LAYER).shape, generator=g)
    other = torch.randn(delta.shape, generator=g)
    a, b = make_edit(pipe, Full(LAYER, delta)), make_edit(pipe, Full(LAYER, -2 * delta))
    assert overlap(a, b) == pytest.approx(1)
    assert overlap(a, make_edit(pipe, Full(LAYER, other))) < 0.2


def test_only_edits_of_one_base_compose(pipe: Any, edit: Edit) -> None:
    with pytest.raises(InputError, match="Expected two or more edits"):
        compose([edit])
    foreign = replace(edit, base_hash="0" * 64)
    with pytest.raises(InputError, match="Expected edits of one base"):
        compose([edit, foreign])
    token = make_edit(
        pipe, NewTokens("tokenizer", "text_encoder", {"<dog>": torch.ones(tiny.WIDTH)})
    )
    with pytest.raises(InputError, match="the same token twice"):
        compose([token, token])


def test_the_hash_of_a_pipeline_depends_on_its_weights(tmp_path: Path) -> None:
    pipe = tiny.sd1()
    name = weight_hash(pipe)
    pipe.save_pretrained(tmp_path / "tiny")
    again = load_pipeline(tmp_path / "tiny")
    assert weight_hash(again) == name
    assert base_name(again) == "tiny"
    with torch.no_grad():
        again.text_encoder.get_input_embeddings().weight[0, 0] += 1e-6
    assert weight_hash(again) != name


def test_half_precision_storage_has_one_hash() -> None:
    pipe = tiny.sd1()
    pipe.to(torch.float16)
    stored = weight_hash(pipe)
    pipe.to(torch.float32)
    assert weight_hash(pipe) == stored


def test_layers_are_keys_and_values_of_cross_attention(pipe: Any) -> None:
    found = projections(pipe)
    assert {p.name.rsplit(".", 2)[1] for p in found} == {"to_k", "to_v"}
    assert all(".attn2." in p.name for p in found)
    assert len(found) == 2 * sum(n.endswith("attn2") for n, _ in pipe.unet.named_modules())
    pooled = projections(tiny.sdxl())[-1]
    assert (pooled.space, pooled.columns) == ("pooled", (0, tiny.WIDTH // 2))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("no-such-thing", "which is none of them"),
        ("./nowhere/at-all", "which is none of them"),
        (3, "got int without unet or transformer"),
    ],
)
def test_an_object_that_is_not_a_pipeline_is_an_error(model: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_pipeline(model)


def test_a_path_that_is_not_a_pipeline_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without model_index.json"):
        load_pipeline(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="from_single_file"):
        load_pipeline(file)
