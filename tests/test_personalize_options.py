"""Options of personalisation that all methods share, and input that cannot be used."""

import resource
from pathlib import Path
from typing import Any

import pytest
import subjects
import tiny_pipelines as tiny
import torch
from PIL import Image

from editing.edit.deltas import content
from editing.personalize import find, personalizer
from editing.personalize.custom_diffusion import merge
from editing.personalize.personalizer import Noted
from editing.personalize.samples import Samples
from editing.personalize.subject import Subject
from editing.training import Estimate, Sampled, Skipped, Stepped, Validated
from visdiff.errors import InputError

OPTIONAL = pytest.importorskip


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(personalizer, "_HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def sd1() -> Any:
    return tiny.sd1()


def bits(edit: Any) -> list[Any]:
    return [content(change) for change in edit.changes]


def numbers(edit: Any) -> torch.Tensor:
    return torch.cat([c.difference.flatten() for c in edit.changes if hasattr(c, "difference")])


def refused(match: str, method: str, pipe: Any, taught: Any = None, **settings: Any) -> None:
    """Checks that input is refused in one sentence."""
    with pytest.raises(InputError, match=match) as found:
        subjects.fit(method, pipe, taught, **settings)
    text = str(found.value)
    assert text.startswith("Expected ")
    assert ", got " in text
    assert "\n" not in text


def noted(pipe: Any, taught: Any, **settings: Any) -> list[str]:
    events: list[Any] = []
    edit = subjects.fit("lora", pipe, taught, steps=1, on_event=events.append, **settings)
    notes = [event.text for event in events if isinstance(event, Noted)]
    assert edit.diagnostics["notes"] == notes
    return notes


def test_gradient_checkpointing_changes_nothing(sd1: Any) -> None:
    plain = subjects.fit("lora", sd1, prior="teacher")
    again = subjects.fit("lora", sd1, prior="teacher", gradient_checkpointing=True)
    assert bits(plain) == bits(again)
    assert not sd1.unet.is_gradient_checkpointing


def test_autocast_and_loss_scaling(sd1: Any) -> None:
    losses: dict[str, Any] = {}
    for precision in ("model", "bfloat16", "float16"):
        events: list[Any] = []
        edit = subjects.fit(
            "dreambooth", sd1, steps=3, precision=precision, on_event=events.append,
            text_encoder=True, ema=0.5,
        )  # fmt: skip
        losses[precision] = [e.loss for e in events if isinstance(e, Stepped)]
        assert numbers(edit).isfinite().all()
        assert len([e for e in events if isinstance(e, Skipped)]) < 3
    assert losses["bfloat16"][0] == pytest.approx(losses["model"][0], rel=0.1)
    assert losses["float16"][0] == pytest.approx(losses["model"][0], rel=0.01)
    assert losses["bfloat16"][0] != losses["model"][0]


def test_autocast_resumes_to_the_bit(sd1: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    given: dict[str, Any] = {"precision": "bfloat16", "save_every": 1, "validate_every": 1}
    whole = subjects.fit("lora", sd1, **given)
    with pytest.raises(InterruptedError):
        subjects.fit("lora", sd1, checkpoint=file, on_event=subjects.stop_at(1), **given)
    assert bits(subjects.fit("lora", sd1, checkpoint=file, **given)) == bits(whole)


def test_half_precision_pipelines_train_float32_copies() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        pipe = tiny.sd1().to(dtype=dtype)
        before = tiny.weights(pipe)
        edit = subjects.fit("dreambooth", pipe, lr=1e-5, prior="teacher")
        # Smaller than what the weights' own dtype could add.
        assert 0 < numbers(edit).abs().max() < 1e-4
        assert tiny.identical(tiny.weights(pipe), before)


def test_prodigy(sd1: Any) -> None:
    OPTIONAL("prodigyopt")
    edit = subjects.fit("lora", sd1, lr=1.0, optimizer="prodigy",
                        optimizer_options={"d0": 1e-2})  # fmt: skip
    assert edit.changes[0].up.abs().max() > 0
    refused("Expected one learning rate for prodigy", "svdiff", sd1, optimizer="prodigy")


def test_samples_and_validation_do_not_change_the_result(sd1: Any, tmp_path: Path) -> None:
    events: list[Any] = []
    samples = Samples(tmp_path, 1, ("a olis dog",), seeds=(0, 1))
    watched = subjects.fit("lora", sd1, samples=samples, validate_every=2, sampling_steps=1,
                           on_event=events.append)  # fmt: skip
    assert bits(watched) == bits(subjects.fit("lora", sd1, sampling_steps=1))
    paths = [e.path for e in events if isinstance(e, Sampled)]
    assert paths == [tmp_path / f"step-00000{n}.png" for n in range(3)]
    assert Image.open(paths[0]).size == (64, 46)
    assert paths[0].read_bytes() != paths[2].read_bytes()
    validated = [(e.done, e.loss) for e in events if isinstance(e, Validated)]
    loss = watched.diagnostics["loss"]
    assert validated == [(0, loss["before"]), (2, loss["after"])]
    assert isinstance(events[0], Estimate)


def test_damaged_images_are_named_before_anything_is_drawn(sd1: Any, tmp_path: Path) -> None:
    for i, image in enumerate(subjects.images()):
        image.save(tmp_path / f"{i}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    taught, classes = Subject.open(tmp_path, "olis", "dog"), tmp_path / "classes"
    with pytest.raises(InputError, match=r"got 1 that cannot; the first: .*1\.png"):
        subjects.fit("lora", sd1, taught, prior="prompt", prior_images=2, class_folder=classes)
    assert not classes.exists()


def test_several_subjects_are_taught_together(sd1: Any) -> None:
    pair = [subjects.subject("<x>"), subjects.subject("<y>", "cat", seed=1)]
    edit = subjects.fit("svdiff", sd1, pair, cut_mix=0.9)
    assert [request.concept for request in edit.requests] == ["<x> dog", "<y> cat"]
    both = subjects.fit("custom-diffusion", sd1, pair)
    assert sorted(t for c in both.changes for t in c.tokens()) == ["<x>", "<y>"]
    wrong = [subjects.subject("<x>"), subjects.subject("<x>", "cat")]
    refused("one class noun for '<x>', got cat and dog", "lora", sd1, wrong)
    refused("at least one subject, got none", "lora", sd1, [])


def test_a_prior_changes_nothing_of_a_token_and_a_note_says_so(sd1: Any) -> None:
    plain = subjects.fit("textual-inversion", sd1, subjects.subject("<x>"))
    guarded = subjects.fit("textual-inversion", sd1, subjects.subject("<x>"), prior="teacher")
    assert bits(guarded) == bits(plain)
    assert not any("The prior changes nothing" in note for note in plain.diagnostics["notes"])
    assert any("The prior changes nothing" in note for note in guarded.diagnostics["notes"])
    other = subjects.fit("lora", sd1, prior="teacher")
    assert not any("The prior changes nothing" in note for note in other.diagnostics["notes"])


@pytest.mark.parametrize("vectors", [1, 2])
def test_edits_of_custom_diffusion_merge_in_closed_form(sd1: Any, vectors: int) -> None:
    own: dict[str, Any] = {"lr": 0.1, "vectors": vectors}
    edits = [
        subjects.fit("custom-diffusion", sd1, subjects.subject("<x>"), **own),
        subjects.fit("custom-diffusion", sd1, subjects.subject("<y>", "cat", seed=1), **own),
    ]
    words = ("church", "car", "tree", "house", "tulip", "castle", "judge", "bird")
    captions = [f"a {a} on the {b}" for a in words for b in words]
    merged = merge(edits, sd1, captions)
    tokens = [t for c in merged.changes for t in c.tokens()]
    assert [t for t in tokens if "_" not in t] == ["<x>", "<y>"]
    assert len(tokens) == 2 * vectors
    name = next(n for n in edits[0].tensors if n.endswith("attn2.to_k.weight"))

    def keys(edit: Any, prompt: str) -> torch.Tensor:
        from editing.pipelines.text import Phrase, encode
        from editing.pipelines.weights import parameter

        with edit.applied(sd1, force=True):
            (found,) = encode(sd1, [Phrase("{}", prompt)])
            # The token's vectors and the noun, after the start token.
            rows = found.states[1 : vectors + 2].double()
            assert (found.layout.first, found.layout.last) == (1, vectors + 1)
            return rows @ parameter(sd1, name).detach().double().T

    for edit in edits:
        concept = edit.requests[0].concept
        torch.testing.assert_close(keys(merged, concept), keys(edit, concept), rtol=0, atol=1e-3)
    with pytest.raises(InputError, match="Expected two or more edits and at least one caption"):
        merge(edits[:1], sd1, captions)
    with pytest.raises(InputError, match="different identifiers, got '<x>' twice"):
        merge([edits[0], edits[0]], sd1, captions)
    with pytest.raises(InputError, match="keys and values of the cross-attention, got one that"):
        merge([edits[0], subjects.fit("lora", sd1, steps=1)], sd1, captions)


@pytest.mark.parametrize(
    ("identifier", "caption"), [("Olis", "an OLIS dog"), ("<olis>", "a <OLIS> dog on a rock")]
)
def test_a_new_token_is_learnt_from_captions_in_another_case(
    sd1: Any, identifier: str, caption: str
) -> None:
    taught = subjects.subject(identifier).with_captions([caption] * 3)
    edit = subjects.fit("textual-inversion", sd1, taught, vectors=2, steps=1)
    (change,) = edit.changes
    assert change.tokens() == ("<olis>", "<olis>_1")
    assert all(not torch.equal(change.vectors[t], change.starts[t]) for t in change.tokens())


def test_what_scaled_images_replace_is_noted(sd1: Any) -> None:
    for more in ({"buckets": True}, {"crop": 0.5}):
        edit = subjects.fit("custom-diffusion", sd1, steps=1, **more)
        assert any("smaller or larger" in note for note in edit.diagnostics["notes"])
    edit = subjects.fit("custom-diffusion", sd1, steps=1)
    assert not any("smaller or larger" in note for note in edit.diagnostics["notes"])


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Expected .*, got .*\.$"):
        Subject.open(tmp_path, noun="dog")


def test_what_is_unusual_is_noted(sd1: Any) -> None:
    assert noted(sd1, subjects.subject("a")) == []
    (one,) = noted(sd1, Subject.open(subjects.images(1), "a", "dog"))
    assert "one image" in one
    (pieces,) = noted(sd1, subjects.subject("olisquix"))
    assert "'olisquix' is" in pieces
    assert "a single rare token is better" in pieces
    (noun,) = noted(sd1, subjects.subject("a", "zyzzyvaquark"))
    assert "which may not know it" in noun
    (new,) = noted(sd1, subjects.subject(), new_token=True)
    assert new == "The subject is 'a <olis> dog' in prompts: the token is new."


def test_captions_and_masks_must_fit(tmp_path: Path) -> None:
    taught = subjects.subject()
    with pytest.raises(InputError, match=r"got none of them in .*'a couch'"):
        taught.with_captions(["a olis dog", "a couch", "a dog"])
    image, mask = tmp_path / "a.png", tmp_path / "a_mask.png"
    Image.new("RGB", (8, 8)).save(image)
    Image.new("L", (8, 9)).save(mask)
    with pytest.raises(InputError, match=r"Expected a mask of 8×8 pixels for a\.png, got 8×9"):
        Subject.open(tmp_path, noun="dog")


def test_a_checkpoint_of_another_run_is_kept(sd1: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    subjects.fit("lora", sd1, steps=1, checkpoint=file)
    kept = file.read_bytes()
    for change in (
        {"lr": 2e-2}, {"prior": "teacher"}, {"rank": 3}, {"taught": subjects.subject(seed=4)},
    ):  # fmt: skip
        refused("checkpoint of this training, got", "lora", sd1, steps=1, checkpoint=file, **change)
    refused("checkpoint of this training", "lora", tiny.sd2(), steps=1, checkpoint=file)
    assert file.read_bytes() == kept


def test_a_training_that_diverges_keeps_its_checkpoint(sd1: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    given: dict[str, Any] = {"checkpoint": file, "save_every": 1, "lr": 1e30, "steps": 5}
    refused("Expected (a finite loss|finite gradients), got", "dreambooth", sd1, **given)
    assert file.is_file()
    assert torch.isfinite(next(sd1.unet.parameters())).all()
    refused("Expected (a finite loss|finite gradients), got", "dreambooth", sd1, **given)


def test_a_full_disk_loses_nothing(sd1: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    given: dict[str, Any] = {"checkpoint": file, "save_every": 1, "steps": 3}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(event: Any) -> None:
        if isinstance(event, Stepped) and event.done == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        refused("path to write the checkpoint to, got .*; free space there",
                "lora", sd1, on_event=fill_the_disk, **given)  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    events: list[Any] = []
    again = subjects.fit("lora", sd1, on_event=events.append, **given)
    assert [event.done for event in events if isinstance(event, Stepped)] == [2, 3]
    assert bits(again) == bits(subjects.fit("lora", sd1, steps=3))


@pytest.mark.parametrize(
    ("method", "settings", "match"),
    [
        ("dreambooth", {"rank": 2}, "settings that dreambooth uses, got rank; leave it out"),
        ("textual-inversion", {"text_encoder": True}, "settings that textual-inversion uses, got"),
        ("lora", {"rnk": 2}, r"got 'rnk' \(did you mean 'rank'\?\)"),
        ("lora", {"rank": 0}, "rank"),
        ("lora", {"rank": 500}, "rank of at most 16 for unet"),
        ("lora", {"targets": ("to_x",)}, "names of linear layers of the unet, got to_x"),
        ("lora", {"crop": 1.5}, "crop"),
        ("lora", {"height": 33}, "height"),
        ("lora", {"prior": "nothing"}, r"a prior \(none, prompt, .*\) or a folder"),
        ("lora", {"optimizer": "adamx"}, "optimizer"),
        ("lora", {"optimizer_options": {"momentum": 1}}, "options of adamw"),
        ("lora", {"validate_every": 0}, "observer every 1 or more steps"),
        ("lora", {"steps": 0}, "steps"),
        ("lora", {"templates": ("a photo",)}, "template"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(sd1: Any, method: str, settings: Any, match: str) -> None:
    refused(match, method, sd1, **settings)


def test_families_that_a_method_cannot_teach(tmp_path: Path) -> None:
    flux = tiny.flux()
    for method in ("dreambooth", "textual-inversion", "custom-diffusion", "svdiff"):
        refused("use lora, which supports all families", method, flux)
    refused("use lora without a new token", "lora", flux, new_token=True)
    # Before any image of the class is drawn.
    drawn = tmp_path / "class-images"
    refused("leave min_snr out", "lora", flux, min_snr=5.0, prior="prompt", class_folder=drawn)
    assert not drawn.exists()
    refused("pipeline of", "lora", tiny.unconditional())
    with pytest.raises(InputError, match="Expected a personalisation method, got 'lora2'"):
        find("lora2")


def test_a_token_that_the_model_has_already(sd1: Any) -> None:
    first = subjects.fit("textual-inversion", sd1, subjects.subject("<x>"), steps=1)
    with first.applied(sd1):
        refused("token that the tokenizer does not have, got '<x>'", "textual-inversion", sd1,
                subjects.subject("<x>"))  # fmt: skip
