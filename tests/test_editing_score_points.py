"""Training points, and purification: what a run of the frozen model gives, and gives back."""

from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image

from editing.edit import Edit
from editing.edit.deltas import Full
from editing.methods.score.purification import (
    Inversion,
    decoded,
    encoded,
    inverted,
    purify,
    regenerated,
)
from editing.methods.score.trajectories import Route, ddim, draw, drawn, evaluations
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.sampling import Settings
from editing.pipelines.sampling import draw as images
from editing.pipelines.weights import parameter
from editing.requests import Erase
from visdiff.errors import InputError

ROUTES = [Route("a dog", 3), Route("", 4), Route("a church on sand", 5)]


def made(family: str) -> Any:
    """A tiny pipeline, the same in every run: biases are drawn as torch draws them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(tiny, family)()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return made("sd1")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_runs_end_is_the_pipelines_own_image(family: str) -> None:
    """Same prompt, seed and guidance: what the points lead to is what the pipeline draws."""
    pipe = made(family)
    found = drawn(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    assert found.inputs.shape == (3, 4, 4, 8, 8)
    assert found.timesteps.tolist() == sorted(found.timesteps.tolist(), reverse=True)
    settings = Settings(steps=4, guidance=3.0, scheduler="DDIM")
    wanted = images(pipe, ["a dog", "a church on sand"], [3, 5], settings=settings)
    for row, picture in zip((0, 2), wanted, strict=True):
        with torch.no_grad():
            ours = np.asarray(decoded(pipe, found.finals[row : row + 1]))
        assert np.abs(ours.astype(int) - picture.astype(int)).max() <= 1


def test_points_are_what_the_denoiser_reads(pipe: Any) -> None:
    """A scheduler with noise in its own units is asked for the denoiser's."""
    from diffusers import EulerDiscreteScheduler

    denoiser = Denoiser(pipe)
    euler: Any = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    seen: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    try:
        found = draw(denoiser, euler, ROUTES[1:2], steps=4, guidance=3.0)
    finally:
        hook.remove()
    torch.testing.assert_close(found.inputs[0], torch.cat(seen))
    # Noise alone, scaled to the variance that the denoiser was trained on, not to Euler's σ.
    assert 0.5 < float(found.inputs[0, 0].std()) < 2
    assert float(euler.init_noise_sigma) > 2
    # A clipping scheduler is not let near latents.
    assert not ddim(euler).config.clip_sample


def test_the_resolution_is_the_models_or_the_one_asked_for(pipe: Any) -> None:
    assert Denoiser(pipe).size == (32, 32)
    assert Denoiser(pipe, 64, 32).shape == (4, 16, 8)
    found = drawn(Denoiser(pipe, 64, 32), ROUTES[:1], steps=2, guidance=1.0)
    assert found.finals.shape == (1, 4, 16, 8)


def test_runs_cost_what_is_said_and_do_not_depend_on_each_other(pipe: Any) -> None:
    rows = 0

    def count(module: Any, args: Any) -> None:
        nonlocal rows
        rows += len(args[0])

    hook = pipe.unet.register_forward_pre_hook(count)
    try:
        together = drawn(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    finally:
        hook.remove()
    assert rows == evaluations(ROUTES, 4, 3.0) == 4 * (2 + 1 + 2)
    for row, route in enumerate(ROUTES):
        alone = drawn(Denoiser(pipe), [route], steps=4, guidance=3.0)
        torch.testing.assert_close(together.finals[row], alone.finals[0], rtol=1e-4, atol=1e-4)


# --- purification ----------------------------------------------------------------------------


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))


def calm(family: str) -> Any:
    """A pipeline whose predictions turn slowly, as a trained model's do and a random one's do not.

    Only there does the fixed-point iteration contract.
    """
    pipe = made(family)
    pipe.unet.conv_out.weight.data *= 0.02
    return pipe


def an_edit(pipe: Any, size: float) -> Edit:
    """Moves the value projections of the cross-attention by noise of a size."""
    rng = torch.Generator().manual_seed(0)
    names = [n for n, _ in pipe.unet.named_parameters() if n.endswith("attn2.to_v.weight")]
    changes = tuple(
        Full(f"unet.{n}", size * torch.randn(parameter(pipe, f"unet.{n}").shape, generator=rng))
        for n in names
    )
    return Edit.of(
        pipe,
        base_model="tiny",
        method="esd-x",
        requests=(Erase("a dog"),),
        config={},
        changes=changes,
    )


@pytest.mark.parametrize(("family", "guidance"), [("sd1", 1.0), ("sd1", 2.0), ("sd2", 1.0)])
def test_an_edit_of_nothing_gives_the_image_back(family: str, guidance: float) -> None:
    pipe = calm(family)
    before = tiny.weights(pipe)
    how = Inversion("a dog", steps=20, guidance=guidance, iterations=15)
    found = purify(pipe, an_edit(pipe, 0.0), picture(), how)
    assert found.missed < 1e-3
    assert found.image.size == (32, 32)
    assert found.image.tobytes() == found.reconstruction.tobytes()
    with torch.no_grad():
        fitted = picture().resize((32, 32), Image.Resampling.LANCZOS, box=(10, 0, 50, 40))
        kept = np.asarray(decoded(pipe, encoded(pipe, fitted)))
    assert np.abs(kept.astype(int) - np.asarray(found.image).astype(int)).max() <= 2
    assert tiny.identical(tiny.weights(pipe), before)


def test_an_edit_changes_the_image_and_says_what_was_missed() -> None:
    pipe = calm("sd1")
    before = tiny.weights(pipe)
    how = Inversion("a dog", steps=20, guidance=2.0, iterations=15)
    found = purify(pipe, an_edit(pipe, 1.0), picture(), how)
    assert found.image.tobytes() != found.reconstruction.tobytes()
    assert tiny.identical(tiny.weights(pipe), before)
    plain = purify(pipe, an_edit(pipe, 1.0), picture(), Inversion("a dog", 20, 2.0, 1))
    # Plain DDIM inversion is an approximation.
    assert plain.missed > 10 * found.missed


def test_inversion_undoes_a_run() -> None:
    denoiser = Denoiser(calm("sd1"))
    noise = torch.randn((2, *denoiser.shape), generator=torch.Generator().manual_seed(1))
    how = Inversion("a dog", steps=20, iterations=20)
    with torch.no_grad():
        back = inverted(denoiser, regenerated(denoiser, noise, how), how)
    assert (back - noise).norm() < 1e-2 * noise.norm()


def test_what_cannot_be_purified_is_said(pipe: Any) -> None:
    other = made("sd1")
    other.unet.conv_in.weight.data *= 2
    with pytest.raises(InputError, match="base"):
        purify(other, an_edit(pipe, 1.0), picture(), Inversion("a dog", 2))
    with pytest.raises(InputError, match="guidance"):
        Inversion("a dog", guidance=-1.0)
