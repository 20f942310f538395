"""The loss of personalisation: targets, weights of noise levels, masks, priors; constrained map."""

from typing import Any

import pytest
import subjects
import tiny_pipelines as tiny
import torch

from editing.linear import constrained
from editing.personalize.data import Pictures, fixed_caption
from editing.personalize.framing import Framing
from editing.personalize.layers import ATTENTION, linear_layers
from editing.personalize.loss import NoiseLevels, squared_errors
from editing.personalize.objective import Objective
from editing.personalize.settings import PersonalizeConfig
from editing.personalize.trained import Adapters, SpectralShifts, Whole
from editing.pipelines.denoiser import Denoiser
from editing.training import Losses, generator
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

DIFFUSION = ("epsilon", "v_prediction", "sample")


@pytest.fixture(scope="module")
def sd1() -> Any:
    return tiny.sd1()


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny.sdxl()


def pictures(noun: str = "olis dog", seed: int = 0, masks: Any = ()) -> Pictures:
    images = ImageSet.open(subjects.images(2, seed=seed))
    return Pictures(images, [fixed_caption(f"a {noun}")] * 2, f"a {noun}", masks)


def objective(
    pipe: Any, trained: Any, classes: bool = False, teacher: bool = False, masks: Any = (),
    **settings: Any,
) -> Objective:  # fmt: skip
    denoiser = Denoiser(pipe)
    config = PersonalizeConfig(**settings)
    prior = [pictures("dog", seed=5)] if classes else []
    own = [pictures(masks=masks)]
    framing = Framing(denoiser.size, config.crop or 1.0, config.flip)
    return Objective(
        denoiser, trained, [subjects.subject()], own, prior, teacher, config, framing
    )  # fmt: skip


def whole(pipe: Any) -> Whole:
    return Whole(pipe, ["unet.conv_out.weight"])


def adapters(pipe: Any) -> Adapters:
    return Adapters(pipe, linear_layers(pipe, "unet", ATTENTION), 2, 2, seed=0)


def losses(of: Objective, samples: int = 3, start: int = 0) -> Losses:
    with torch.no_grad():
        return of({}, [generator(0, 0, i) for i in range(start, start + samples)])


def levels(prediction: Any) -> NoiseLevels:
    return NoiseLevels.of(tiny.scheduler(), prediction)


@pytest.mark.parametrize("prediction", DIFFUSION)
def test_targets_are_those_of_the_scheduler(prediction: Any) -> None:
    g = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 8, 8, generator=g)
    index = torch.tensor([0, 500, 999])
    found, scheduler = levels(prediction), tiny.scheduler()
    noised = found.noised(latents, noise, index)
    torch.testing.assert_close(noised, scheduler.add_noise(latents, noise, index))
    expected = {
        "epsilon": noise,
        "sample": latents,
        "v_prediction": scheduler.get_velocity(latents, noise, index),
    }
    torch.testing.assert_close(found.target(latents, noise, index), expected[prediction])


def test_the_target_of_a_flow_is_its_velocity() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    trained = scheduler.sigmas.clone()
    scheduler.set_timesteps(3)  # As sampling leaves it.
    found = NoiseLevels.of(scheduler, "flow")
    torch.testing.assert_close(found.noise, trained)
    torch.testing.assert_close(found.timesteps, 1000 * trained)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    a, b = torch.tensor([3, 7]), torch.tensor([800, 900])
    # z(σ) is a line, and its derivative by σ is the target.
    step = (found.noise[b] - found.noise[a])[:, None, None, None]
    slope = (found.noised(latents, noise, b) - found.noised(latents, noise, a)) / step
    torch.testing.assert_close(slope, found.target(latents, noise, a), rtol=1e-4, atol=1e-4)
    drawn = [found.draw(generator(0, i)) for i in range(200)]
    assert 0 <= min(drawn) < max(drawn) < 1000
    with pytest.raises(InputError, match="leave min_snr out"):
        found.min_snr(a, 5.0)


@pytest.mark.parametrize("prediction", DIFFUSION)
def test_min_snr_weights_the_error_of_clean_latents_alike(prediction: Any) -> None:
    """An error δ of z gives the same loss, min(snr, γ) δ², whatever the model predicts."""
    found, index = levels(prediction), torch.arange(0, 1000, 37)
    a, b = found.signal[index].double(), found.noise[index].double()
    # dε/dz = −a / b and dv/dz = −1 / b at a fixed noised point.
    slope = {"epsilon": a / b, "v_prediction": 1 / b, "sample": torch.ones_like(a)}[prediction]
    expected = ((a / b) ** 2).clamp(max=5.0)
    torch.testing.assert_close(
        found.min_snr(index, 5.0).double() * slope**2, expected, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("prediction", DIFFUSION)
def test_min_snr_is_finite_without_any_signal(prediction: Any) -> None:
    ends = torch.tensor([1.0, 0.0])
    found = NoiseLevels(prediction, ends, ends.flip(0), torch.arange(2))
    weights = found.min_snr(torch.arange(2), 5.0)
    assert weights.isfinite().all()
    assert weights[1] == (1 if prediction == "epsilon" else 0)


def test_each_half_has_the_min_snr_weights_of_its_own_timesteps(sd1: Any) -> None:
    plain = losses(objective(sd1, whole(sd1), classes=True))
    weighted = losses(objective(sd1, whole(sd1), classes=True, min_snr=5.0))
    found = objective(sd1, whole(sd1), classes=True)
    index: dict[str, list[int]] = {"subject": [], "prior": []}
    for i in range(3):
        g = generator(0, 0, i)
        index["subject"].append(found._sampler.draw(found._pictures, g).level)
        index["prior"].append(found._class_sampler.draw(found._prior, g).level)
    assert index["subject"] != index["prior"]
    for part, own in index.items():
        weights = levels("epsilon").min_snr(torch.tensor(own), 5.0)
        torch.testing.assert_close(weighted.parts[part], weights * plain.parts[part])
    # A batch of one: the published scripts weight the subject by the class image's timestep.
    alone = losses(objective(sd1, whole(sd1), classes=True, min_snr=5.0), samples=1)
    torch.testing.assert_close(alone.parts["subject"], weighted.parts["subject"][:1])


def test_errors_are_means_over_the_mask() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, 6, 6, generator=g)
    mask = torch.zeros(3, 1, 6, 6)
    mask[0, :, :2], mask[1] = 1, 0.5
    found = squared_errors(a, b, mask)
    torch.testing.assert_close(found[0], (a - b)[0, :, :2].square().mean())
    torch.testing.assert_close(found[1], squared_errors(a, b)[1])
    assert found[2] == 0


def test_masks_weight_what_is_outside_the_subject(sd1: Any) -> None:
    from PIL import Image

    none, full = (Image.new("L", (24, 20), value) for value in (0, 255))
    plain = losses(objective(sd1, whole(sd1))).total
    for masks, outside, same in (
        ([full, full], 0.0, True),
        ([none, none], 1.0, True),
        ([none, none], 0.3, True),  # The same weight everywhere.
        ([none, none], 0.0, False),
    ):
        found = losses(objective(sd1, whole(sd1), masks=masks, unmasked_weight=outside)).total
        assert torch.allclose(found, plain, rtol=1e-5) is same
    half = Image.new("L", (24, 20), 0)
    half.paste(255, (0, 0, 12, 20))
    found = losses(objective(sd1, whole(sd1), masks=[half, half], unmasked_weight=0.0)).total
    assert not torch.allclose(found, plain, rtol=1e-3)
    scaled = {"scaled_images": True, "unmasked_weight": 0.0}
    a = losses(objective(sd1, whole(sd1), masks=[full, full], **scaled)).total
    b = losses(objective(sd1, whole(sd1), masks=[half, half], **scaled)).total
    assert not torch.allclose(a, b, rtol=1e-3)


def test_no_weight_of_the_prior_is_no_prior(sd1: Any) -> None:
    without = losses(objective(sd1, whole(sd1)))
    for more in ({"classes": True}, {"teacher": True}):
        found = losses(objective(sd1, whole(sd1), prior_weight=0.0, **more))
        # One forward pass for both halves may round differently.
        torch.testing.assert_close(found.total, without.total, rtol=1e-5, atol=1e-6)
        once = losses(objective(sd1, whole(sd1), prior_weight=2.0, **more))
        torch.testing.assert_close(once.total, found.total + 2 * once.parts["prior"])


def _trained(pipe: Any, kind: str) -> Any:
    layers = list(linear_layers(pipe, "unet", ATTENTION))
    if kind == "whole":
        return whole(pipe)
    if kind == "shifts":
        return SpectralShifts(pipe, [f"{name}.weight" for name in layers], "off")
    if kind == "adapters with text":
        layers += linear_layers(pipe, "text_encoder", ("q_proj",))
    return Adapters(pipe, layers, 2, 2, seed=0)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", ["whole", "shifts", "adapters", "adapters with text"])
def test_the_teacher_sees_no_drift_at_the_start_and_drift_afterwards(
    request: pytest.FixtureRequest, family: str, kind: str
) -> None:
    pipe = request.getfixturevalue(family)
    trained = _trained(pipe, kind)
    with trained.installed():
        found = objective(pipe, trained, teacher=True, empty_captions=0.5)
        initial = dict(trained.initial)
        with trained.substituted(initial):
            assert losses(found, 6).parts["prior"].max() < 1e-9
        moved = {name: value + 0.3 for name, value in initial.items()}
        with trained.substituted(moved):
            assert losses(found, 6).parts["prior"].min() > 1e-6


def test_the_teacher_is_asked_for_the_class(sd1: Any) -> None:
    found = objective(sd1, whole(sd1), teacher=True)
    assert found._class_text("a olis dog on the grass") == "a dog on the grass"
    assert found._class_text("an olis dog, polished") == "an dog, polished"
    assert found._class_text("a trolis with a olis") == "a trolis with a dog"
    owl = objective(sd1, whole(sd1), teacher=True)
    owl._class_of = {"<x>": subjects.subject("<x>", "owl")}
    assert owl._class_text("zoomed in a <x> owl") == "zoomed in an owl"


def test_a_constrained_map_is_exact_and_nearest() -> None:
    g = torch.Generator().manual_seed(0)
    weight, kept, sources, values = (
        torch.randn(shape, generator=g, dtype=torch.float64)
        for shape in ((5, 8), (40, 8), (3, 8), (3, 5))
    )
    found = constrained(weight, kept, sources, values, ridge=0.0)
    assert (found @ sources.T - values.T).abs().max() < 1e-10
    cost = ((found - weight) @ kept.T).norm()
    # Feasible directions leave the images of the sources as they are.
    free = torch.eye(8, dtype=torch.float64) - sources.T @ torch.linalg.pinv(sources.T)
    for scale in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            step = scale * torch.randn(5, 8, generator=g, dtype=torch.float64) @ free
            assert ((found + step) @ sources.T - values.T).abs().max() < 1e-9
            assert ((found + step - weight) @ kept.T).norm() >= cost
    few = constrained(weight, kept[:4], sources, values)
    assert (few @ sources.T - values.T).abs().max() < 1e-6
    same = constrained(weight, kept, sources, sources @ weight.T)
    torch.testing.assert_close(same, weight)
    with pytest.raises(InputError, match="linearly independent"):
        constrained(weight, kept, sources[[0, 0]], values[:2])
