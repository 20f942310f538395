"""Tests of the closed-form methods: the published formulas, the ledger and preserved concepts."""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch

import editing
from editing.edit import Edit
from editing.edit.deltas import SharedMap
from editing.linear import Tensor
from editing.methods import closed_form, find, names
from editing.methods.closed_form import ClosedForm, statistics
from editing.pipelines.text import Encoded, Phrase, encode, lay_out
from editing.pipelines.weights import parameter, projections
from editing.requests import Debias, Erase, Moderate, Preserve, Replace, Request
from visdiff.errors import InputError

MIXTURE: tuple[Request, ...] = (
    Erase("church"),
    Replace("dog", "cat"),
    Debias("firefighter", {"man": 0.5, "woman": 0.5}, {"man": -0.2, "woman": 0.3}),
    Moderate("bomb"),
    Preserve(["a castle", "house"]),
)
MAKERS = {"sd1": tiny.sd1, "sd2": tiny.sd2, "sdxl": tiny.sdxl, "flux": tiny.flux}


@pytest.fixture(scope="module", params=MAKERS)
def any_pipe(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


def change_of(edit: Edit, pipe: Any, name: str) -> Tensor:
    """Returns the change that an edit makes to one tensor, float64."""
    base = parameter(pipe, name).detach()
    found = [c.delta(name, base) for c in edit.changes if isinstance(c, SharedMap)
             and name in c.names()]  # fmt: skip
    return torch.stack(found).sum(0)


def states(pipe: Any, text: str) -> tuple[Tensor, int]:
    """Returns token states of a prompt, float64, and the last token's index in published code."""
    flux = hasattr(pipe, "transformer")
    options: dict[str, Any] = (
        {"max_sequence_length": 32} if flux else {"do_classifier_free_guidance": False}
    )
    encoded = pipe.encode_prompt(prompt=[text], device="cpu", num_images_per_prompt=1, **options)
    found = encoded[0][0].detach().to(torch.float64)
    tokenizer = pipe.tokenizer_2 if flux else pipe.tokenizer
    ids = tokenizer(text, padding="max_length", max_length=len(found), truncation=True)
    return found, sum(ids["attention_mask"]) - 2


def token_layers(pipe: Any) -> list[str]:
    return [p.name for p in projections(pipe) if p.space == "tokens"]


def formula(w: Tensor, lam: float, terms: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """Returns (λ W + Σ s v cᵀ)(λ I + Σ s c cᵀ)⁻¹, summed one outer product at a time."""
    left, right = lam * w, lam * torch.eye(w.shape[1], dtype=torch.float64)
    for scale, sources, values in terms:
        for c, v in zip(sources, values, strict=True):
            left = left + scale * torch.outer(v, c)
            right = right + scale * torch.outer(c, c)
    return left @ torch.inverse(right)


def assert_same(edit: Edit, pipe: Any, name: str, expected: Tensor) -> None:
    w = parameter(pipe, name).detach().to(torch.float64)
    found = w + change_of(edit, pipe, name)
    assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("method", ["uce", "uce-2024", "uce-2025", "time", "rece"])
def test_every_method_edits_every_family(any_pipe: Any, method: str) -> None:
    before = tiny.weights(any_pipe)
    kinds = find(method).kinds
    requests = [r for r in MIXTURE if r.kind in kinds]
    edit = editing.fit(any_pipe, requests, method, nearest=1)
    assert tiny.identical(before, tiny.weights(any_pipe))
    assert edit.method == method
    assert set(token_layers(any_pipe)) <= set(edit.tensors)
    for name in edit.tensors:
        change = change_of(edit, any_pipe, name)
        assert change.isfinite().all()
        assert change.abs().max() > 0
    with edit.applied(any_pipe):
        edited = tiny.picture(any_pipe)
    assert abs(edited - tiny.picture(any_pipe)).max() > 1e-4
    assert tiny.identical(before, tiny.weights(any_pipe))


def test_every_named_method_is_found() -> None:
    for name in names():
        assert inspect.signature(find(name).fit).parameters["on_event"].default is None
    with pytest.raises(InputError, match=r"got 'uce-2042' \(did you mean 'uce-202"):
        find("uce-2042")


def test_sdxls_pooled_path_is_edited_except_size_and_crop() -> None:
    pipe = tiny.sdxl()
    edit = editing.fit(pipe, [Erase("church")], nearest=0)
    name = "unet.add_embedding.linear_1.weight"
    change = change_of(edit, pipe, name)
    width = tiny.WIDTH // 2
    assert change[:, :width].abs().max() > 0
    assert not change[:, width:].any()
    left = editing.fit(pipe, [Erase("church")], pooled="leave", nearest=0)
    assert name not in left.tensors
    # The pooled setting does not affect layers of token states.
    layer = token_layers(pipe)[0]
    assert torch.equal(change_of(edit, pipe, layer), change_of(left, pipe, layer))


def test_flux_biases_do_not_change_and_cancel() -> None:
    # uce_flux_edit.py fits the biased outputs and adds the bias again; here it appears once.
    pipe = tiny.flux()
    edit = editing.fit(
        pipe, [Replace("church", "castle")], tokens="last", lam=1e-9, templates=("{}",), nearest=0
    )
    assert edit.tensors == (
        "transformer.context_embedder.weight",
        "transformer.time_text_embed.text_embedder.linear_1.weight",
    )
    layer = pipe.transformer.context_embedder
    church, castle = states(pipe, "church"), states(pipe, "castle")
    expected = layer(castle[0][castle[1]].float())
    with edit.applied(pipe):
        found = layer(church[0][church[1]].float())
    assert layer.bias.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_flux_uses_t5_tokens_without_a_start_token() -> None:
    layout = lay_out(tiny.flux(), Phrase("a picture of {}", "fire engine"))
    named = layout.words[layout.first : layout.last + 1]
    assert named == ("▁fire", "▁engine")
    assert (layout.start, layout.words[layout.end], layout.end) == (0, "</s>", layout.last + 1)
    assert len(layout.words) == layout.length == 32


def test_uce_2024_is_the_published_formula(pipe: Any) -> None:
    preserved = ["a castle", "house"]
    edit = editing.fit(
        pipe, [Erase("church", "fire engine"), Moderate("a bomb"), Preserve(preserved)],
        "uce-2024", nearest=0,
    )  # fmt: skip
    for name in token_layers(pipe):
        w = parameter(pipe, name).detach().to(torch.float64)
        terms = []
        for old, new in (("church", "fire engine"), ("a bomb", "")):
            (c, f_old), (t, f_new) = states(pipe, old), states(pipe, new)
            far = max(f_old, f_new)
            old_slice = c[f_old : len(c) - max(0, far - f_old)]
            new_slice = t[f_new : len(t) - max(0, far - f_new)]
            terms.append((1.0, old_slice, new_slice @ w.T))
        scale = max(0.1, 1 / (len(preserved) + 1))
        for text in ("", *preserved):
            c, _ = states(pipe, text)
            terms.append((scale, c, c @ w.T))
        assert_same(edit, pipe, name, formula(w, 0.5, terms))


def test_uce_2024_debiases_by_values_of_the_concepts_norm(pipe: Any) -> None:
    weights = {"man": -0.2, "woman": 0.3}
    edit = editing.fit(
        pipe, [Debias("firefighter", {"man": 0.5, "woman": 0.5}, weights)], "uce-2024", nearest=0
    )
    for name in token_layers(pipe):
        w = parameter(pipe, name).detach().to(torch.float64)
        found = {text: states(pipe, text) for text in ("firefighter", *weights)}
        far = max(f for _, f in found.values())
        cut = {t: c[f : len(c) - max(0, far - f)] for t, (c, f) in found.items()}
        own = cut["firefighter"] @ w.T
        value = own
        for attribute, weight in weights.items():
            theirs = cut[attribute] @ w.T
            value = value + weight * own.norm() * theirs / theirs.norm()
        empty, _ = states(pipe, "")
        terms = [(1.0, cut["firefighter"], value), (1.0, empty, empty @ w.T)]
        assert_same(edit, pipe, name, formula(w, 0.5, terms))


def test_uce_2025_is_the_published_formula(pipe: Any) -> None:
    weights = {"man": -0.2, "woman": 0.3}
    edit = editing.fit(
        pipe,
        [
            Erase("church"),
            Replace("dog", "fire engine"),
            Debias("judge", {"man": 0.5, "woman": 0.5}, weights),
            Preserve(["castle"]),
        ],
        "uce-2025",
        nearest=0,
    )

    def last(text: str) -> Tensor:
        found, index = states(pipe, text)
        return found[index : index + 1]

    assert torch.equal(last(""), states(pipe, "dog")[0][:1]), "'' is represented by the start token"
    for name in token_layers(pipe):
        w = parameter(pipe, name).detach().to(torch.float64)
        debiased = last("judge") + sum(a * last(t) for t, a in weights.items())
        terms = [
            (1.0, last("church"), last("") @ w.T),
            (1.0, last("dog"), last("fire engine") @ w.T),
            (1.0, last("judge"), debiased @ w.T),
            (1.0, last("castle"), last("castle") @ w.T),
        ]
        assert_same(edit, pipe, name, formula(w, 0.5, terms))


def positions_of_time(pipe: Any, old: str, new: str) -> list[int]:
    """Returns the position of the new prompt that each position of the old one takes (TIME)."""
    vocabulary = pipe.tokenizer.get_vocab()
    article = vocabulary["a</w>"]

    def ids(text: str) -> list[int]:
        return [article if pipe.tokenizer.decode([i]).strip() == "an" else i
                for i in pipe.tokenizer(text)["input_ids"]]  # fmt: skip

    theirs, found, length = iter(enumerate(ids(new))), [], len(states(pipe, old)[0])
    for own in ids(old):
        found.append(next(j for j, other in theirs if other == own))
    found += range(found[-1] + 1, length)
    return (found + [length - 1] * length)[:length]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a dog at night", "a green dog at night"),
        ("an apple", "a green apple"),
        ("a dog next to an apple", "an old dog next to a green apple"),
        ("a dog and a cat", "a dog and a dog and a cat"),  # first places, not longest runs
    ],
)
def test_time_is_the_published_formula(pipe: Any, old: str, new: str) -> None:
    edit = editing.fit(pipe, [Replace(old, new)], "time", nearest=0)
    c, t = states(pipe, old)[0], states(pipe, new)[0]
    meets = positions_of_time(pipe, old, new)
    for name in token_layers(pipe):
        w = parameter(pipe, name).detach().to(torch.float64)
        assert_same(edit, pipe, name, formula(w, 0.1, [(1.0, c, t[meets] @ w.T)]))


def summed(w: Tensor, lam: float, terms: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """Returns `formula` by products of matrices."""
    left = lam * w + sum(s * (v.T @ c) for s, c, v in terms)
    right = lam * torch.eye(w.shape[1], dtype=torch.float64) + sum(s * c.T @ c for s, c, _ in terms)
    return left @ torch.inverse(right)


def rece(
    pipe: Any, edits: dict[str, str], preserved: list[str], revive: float, epochs: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the weights after the UCE edit and after RECE, by its formulas, layer by layer."""
    old = {n: parameter(pipe, n).detach().to(torch.float64) for n in token_layers(pipe)}
    found = {text: states(pipe, text) for text in ("", *edits, *edits.values(), *preserved)}
    whole = {text: c for text, (c, _) in found.items()}
    kept = [whole[text] for text in ("", *preserved)]
    first = {}
    for name, w in old.items():
        terms = [(max(0.1, 1 / len(kept)), c, c @ w.T) for c in kept]
        for concept, target in edits.items():
            (c, f_old), (t, f_new) = found[concept], found[target]
            far = max(f_old, f_new)
            values = t[f_new : len(t) - (far - f_new)] @ w.T
            terms.append((1.0, c[f_old : len(c) - (far - f_old)], values))
        first[name] = summed(w, 0.5, terms)
    new = dict(first)
    for _ in range(epochs):
        left = revive * torch.eye(tiny.WIDTH, dtype=torch.float64)
        left = left + sum(w.T @ w for w in new.values())
        right = sum((w.T @ old[n] for n, w in new.items()), torch.zeros_like(left))
        revived = {c: whole[c] @ (torch.inverse(left) @ right).T for c in edits}
        # Each layer is anchored at its weights before this round.
        new = {
            name: summed(
                w,
                0.1,
                [(1.0, revived[c], whole[t] @ w.T) for c, t in edits.items()]
                + [(0.1, c, c @ w.T) for c in kept],
            )
            for name, w in new.items()
        }
    return first, new


@pytest.mark.parametrize("maker", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    ("preserved", "settings"),
    [([], {}), (["a castle", "house"], {"epochs": 3, "revive_lam": 0.1})],
)
def test_rece_is_the_published_procedure(
    maker: str, preserved: list[str], settings: dict[str, Any]
) -> None:
    pipe = MAKERS[maker]()
    edits = {"church": "", "a dog": "fire engine"}
    requests = [Moderate("church"), Replace("a dog", "fire engine")]
    edit = editing.fit(pipe, [*requests, *map(Preserve, preserved)], "rece", nearest=0, **settings)
    first, expected = rece(
        pipe, edits, preserved, settings.get("revive_lam", 1e-3), settings.get("epochs", 1)
    )
    for name, value in expected.items():
        w = parameter(pipe, name).detach().to(torch.float64)
        difference = w + change_of(edit, pipe, name) - value
        assert difference.norm() <= 1e-6 * (value - w).norm()
        # The rounds are a substantial part of the edit.
        assert (value - first[name]).norm() > 0.05 * (value - w).norm()


def test_every_closed_form_reports_the_residual_of_the_best_revival(pipe: Any) -> None:
    for method in ("uce", "uce-2024", "uce-2025", "time", "rece"):
        edit = editing.fit(pipe, [Replace("church", "castle")], method, nearest=0)
        assert edit.ledger is not None
        (own,) = [e.blocks["tokens"].source for e in edit.ledger.entries if e.role == "change"]
        assert own is not None
        # Least squares over all layers at once, with the ridge as additional rows.
        old = [parameter(pipe, n).detach().to(torch.float64) for n in token_layers(pipe)]
        new = [w + change_of(edit, pipe, n) for n, w in zip(token_layers(pipe), old, strict=True)]
        ridge = 1e-3 * sum(float(w.square().sum()) for w in old) / tiny.WIDTH
        rows = torch.cat([*new, ridge**0.5 * torch.eye(tiny.WIDTH, dtype=torch.float64)])
        wanted = torch.cat(old) @ own.to(torch.float64).T
        padded = torch.cat([wanted, wanted.new_zeros(tiny.WIDTH, len(own))])
        best = torch.linalg.lstsq(rows, padded).solution
        expected = float((torch.cat(new) @ best - wanted).norm() / wanted.norm())
        (target,) = edit.diagnostics["targets"]
        assert target["revival"] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(InputError, match="no debias term"):
        editing.fit(pipe, [Debias("judge", {"man": 0.5, "woman": 0.5})], "rece")


def test_preserved_keys_and_values_stay_as_lambda_goes_to_zero(any_pipe: Any) -> None:
    preserved = ["castle", "house", "tulip"]
    edit = editing.fit(
        any_pipe,
        [Erase("church"), Replace("dog", "cat"), Preserve(preserved)],
        tokens="last", lam_rel=1e-10 if hasattr(any_pipe, "unet") else 1e-12, nearest=0,
    )  # fmt: skip
    # T5's padding vectors of '' are nearly equal, so their differences are preserved less well.
    bound = 1e-5 if hasattr(any_pipe, "transformer") else 1e-6
    for name in token_layers(any_pipe):
        w = parameter(any_pipe, name).detach().to(torch.float64)
        change = change_of(edit, any_pipe, name)
        for text in preserved:
            found, last = states(any_pipe, text)
            assert (change @ found[last]).norm() <= bound * (w @ found[last]).norm()
        empty, _ = states(any_pipe, "")
        assert (empty @ change.T).norm() <= bound * (empty @ w.T).norm()
        dog, last = states(any_pipe, "dog")
        cat, at = states(any_pipe, "cat")
        reached = (w + change) @ dog[last]
        assert (reached - w @ cat[at]).norm() <= 1e-5 * (w @ cat[at]).norm()


def test_nothing_changes_as_lambda_goes_to_infinity(pipe: Any) -> None:
    edit = editing.fit(pipe, MIXTURE, lam=1e16, nearest=0)
    for name in edit.tensors:
        w = parameter(pipe, name).detach()
        assert change_of(edit, pipe, name).norm() <= 1e-9 * w.norm()


@pytest.mark.parametrize("method", ["uce", "uce-2024", "rece"])
def test_adding_and_withdrawing_equal_the_fresh_solve_in_any_order(pipe: Any, method: str) -> None:
    a, b, c = Erase("church"), Replace("dog", "cat"), Preserve(["castle", "house"])
    fresh = editing.fit(pipe, [a, b, c], method, nearest=0)
    extra = Moderate("bomb")
    for order in list(itertools.permutations([a, b, c, extra]))[::5]:
        changing = [r for r in order if not isinstance(r, Preserve)]
        edit = editing.fit(pipe, [changing[0]], method, nearest=0)
        for request in order:
            if request is not changing[0]:
                edit = editing.add(edit, pipe, [request])
        edit = editing.withdraw(edit, [extra])
        assert set(edit.requests) == {a, b, c}
        for name in fresh.tensors:
            expected = change_of(fresh, pipe, name)
            difference = change_of(edit, pipe, name) - expected
            assert difference.norm() <= 1e-9 * expected.norm()
        # Contributions are summed in a canonical order, so not even rounding differs.
        assert edit.digest == fresh.digest


def test_a_saved_rece_edit_can_be_added_to_and_withdrawn_from(pipe: Any, tmp_path: Path) -> None:
    church, dog = Erase("church"), Replace("dog", "cat")
    settings = {"nearest": 0, "epochs": 2, "revive_lam": 0.1}
    editing.fit(pipe, [church], "rece", **settings).save(tmp_path / "e.safetensors")
    loaded = Edit.load(tmp_path / "e.safetensors")
    both = editing.add(loaded, pipe, [dog])
    assert both.digest == editing.fit(pipe, [church, dog], "rece", **settings).digest
    alone = editing.withdraw(both, [dog])
    assert alone.digest == loaded.digest
    assert alone.diagnostics["targets"] == loaded.diagnostics["targets"]


@pytest.mark.parametrize("method", ["uce", "uce-2024"])
def test_amending_weights_equals_a_fresh_fit_and_encodes_only_new_texts(
    pipe: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preserved = [Erase("church"), Preserve(["castle", "house"])]
    first, second = (
        Debias("cook", {"man": 0.5, "woman": 0.5}, weights={"man": w, "woman": 0.3})
        for w in (0.2, -0.1)
    )
    chosen = find(method)
    assert isinstance(chosen, ClosedForm)
    fresh = chosen.fit(pipe, [second, *preserved], nearest=0)
    before = chosen.fit(pipe, [first, *preserved], nearest=0)
    assert before.digest != fresh.digest
    read: list[str] = []

    def recording_encode(pipe: Any, phrases: Sequence[Phrase]) -> Iterator[Encoded]:
        read.extend(phrase.concept for phrase in phrases)
        return encode(pipe, phrases)

    for module in (closed_form, statistics):
        monkeypatch.setattr(module, "encode", recording_encode)
    after = chosen.amend(before, pipe, [second, *preserved])
    assert set(read) == {"cook", "man", "woman"}
    assert after.digest == fresh.digest
    assert set(after.requests) == set(fresh.requests)
    assert after.diagnostics["tokens"] == fresh.diagnostics["tokens"]


def test_many_preserved_texts_are_stored_as_their_moment(pipe: Any) -> None:
    texts = ["castle", "house", "a house", "tulip", "a tulip at night"]
    bare = ("{}",)
    edit = editing.fit(pipe, [Erase("church"), Preserve(texts)], nearest=0, templates=bare)
    assert edit.ledger is not None
    (block,) = [e.blocks["tokens"] for e in edit.ledger.entries if e.role == "preserve"]
    assert block.source is None
    (few,) = [
        e.blocks["tokens"]
        for e in (editing.fit(pipe, [Erase("church"), Preserve(texts[:1])], nearest=0,
                              templates=bare).ledger or pytest.fail("no ledger")).entries
        if e.role == "preserve"
    ]  # fmt: skip
    assert few.source is not None
    one, last = states(pipe, "castle")
    rows = one[[last, *range(last + 1, len(one))]]
    assert torch.allclose(few.second_moment, rows.T @ rows, rtol=1e-6)


def test_a_corpus_preserves_its_span(pipe: Any) -> None:
    texts = ["a dog next to a cat", "a house at night", "a tulip on the grass"]
    free = editing.fit(pipe, [Erase("church")], nearest=0)
    held = editing.fit(pipe, [Erase("church")], corpus=texts, corpus_scale=10.0, nearest=0)
    name = token_layers(pipe)[0]
    rows = torch.cat([states(pipe, t)[0][1:] for t in texts])
    moved = [(rows @ change_of(e, pipe, name).T).norm() for e in (free, held)]
    assert moved[1] < 0.7 * moved[0]


def test_templates_put_the_concept_in_prompts(pipe: Any) -> None:
    edit = editing.fit(
        pipe, [Replace("dog", "cat")], tokens="last", templates=["{}", "a {} at night"],
        lam_rel=1e-10, nearest=0,
    )  # fmt: skip
    name = token_layers(pipe)[0]
    w = parameter(pipe, name).detach().to(torch.float64)
    new = w + change_of(edit, pipe, name)
    dog, cat = states(pipe, "a dog at night")[0][2], states(pipe, "a cat at night")[0][2]
    assert (new @ dog - w @ cat).norm() <= 1e-5 * (w @ cat).norm()


def test_diagnostics_have_all_fields(pipe: Any) -> None:
    edit = editing.fit(pipe, MIXTURE, neighbours=["tulip"], nearest=2, templates=("{}",))
    found = edit.diagnostics
    assert [t["concept"] for t in found["targets"]] == [
        e.request.concept
        for e in (edit.ledger or pytest.fail("no ledger")).entries
        if e.role == "change" and e.request is not None and not isinstance(e.request, Preserve)
    ]
    assert all(0 <= t["residual"] < 1 for t in found["targets"])
    assert 0 < found["null"]["spill"] < 1
    assert {"tulip"} < {n["concept"] for n in found["neighbours"]}
    assert found["tokens"]["church"][0] == {"index": 1, "token": "church</w>"}
    solve = found["solves"]["tokens"]
    assert 1 <= solve["effective_rank"] <= solve["rank"]
    assert solve["condition"] > 1


def test_diagnostics_agree_with_the_vectors(pipe: Any) -> None:
    requests = [Erase("church", "castle"), Preserve(["house"])]
    edit = editing.fit(pipe, requests, nearest=0, templates=("{}",))
    (change,) = edit.changes
    assert isinstance(change, SharedMap)
    c, t = states(pipe, "church")[0][1:], states(pipe, "castle")[0][1:]
    residual = (c + change.map.displacement(c) - t).norm() / (t - c).norm()
    assert edit.diagnostics["targets"][0]["residual"] == pytest.approx(float(residual), rel=1e-5)
    preserved = states(pipe, "house")[0][1:]
    drift = change.map.displacement(preserved).norm() / preserved.norm()
    assert edit.diagnostics["preserved"]["drift"] == pytest.approx(float(drift), rel=1e-5)


def test_warnings_name_the_problem(pipe: Any) -> None:
    spilling = editing.fit(pipe, [Erase("church")], "uce-2025", neighbours=["a church"], nearest=0)
    text = " ".join(spilling.diagnostics["warnings"])
    assert "The empty prompt is not preserved" in text
    unmeasured = editing.fit(
        pipe, [Debias("judge", {"man": 0.5, "woman": 0.5})], nearest=0
    ).diagnostics["warnings"]
    assert any("weights were not measured" in w for w in unmeasured)
    stiff = editing.fit(pipe, [Erase("church")], lam=1e9, nearest=0).diagnostics["warnings"]
    assert any("'church' reaches only" in w for w in stiff)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lam_real": 1.0}, "did you mean 'lam_rel'"),
        ({"lam": 1.0, "lam_rel": 1.0}, "exactly one of lam and lam_rel"),
        ({"lam_rel": -1.0}, "Expected valid settings, got lam_rel"),
        ({"templates": ["a photo"]}, "contain {} once"),
        ({"method": "uce-2024", "tokens": "all"}, "Expected tokens as uce-2024 defines it"),
    ],
)
def test_invalid_settings_are_errors(pipe: Any, settings: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        editing.fit(pipe, [Erase("church")], **settings)


def test_time_has_no_preserve_term(pipe: Any) -> None:
    with pytest.raises(InputError, match="time, which has no preserve term"):
        editing.fit(pipe, [Erase("church"), Preserve(["dog"])], "time")
    with pytest.raises(InputError, match="Expected no corpus for time"):
        editing.fit(pipe, [Erase("church")], "time", corpus=["a dog"])


def test_only_requests_of_the_edit_can_be_withdrawn(pipe: Any) -> None:
    edit = editing.fit(pipe, [Erase("church")], nearest=0)
    with pytest.raises(InputError, match="Expected requests of the edit"):
        editing.withdraw(edit, [Erase("dog")])
    with pytest.raises(InputError, match="Expected requests to remain"):
        editing.withdraw(edit, [Erase("church")])
    with pytest.raises(InputError, match="contradict each other"):
        editing.add(edit, pipe, [Replace("church", "dog")])
    with pytest.raises(InputError, match="Expected an edit with its ledger"):
        editing.withdraw(replace(edit, ledger=None), [Erase("church")])


def test_a_pipeline_without_cross_attention_is_an_error() -> None:
    with pytest.raises(InputError, match="a UNet with cross-attention to the prompt"):
        editing.fit(tiny.unconditional(), [Erase("church")])
