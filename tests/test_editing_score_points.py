"""Training points: what a run of the frozen model gives."""

from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch

from editing.methods.score.trajectories import Route, ddim, draw, evaluations, load_or_draw
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.sampling import Settings
from editing.pipelines.sampling import draw as images

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
    found = load_or_draw(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    assert found.inputs.shape == (3, 4, 4, 8, 8)
    assert found.timesteps.tolist() == sorted(found.timesteps.tolist(), reverse=True)
    settings = Settings(steps=4, guidance=3.0, scheduler="DDIM")
    wanted = images(pipe, ["a dog", "a church on sand"], [3, 5], settings=settings)
    for row, picture in zip((0, 2), wanted, strict=True):
        with torch.no_grad():
            latents = found.finals[row : row + 1] / pipe.vae.config.scaling_factor
            pixels = pipe.vae.decode(latents, return_dict=False)[0]
        ours = np.asarray(pipe.image_processor.postprocess(pixels, output_type="pil")[0])
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
    found = load_or_draw(Denoiser(pipe, 64, 32), ROUTES[:1], steps=2, guidance=1.0)
    assert found.finals.shape == (1, 4, 16, 8)


def test_runs_cost_what_is_said_and_do_not_depend_on_each_other(pipe: Any) -> None:
    rows = 0

    def count(module: Any, args: Any) -> None:
        nonlocal rows
        rows += len(args[0])

    hook = pipe.unet.register_forward_pre_hook(count)
    try:
        together = load_or_draw(Denoiser(pipe), ROUTES, steps=4, guidance=3.0)
    finally:
        hook.remove()
    assert rows == evaluations(ROUTES, 4, 3.0) == 4 * (2 + 1 + 2)
    for row, route in enumerate(ROUTES):
        alone = load_or_draw(Denoiser(pipe), [route], steps=4, guidance=3.0)
        torch.testing.assert_close(together.finals[row], alone.finals[0], rtol=1e-4, atol=1e-4)
