"""SVDiff's unmix regulariser: attention of each subject in the half of the other."""

from typing import Any

import pytest
import subjects
import tiny_pipelines as tiny
import torch

from editing.personalize.data import Pictures, fixed_caption
from editing.personalize.framing import Framing
from editing.personalize.layers import ATTENTION, linear_layers
from editing.personalize.objective import Objective
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.trained import Adapters
from editing.personalize.unmix import attention_in_wrong_half
from editing.pipelines.denoiser import Denoiser
from editing.training import Losses, generator
from visdiff.errors import InputError
from visdiff.imageset import ImageSet


def maps(left: list[float], right: list[float]) -> torch.Tensor:
    """Attention to tokens 1 and 2 by column, the same in two rows, (places, 4)."""
    row = torch.tensor([[0.0, a, b, 0.0] for a, b in zip(left, right, strict=True)])
    return row.repeat(2, 1)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([0.9, 0.9, 0.0, 0.0], [0.0, 0.0, 0.7, 0.7], 0.0),
        ([0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.7, 0.7], 0.125),
        ([0.0, 0.0, 0.5, 0.5], [0.2, 0.4, 0.0, 0.0], (0.25 + (0.04 + 0.16) / 2) / 2),
        # The middle of three columns belongs to neither.
        ([0.1, 0.8, 0.0], [0.0, 0.9, 0.1], 0.0),
    ],
)
def test_only_the_other_half_counts(left: list[float], right: list[float], expected: float) -> None:
    found = attention_in_wrong_half(maps(left, right), (2, len(left)), [1], [2])
    assert float(found) == pytest.approx(expected)


def test_tokens_of_one_subject_count_together() -> None:
    values = torch.zeros(4, 6)
    values[:, 1], values[:, 2] = 0.2, 0.3
    found = attention_in_wrong_half(values, (2, 2), [1, 2], [4])
    assert float(found) == pytest.approx(0.25 / 2)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def pipe(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


def pictures(identifier: str, noun: str, seed: int) -> Pictures:
    phrase = f"{identifier} {noun}".strip()
    images = ImageSet.open(subjects.images(2, seed=seed))
    captions = [fixed_caption(f"a {phrase}")] * 2
    return Pictures(images, captions, phrase, identifier=identifier)


def losses(pipe: Any, samples: range, **settings: Any) -> Losses:
    """Returns the losses of samples, about half of them pasted."""
    denoiser = Denoiser(pipe)
    config = PersonalizeConfig(cut_mix=0.5, crop=1.0, **settings)
    trained = Adapters(pipe, linear_layers(pipe, "unet", ATTENTION), 2, 2, seed=0)
    objective = Objective(
        denoiser, trained, [subjects.subject(), subjects.subject("ulit", "cat")],
        [pictures("olis", "dog", 0), pictures("ulit", "cat", 1)],
        [pictures("", "dog", 2), pictures("", "cat", 3)], False, config, Framing(denoiser.size),
    )  # fmt: skip
    with torch.no_grad():
        return objective({}, [generator(0, 0, i) for i in samples])


def test_it_adds_to_the_loss_of_pasted_images_alone(pipe: Any) -> None:
    plain, found = losses(pipe, range(8)), losses(pipe, range(8), unmix=3.0)
    part = found.parts["unmix"]
    assert "unmix" not in plain.parts
    assert 0 < int((part > 0).sum()) < 8
    assert ((part >= 0) & (part <= 1)).all()
    # Observing changes nothing else.
    torch.testing.assert_close(found.parts["subject"], plain.parts["subject"])
    torch.testing.assert_close(found.total, plain.total + 3.0 * part)


def test_it_does_not_depend_on_the_batch(pipe: Any) -> None:
    whole = losses(pipe, range(6), unmix=1.0).parts["unmix"]
    parts = [losses(pipe, range(i, i + 2), unmix=1.0).parts["unmix"] for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_training_lowers_it() -> None:
    pair = [subjects.subject(), subjects.subject("ulit", "cat", seed=1)]
    seen: dict[float, float] = {}
    for weight in (0.0, 1e4):
        pipe = tiny.sd1()
        edit = subjects.fit(
            "svdiff", pipe, pair, cut_mix=1.0, unmix=weight, steps=12, lr=0.3, batch=2
        )
        with edit.applied(pipe):
            part = losses(pipe, range(12), unmix=1.0).parts["unmix"]
        seen[weight] = float(part[part > 0].mean())
    assert seen[1e4] < 0.7 * seen[0.0]


def test_it_is_refused_where_there_is_nothing_to_unmix() -> None:
    pair = [subjects.subject(), subjects.subject("ulit", "cat", seed=1)]
    with pytest.raises(InputError, match="Expected two subjects or more"):
        subjects.fit("svdiff", tiny.sd1(), unmix=1.0)
    with pytest.raises(InputError, match="got 2 and cut_mix 0"):
        subjects.fit("svdiff", tiny.sd1(), pair, unmix=1.0, cut_mix=0.0)


def test_it_is_refused_where_attention_cannot_be_observed() -> None:
    with pytest.raises(InputError, match="does not work with gradient_checkpointing"):
        PersonalizeConfig().changed(unmix=1.0, gradient_checkpointing=True)
