"""One contract for all methods of personalisation and all families."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import subjects
import tiny_pipelines as tiny
import torch

import editing
from editing.edit import Edit
from editing.edit.deltas import content, pack
from editing.edit.formats import export_edit, import_edit
from editing.personalize import personalizer
from editing.requests import Erase
from editing.training import Stepped

MAKERS = {
    "sd1": tiny.sd1, "sd2": tiny.sd2, "sdxl": tiny.sdxl, "flux": tiny.flux, "sd3": tiny.sd3,
}  # fmt: skip
# Every option that decides what a sample is, or what is kept from one step to the next, is on in
# some row: priors, crops, flips, buckets, empty captions, weights of noise levels, averages.
CASES: dict[tuple[str, str], dict[str, Any]] = {
    ("lora", "sd1"): {"prior": "teacher", "crop": 0.75, "text_encoder": True, "min_snr": 5.0},
    ("lora", "sd2"): {"prior": "prompt", "flip": True, "dora": True, "validate_every": 1},
    ("lora", "sdxl"): {"prior": "prompt", "crop": 0.75, "empty_captions": 0.4},
    ("lora", "flux"): {"prior": "teacher", "flip": True},
    ("lora", "sd3"): {"crop": 0.75, "text_encoder": True},
    ("dreambooth", "sd1"): {"prior": "prompt", "crop": 0.75, "text_encoder": True},
    ("dreambooth", "sd2"): {"prior": "teacher", "ema": 0.9, "empty_captions": 0.4},
    ("dreambooth", "sdxl"): {"flip": True, "buckets": True, "validate_every": 1},
    ("textual-inversion", "sd1"): {"vectors": 2, "flip": True},
    ("textual-inversion", "sd2"): {"crop": 0.75, "prior": "prompt"},
    ("textual-inversion", "sdxl"): {"empty_captions": 0.4, "min_snr": 5.0},
    ("custom-diffusion", "sd1"): {"prior": "prompt"},
    ("custom-diffusion", "sd2"): {"prior": "teacher", "scaled_images": False, "crop": 0.75},
    ("custom-diffusion", "sdxl"): {"projections": "qkvo"},
    ("svdiff", "sd1"): {"prior": "prompt", "crop": 0.75, "norm_lr": 1e-3},
    ("svdiff", "sd2"): {"prior": "teacher", "norm_mode": "off", "min_snr": 5.0},
    ("svdiff", "sdxl"): {"text_encoder": True, "norm_mode": "elementwise", "flip": True},
}
SHORT: dict[str, Any] = {
    "batch": 4, "micro_batch": 2, "save_every": 1, "prior_images": 2, "sampling_steps": 1,
    # With a small ε the first updates of Adam are the signs of gradients, also of rounding errors.
    "lr": 3e-2, "optimizer_options": {"eps": 1e-2},
}  # fmt: skip
FORMATS = {
    "lora": "diffusers", "dreambooth": "folder", "textual-inversion": "learned-embeds",
    "custom-diffusion": "custom-diffusion", "svdiff": "spectral-shifts",
}  # fmt: skip


@dataclass
class Case:
    """A method on a family, fitted once."""

    method: str
    family: str
    pipe: Any
    other: Any
    folder: Path
    before: dict[str, Any] = field(default_factory=dict)
    edit: Any = None

    def fit(self, pipe: Any = None, **more: Any) -> Edit:
        settings = {**SHORT, **CASES[self.method, self.family], **more}
        return subjects.fit(
            self.method, self.pipe if pipe is None else pipe, class_folder=self.folder, **settings
        )

    @property
    def prompt(self) -> str:
        """A prompt with the subject."""
        return f"a {self.edit.requests[0].concept}"


@pytest.fixture(scope="module", autouse=True)
def few_samples() -> Iterator[None]:
    """Measures the loss on two fixed samples, which takes longer than these trainings otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(personalizer, "_HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def pipes() -> dict[str, tuple[Any, Any]]:
    """Two equal pipelines of each family that was asked for."""
    return {}


@pytest.fixture(scope="module", params=list(CASES), ids="-".join)
def case(
    request: pytest.FixtureRequest, pipes: dict[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    method, family = request.param
    if family not in pipes:
        make = MAKERS[family]
        pipes[family] = (make(), make(), tmp_path_factory.mktemp(family))
        tiny.picture(pipes[family][0])  # Libraries add hooks of their own at the first call.
    found = Case(method, family, *pipes[family])
    found.before = state(found.pipe)
    found.edit = found.fit()
    return found


def state(pipe: Any) -> dict[str, Any]:
    """Returns all that a training could leave changed in a pipeline."""
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    return {
        "tensors": tiny.weights(pipe),
        "gradients": {
            f"{n}.{name}": (p.requires_grad, p.grad is None)
            for n, m in modules.items()
            for name, p in m.named_parameters()
        },
        "modules": {
            f"{n}.{name}": (type(part), part.training, len(part._forward_hooks))
            for n, m in modules.items()
            for name, part in m.named_modules()
        },
        "tokenizers": {
            n: t.get_vocab() for n, t in pipe.components.items() if n.startswith("tokenizer") and t
        },
        "words": {n: getattr(m.config, "vocab_size", None) for n, m in modules.items()},
        "attributes": {n: sorted(vars(m)) for n, m in modules.items()},
    }  # fmt: skip


def assert_unchanged(pipe: Any, before: dict[str, Any]) -> None:
    after = state(pipe)
    assert tiny.identical(after.pop("tensors"), before["tensors"])
    for name, value in after.items():
        assert value == before[name], name


def bits(edit: Edit) -> list[Any]:
    return [content(change) for change in edit.changes]


def numbers(edit: Edit) -> dict[str, torch.Tensor]:
    """Returns all tensors of an edit."""
    return {
        f"{i}.{name}": tensor
        for i, change in enumerate(edit.changes)
        for name, tensor in pack(change)[1].items()
    }


def test_a_training_leaves_the_pipeline_as_it_was(case: Case) -> None:
    assert_unchanged(case.pipe, case.before)
    with case.edit.applied(case.pipe):
        changed = tiny.weights(case.pipe)
    assert not tiny.identical(changed, case.before["tensors"])
    assert_unchanged(case.pipe, case.before)


def test_half_a_resumed_training_is_a_whole_one(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    with pytest.raises(InterruptedError):
        case.fit(checkpoint=file, on_event=subjects.stop_at(1))
    assert_unchanged(case.pipe, case.before)
    events: list[Any] = []
    again = case.fit(case.other, checkpoint=file, on_event=events.append)
    assert [e.done for e in events if isinstance(e, Stepped)] == [2]
    assert bits(again) == bits(case.edit)
    assert again.digest == case.edit.digest
    # What was kept from earlier steps has the same bits, whoever computed it first.
    assert again.diagnostics == case.edit.diagnostics


def test_micro_batches_change_only_rounding(case: Case) -> None:
    whole = numbers(case.fit(micro_batch=4))
    for name, value in numbers(case.edit).items():
        size = float(value.abs().max())
        torch.testing.assert_close(whole[name], value, rtol=0, atol=2e-3 * size + 1e-7, msg=name)


def test_other_token_rows_keep_their_bits(case: Case) -> None:
    encoders = [n for n in ("text_encoder", "text_encoder_2") if hasattr(case.pipe, n)]
    if case.edit.config["text_encoder"] and case.method in ("dreambooth", "svdiff"):
        pytest.skip("all weights of the text encoders are trained")
    tables = [getattr(case.pipe, n).get_input_embeddings() for n in encoders]
    before = [table.weight.detach().clone() for table in tables]
    with case.edit.applied(case.pipe):
        for table, own in zip(tables, before, strict=True):
            assert torch.equal(table.weight[: len(own)], own)


def test_an_edit_changes_images_and_no_strength_is_the_base(case: Case, tmp_path: Path) -> None:
    plain = tiny.picture(case.pipe, "a dog")
    with case.edit.applied(case.pipe):
        taught = tiny.picture(case.pipe, case.prompt)
    with case.edit.scaled(0).applied(case.pipe):
        assert np.array_equal(tiny.picture(case.pipe, "a dog"), plain)
        start = tiny.picture(case.pipe, case.prompt)
    assert abs(taught - start).max() > 1e-4
    assert np.array_equal(tiny.picture(case.pipe, "a dog"), plain)
    stored = Edit.load(case.edit.save(tmp_path / "edit.safetensors"))
    assert stored.digest == case.edit.digest
    with stored.applied(case.other):
        assert np.array_equal(tiny.picture(case.other, case.prompt), taught)


def test_an_edit_composes_with_an_erasure(case: Case) -> None:
    if case.family == "sd3":
        pytest.skip("closed forms do not support Stable Diffusion 3")
    erasure = editing.fit(case.pipe, [Erase("church")], nearest=0)
    both = editing.compose([case.edit, erasure]).edit
    with case.edit.applied(case.pipe):
        one = tiny.weights(case.pipe)
    with both.applied(case.pipe):
        found = tiny.weights(case.pipe)
        assert np.isfinite(tiny.picture(case.pipe, case.prompt)).all()
    for name in erasure.tensors:
        base = case.before["tensors"][name]
        delta = sum(c.delta(name, base) for c in erasure.changes if name in c.names())
        torch.testing.assert_close(found[name], (one[name] + delta).float(), rtol=1e-5, atol=1e-5)
    assert_unchanged(case.pipe, case.before)


def test_diffusers_loads_what_is_exported(case: Case, tmp_path: Path) -> None:
    edit, pipe = case.edit, case.pipe
    with edit.applied(pipe):
        taught = tiny.picture(pipe, case.prompt)
    form = FORMATS[case.method]
    if edit.config["norm_mode"] == "elementwise":
        form = "folder"  # A file of spectral shifts has one shift a norm.
    export_edit(edit, pipe, form, tmp_path)
    assert tiny.identical(tiny.weights(pipe), case.before["tensors"])
    if form != "spectral-shifts":  # Diffusers has no loader of them.
        found = loaded(case.other, form, tmp_path)
        assert abs(tiny.picture(found, case.prompt) - taught).max() <= 1e-4
    with import_edit(tmp_path, pipe).applied(pipe):
        assert abs(tiny.picture(pipe, case.prompt) - taught).max() <= 1e-4


def loaded(pipe: Any, form: str, folder: Path) -> Any:
    """Returns a pipeline with an exported edit, read by diffusers' own loaders."""
    if form == "folder":
        return editing.load_pipeline(folder)
    found = copy.deepcopy(pipe)
    for number in ("", "_2"):
        file = folder / f"learned_embeds{number}.safetensors"
        if file.is_file():
            found.load_textual_inversion(
                str(file),
                text_encoder=getattr(found, f"text_encoder{number}"),
                tokenizer=getattr(found, f"tokenizer{number}"),
            )
    if form == "diffusers":
        found.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
    elif form == "custom-diffusion":
        name = "pytorch_custom_diffusion_weights.safetensors"
        found.unet.load_attn_procs(str(folder), weight_name=name, _pipeline=found)
    return found
