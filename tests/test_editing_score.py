"""Tests of the score family's objective and methods, on tiny random models."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch

from editing.edit import Edit
from editing.edit.deltas import Full
from editing.methods.score import ScoreMethod, trained_names
from editing.methods.score.all_but_one import ALL_BUT_ONE
from editing.methods.score.concept_ablation import CONCEPT_ABLATION
from editing.methods.score.esd import ESD_U, ESD_X, ESD_X_STRICT
from editing.methods.score.objective import Scores, guidance_goal, paper_eta
from editing.methods.score.points import Task, draw_point
from editing.methods.score.sampled_objective import Objective
from editing.methods.score.settings import ScoreConfig
from editing.methods.score.trajectories import Drawn, ddim, draw
from editing.pipelines.denoiser import Denoiser
from editing.pipelines.weights import parameter
from editing.requests import Debias, Erase, Moderate, Preserve, Replace, Request
from editing.training import Cost, Plan, Stepped, generator, train
from visdiff.errors import InputError

METHODS = [ESD_X, ESD_U, ESD_X_STRICT, CONCEPT_ABLATION, ALL_BUT_ONE]
QUICK: dict[str, Any] = {"runs": 2, "run_steps": 5, "steps": 3, "batch": 2, "lr": 1e-3}


def quick(**more: Any) -> dict[str, Any]:
    return QUICK | more


def make_pipeline(family: str) -> Any:
    """Returns a tiny pipeline, the same in every run; torch initialises its biases randomly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(tiny, family)()


@pytest.fixture(scope="module")
def pipe() -> Any:
    return make_pipeline("sd1")


@pytest.fixture(scope="module")
def xl() -> Any:
    return make_pipeline("sdxl")


@pytest.fixture(scope="module")
def sd2() -> Any:
    return make_pipeline("sd2")


def objective(pipe: Any, requests: Sequence[Request], config: ScoreConfig) -> Objective:
    denoiser = Denoiser(pipe)
    task = Task.of(requests, config)
    return _objective(denoiser, task, config)


def _objective(denoiser: Denoiser, task: Task, config: ScoreConfig) -> Objective:
    runs = draw(
        denoiser,
        ddim(denoiser.pipe.scheduler),
        task.routes,
        steps=config.run_steps,
        guidance=config.run_guidance,
    )
    return Objective(denoiser, task, runs, config)


def start(pipe: Any, group: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter(pipe, name).detach().clone().requires_grad_()
        for name in trained_names(pipe, group)
    }


def gradients(
    found: Objective, weights: Mapping[str, torch.Tensor], seeds: Sequence[int] = (0, 1, 2)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the losses, and the gradient of their mean as one vector."""
    total = found.loss()(weights, [generator(7, s) for s in seeds]).total
    pieces = torch.autograd.grad(total.mean(), list(weights.values()))
    return total.detach(), torch.cat([p.flatten() for p in pieces])


def is_near(ours: torch.Tensor, theirs: torch.Tensor, share: float = 1e-4) -> bool:
    """Whether two vectors agree, relative to the norm of the second."""
    return bool((ours - theirs).norm() <= share * theirs.norm())


# --- the objective ---------------------------------------------------------------------------


def test_the_gradient_vanishes_if_the_target_is_the_concept_itself(pipe: Any) -> None:
    config = ALL_BUT_ONE.config.changed(runs=2, run_steps=5, weights="all")
    requests = [Replace("a dog", "a cat")]
    task = Task.of(requests, config)
    same = Task(task.changes, ("a dog",), task.templates, (), task.routes, task.pools)
    denoiser = Denoiser(pipe)
    weights = start(pipe, "all")
    _, nothing = gradients(_objective(denoiser, same, config), weights)
    _, something = gradients(_objective(denoiser, task, config), weights)
    assert nothing.norm() < 1e-4 * something.norm()


def test_esd_is_the_published_loss(pipe: Any) -> None:
    """A direct implementation of the paper on a second UNet gives the same loss and gradient."""
    config = ESD_X.config.changed(runs=2, run_steps=5, eta=1.7)
    found = objective(pipe, [Erase("a dog")], config)
    weights = {
        name: (value.detach() * 1.1).requires_grad_()
        for name, value in start(pipe, "attn2").items()
    }
    losses, ours = gradients(found, weights)

    trained = copy.deepcopy(pipe.unet)
    for name, value in weights.items():
        trained.get_parameter(name.removeprefix("unet.")).data.copy_(value)
    c = pipe.encode_prompt("a dog", "cpu", 1, True, "")
    theirs = []
    for seed in (0, 1, 2):
        rng = generator(7, seed)
        point = draw_point(found._task, config, rng)
        x = found._runs.inputs[point.run, point.step][None]
        t = found._runs.timesteps[point.step]
        with torch.no_grad():
            concept, null = (pipe.unet(x, t, e).sample for e in c)
        goal = null - 1.7 * (concept - null)
        theirs.append(torch.nn.functional.mse_loss(trained(x, t, c[0]).sample, goal))
    assert is_near(losses, torch.stack(theirs).detach())
    torch.stack(theirs).mean().backward()
    wanted = [trained.get_parameter(n.removeprefix("unet.")).grad for n in weights]
    assert is_near(ours, torch.cat([g.flatten() for g in wanted if g is not None]), 1e-3)


@pytest.mark.parametrize(
    ("settings", "negative"), [({}, ""), ({"null_encoding": "pipeline"}, None)]
)
def test_esd_for_sdxl_guides_away_from_the_encoded_empty_prompt(
    xl: Any, settings: Any, negative: str | None
) -> None:
    """A direct implementation of `esd_sdxl.py` gives the same loss and gradient.

    Zeros, which the configuration of SDXL specifies for guidance, are a setting.
    """
    config = ESD_X.configure(xl, {"runs": 2, "run_steps": 5, "eta": 0.7, **settings})
    found = objective(xl, [Erase("a dog")], config)
    weights = {
        name: (value.detach() * 1.1).requires_grad_() for name, value in start(xl, "attn2").items()
    }
    losses, ours = gradients(found, weights)

    trained = copy.deepcopy(xl.unet)
    for name, value in weights.items():
        trained.get_parameter(name.removeprefix("unet.")).data.copy_(value)
    c, empty, pooled, empty_pooled = xl.encode_prompt(
        "a dog", device="cpu", do_classifier_free_guidance=True, negative_prompt=negative
    )
    assert bool(empty.any()) is (negative == "")
    size = (xl.unet.config.sample_size * xl.vae_scale_factor,) * 2
    times = xl._get_add_time_ids(
        size, (0, 0), size, c.dtype, xl.text_encoder_2.config.projection_dim
    )
    theirs = []
    for seed in (0, 1, 2):
        rng = generator(7, seed)
        point = draw_point(found._task, config, rng)
        x, t = found._runs.inputs[point.run, point.step][None], found._runs.timesteps[point.step]

        def predict(unet: Any, states: Any, text: Any, x: Any = x, t: Any = t) -> torch.Tensor:
            more = {"text_embeds": text, "time_ids": times}
            return unet(x, t, states, added_cond_kwargs=more).sample

        with torch.no_grad():
            concept, null = predict(xl.unet, c, pooled), predict(xl.unet, empty, empty_pooled)
        goal = concept - 1.7 * (concept - null)  # η of the code is that of the paper plus one
        theirs.append(torch.nn.functional.mse_loss(predict(trained, c, pooled), goal))
    assert is_near(losses, torch.stack(theirs).detach())
    torch.stack(theirs).mean().backward()
    wanted = [trained.get_parameter(n.removeprefix("unet.")).grad for n in weights]
    assert is_near(ours, torch.cat([g.flatten() for g in wanted if g is not None]), 1e-3)


def test_concept_ablation_is_the_published_loss(pipe: Any) -> None:
    """Noised images of the anchor; the goal is the trained model's own, without gradient."""
    config = CONCEPT_ABLATION.config.changed(runs=2, run_steps=5)
    found = objective(pipe, [Replace("a dog", "a cat")], config)
    weights = {
        name: (value.detach() * 1.1).requires_grad_()
        for name, value in start(pipe, "attn2-kv").items()
    }
    losses, ours = gradients(found, weights)
    trained = copy.deepcopy(pipe.unet)
    for name, value in weights.items():
        trained.get_parameter(name.removeprefix("unet.")).data.copy_(value)
    concept = pipe.encode_prompt("a dog", "cpu", 1, False)[0]
    anchor = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    theirs = []
    for seed in (0, 1, 2):
        rng = generator(7, seed)
        final = found._runs.finals[draw_point(found._task, config, rng).run][None]
        t = torch.randint(1000, (1,), generator=rng)
        noise = torch.randn(final.shape[1:], generator=rng)[None]
        kept = pipe.scheduler.alphas_cumprod[t]
        x = kept.sqrt() * final + (1 - kept).sqrt() * noise
        goal = trained(x, t, anchor).sample.detach()
        theirs.append(torch.nn.functional.mse_loss(trained(x, t, concept).sample, goal))
    assert is_near(losses, torch.stack(theirs).detach())
    torch.stack(theirs).mean().backward()
    wanted = [trained.get_parameter(n.removeprefix("unet.")).grad for n in weights]
    assert is_near(ours, torch.cat([g.flatten() for g in wanted if g is not None]), 1e-3)


def test_esd_is_all_but_one_without_the_null_term(pipe: Any) -> None:
    """With a negated goal and λ_u = 0 they agree at all weights if N is the frozen model's.

    If N is the trained model's without gradient, they agree at the initial weights.
    """
    requests = [Erase("a dog")]
    own = {"runs": 2, "run_steps": 5, "weights": "attn2", "eta": 1.3}
    esd = objective(pipe, requests, ESD_X.config.changed(**own))
    bare = {"aim": "negate", "null_weight": 0.0, "concept_share": 1.0, "target_share": 0.0}
    config = ALL_BUT_ONE.config.changed(**own, **bare, null_share=0.0)
    frozen = objective(pipe, requests, config.changed(reference="frozen"))
    detached = objective(pipe, requests, config)
    live = objective(pipe, requests, config.changed(reference="live"))
    there = start(pipe, "attn2")
    away = {n: (v.detach() * 1.2).requires_grad_() for n, v in there.items()}
    for weights in (there, away):
        for left, right in zip(gradients(esd, weights), gradients(frozen, weights), strict=True):
            assert is_near(left, right)
    loss, gradient = gradients(esd, there)
    for other in (detached, live):
        assert is_near(gradients(other, there)[0], loss)
    assert is_near(gradients(detached, there)[1], gradient, 1e-3)
    # With gradient through N the null is trained too, which is another method.
    assert not is_near(gradients(live, there)[1], gradient, 0.05)
    assert not is_near(gradients(detached, away)[1], gradients(esd, away)[1], 0.01)


def test_the_two_conventions_of_eta_agree() -> None:
    rng = torch.Generator().manual_seed(0)
    concept, null = torch.randn(2, 3, 4, 8, 8, generator=rng)
    frozen = Scores(concept=concept, null=null)
    for code in (0.0, 1.0, 2.0, 3.5):
        theirs = concept - code * (concept - null)
        ours = null + guidance_goal("negate", frozen, paper_eta(code, "code"))
        torch.testing.assert_close(ours, theirs)
    assert paper_eta(2.0, "code") == paper_eta(1.0, "paper") == 1.0
    # The current default for SDXL removes the guidance term, and does not negate it.
    assert torch.equal(
        guidance_goal("negate", frozen, paper_eta(1.0, "code")) + 0.0, guidance_goal("zero", frozen)
    )


@pytest.mark.slow
def test_the_null_drifts_less_than_with_esd(pipe: Any) -> None:
    """At equal surgical loss, All-but-One's unconditional score drifts a fifth as far."""
    requests = [Erase("a dog")]
    own = {"runs": 1, "run_steps": 2, "weights": "not-attn2", "aim": "negate", "eta": 0.5}
    held = {"concept_share": 1.0, "target_share": 0.0, "null_share": 0.0, "null_weight": 10.0}
    plan = Plan(steps=150, lr=1e-3, batch=2, micro_batch=2)
    weights = {n: v.detach() for n, v in start(pipe, "not-attn2").items()}

    def history(config: ScoreConfig) -> list[Any]:
        found = objective(pipe, requests, config).loss(all_parts=True)
        events: list[Any] = []
        # The same points in every step, so that changes of the loss are due to training.
        train(
            weights,
            lambda trained, _: found(trained, [generator(7, 0), generator(7, 1)]),
            plan,
            on_event=events.append,
        )
        return [event.parts for event in events if isinstance(event, Stepped)]

    esd = history(ESD_U.config.changed(**own))
    ours = history(ALL_BUT_ONE.config.changed(**own, **held))
    mine = min(ours, key=lambda part: part["surgical"])
    assert mine["surgical"] < 0.5 * ours[0]["surgical"]
    theirs = next(part for part in esd if part["surgical"] <= mine["surgical"])
    assert mine["null"] < 0.2 * theirs["null"], (mine, theirs)


@pytest.mark.slow
def test_at_zero_loss_every_guidance_scale_predicts_the_alternative(pipe: Any) -> None:
    config = ALL_BUT_ONE.config.changed(
        weights="all", runs=1, run_steps=1, concept_share=1, target_share=0, null_share=0
    )
    found = objective(pipe, [Replace("a dog", "a firefighter on grass")], config)
    first = {n: v.detach() for n, v in start(pipe, "all").items()}
    weights = train(first, found.loss(), Plan(steps=300, lr=1e-3, schedule="cosine"))
    denoiser = Denoiser(pipe)
    x, t = found._runs.inputs[0, 0], found._runs.timesteps[0]
    texts = denoiser.encode(["a dog", "a firefighter on grass", ""])
    thrice = x.repeat(3, 1, 1, 1), t.repeat(3)
    edited = denoiser.predict(*thrice, texts, weights).detach()
    frozen = denoiser.predict(*thrice, texts)
    for scale in (0.0, 1.0, 3.0, 7.5, 15.0):
        ours = edited[2] + scale * (edited[0] - edited[2])
        theirs = frozen[2] + scale * (frozen[1] - frozen[2])
        before = frozen[2] + scale * (frozen[0] - frozen[2])
        missed = (ours - theirs).norm()
        assert missed < 0.05 * theirs.norm()
        if scale > 0:
            assert missed < 0.05 * (before - theirs).norm()


# --- the methods -----------------------------------------------------------------------------


def test_parameter_groups_contain_the_named_layers(pipe: Any, xl: Any) -> None:
    def names(pipe: Any, group: Any) -> set[str]:
        return set(trained_names(pipe, group))

    for one in (pipe, xl):
        layers = {
            f"unet.{name}.{own}"
            for name, module in one.unet.named_modules()
            if type(module).__name__ in ("Linear", "Conv2d")
            for own, _ in module.named_parameters()
        }
        crossed = {n for n in layers if ".attn2." in n}
        assert names(one, "attn2") == crossed
        assert names(one, "attn2-kv") == {
            n for n in crossed if n.endswith(("to_k.weight", "to_v.weight"))
        }
        assert {n.split(".")[-2] for n in names(one, "attn2")} == {"to_q", "to_k", "to_v", "0"}
        rest = names(one, "not-attn2")
        assert rest <= layers - crossed
        assert rest | crossed == names(one, "all")
        dropped = layers - names(one, "all")
        assert dropped == (
            {n for n in layers if "emb" in n or "block" not in n} if one is xl else set()
        )
    assert {m.name: m.config.weights for m in METHODS} == {
        "esd-x": "attn2",
        "esd-u": "not-attn2",
        "esd-x-strict": "attn2-kv",
        "concept-ablation": "attn2-kv",
        "all-but-one": "attn2",
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("family", ["pipe", "sd2", "xl"])
def test_every_method_trains_every_family_without_changing_the_pipeline(
    method: ScoreMethod, family: str, request: Any
) -> None:
    pipe = request.getfixturevalue(family)
    before = tiny.weights(pipe)
    wanted = {n: p.requires_grad for n, p in pipe.unet.named_parameters()}
    target = "" if method.config.aim == "negate" else "a cat"
    requests: list[Request] = [Erase("a dog", target), Moderate("a bomb")]
    requests += [Preserve(["a castle", "a house"])] * method.preserves
    events: list[Any] = []
    edit = method.fit(pipe, requests, on_event=events.append, **QUICK)
    assert tiny.identical(tiny.weights(pipe), before)
    assert all(p.grad is None for p in pipe.unet.parameters())
    assert {n: p.requires_grad for n, p in pipe.unet.named_parameters()} == wanted
    assert set(edit.tensors) == set(trained_names(pipe, method.config.weights))
    assert edit.method == method.name
    assert edit.config["weights"] == method.config.weights
    assert isinstance(events[0], Cost)
    assert sum(isinstance(e, Stepped) for e in events) == QUICK["steps"]
    with edit.applied(pipe):
        changed = {n for n, v in tiny.weights(pipe).items() if not torch.equal(v, before[n])}
    assert changed
    assert changed <= set(edit.tensors)


def test_the_reported_cost_equals_the_number_of_evaluations(pipe: Any) -> None:
    calls = {"rows": 0}

    def count(module: Any, args: Any) -> None:
        calls["rows"] += len(args[0])

    events: list[Any] = []
    handle = pipe.unet.register_forward_pre_hook(count)
    try:
        with pytest.raises(InterruptedError):
            # Stops before the diagnostics at the end, which the cost does not include.
            ALL_BUT_ONE.fit(
                pipe,
                [Replace("a dog", "a cat"), Preserve("a house")],
                on_event=_stop_at(events, 3),
                **QUICK,
            )
    finally:
        handle.remove()
    assert calls["rows"] == events[0].drawing + events[0].forward
    assert events[0].backward == 3 * QUICK["steps"] * QUICK["batch"]


def _stop_at(events: list[Any], at: int) -> Any:
    def on_event(event: Any) -> None:
        events.append(event)
        if isinstance(event, Stepped) and event.done == at:
            raise InterruptedError

    return on_event


def test_a_resumed_fit_equals_an_uninterrupted_one(pipe: Any, tmp_path: Path) -> None:
    requests = [Replace("a dog", "a cat"), Preserve("a house")]
    own: dict[str, Any] = quick(steps=6, schedule="cosine", warmup=1, clip=0.5)
    whole = ALL_BUT_ONE.fit(pipe, requests, **own)
    file = tmp_path / "state.safetensors"
    with pytest.raises(InterruptedError):
        ALL_BUT_ONE.fit(
            pipe, requests, checkpoint=file, save_every=3, on_event=_stop_at([], 4), **own
        )
    events: list[Any] = []
    again = copy.deepcopy(pipe)
    resumed = ALL_BUT_ONE.fit(again, requests, checkpoint=file, on_event=events.append, **own)
    assert sum(isinstance(e, Stepped) for e in events) == 3
    assert resumed.digest == whole.digest
    assert resumed.diagnostics == whole.diagnostics
    with pytest.raises(InputError, match="of another"):
        ALL_BUT_ONE.fit(pipe, requests[:1], checkpoint=file, **own)
    with pytest.raises(InputError, match="of another"):
        ALL_BUT_ONE.fit(pipe, requests, checkpoint=file, **{**own, "seed": 1})


def test_a_checkpoint_can_be_trained_for_more_steps(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    requests = [Erase("a dog")]
    ESD_X.fit(pipe, requests, checkpoint=file, **quick(steps=2))
    more = ESD_X.fit(pipe, requests, checkpoint=file, **quick(steps=4))
    assert more.digest == ESD_X.fit(pipe, requests, **quick(steps=4)).digest
    with pytest.raises(InputError, match="more steps"):
        ESD_X.fit(pipe, requests, checkpoint=file, **quick(steps=3))


def test_the_micro_batch_size_does_not_change_the_result(pipe: Any) -> None:
    requests = [Replace("a dog", "a cat")]
    fits = [
        ALL_BUT_ONE.fit(pipe, requests, **quick(batch=5, micro_batch=m, lr=1e-4)) for m in (1, 2, 5)
    ]
    whole = _vector(fits[-1])
    for fit in fits[:-1]:
        # Adam's first steps divide by the gradient's norm, which amplifies rounding errors.
        assert (_vector(fit) - whole).norm() < 0.02 * whole.norm()


def _vector(edit: Edit) -> torch.Tensor:
    return torch.cat([c.difference.flatten() for c in edit.changes if isinstance(c, Full)])


def test_stored_runs_equal_computed_runs(pipe: Any, tmp_path: Path) -> None:
    events: list[Any] = []
    first = ESD_X.fit(pipe, [Erase("a dog")], runs_in=tmp_path, **QUICK)
    second = ESD_X.fit(pipe, [Erase("a dog")], runs_in=tmp_path, on_event=events.append, **QUICK)
    assert first.digest == second.digest == ESD_X.fit(pipe, [Erase("a dog")], **QUICK).digest
    assert not any(isinstance(e, Drawn) for e in events)
    other = make_pipeline("sd1")
    other.unet.conv_in.weight.data *= 1.01
    ESD_X.fit(other, [Erase("a dog")], runs_in=tmp_path, on_event=events.append, **QUICK)
    assert any(isinstance(e, Drawn) for e in events)


def test_bfloat16_weights_are_trained_in_float32(pipe: Any) -> None:
    half = make_pipeline("sd1")
    half.to(torch.bfloat16)
    edit = ESD_X.fit(half, [Erase("a dog")], **quick(lr=1e-5))
    moved = _vector(edit)
    assert moved.dtype == torch.float32
    base = torch.cat([parameter(half, n).detach().flatten() for n in edit.tensors])
    # Too small to be added to most of these weights in bfloat16, but present.
    assert 0 < moved.abs().max() < 2**-9 * base.float().abs().mean()
    assert next(half.unet.parameters()).dtype == torch.bfloat16


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "requests", "settings", "message"),
    [
        (ESD_X, [Replace("a dog", "a cat")], {}, "no target for esd-x"),
        (ESD_X, [Erase("a dog"), Preserve("a cat")], {}, "no preserve term"),
        (ALL_BUT_ONE, [Debias("judge", {"man": 0.5, "woman": 0.5})], {}, "use uce"),
        (ALL_BUT_ONE, [Erase("a dog", "a cat")], {"aim": "zero"}, "Expected no target"),
        (ESD_U, [Erase("a dog")], {"weights": "attn2"}, "Expected weights as esd-u defines it"),
        (ESD_U, [Erase("a dog")], {"stepz": 3}, "did you mean 'steps'"),
        (ESD_U, [Erase("a dog")], {"lr": -1.0}, "got lr"),
        (ESD_U, [Erase("a dog")], {"height": 33}, "divisible by 8"),
        (ESD_U, [Erase("a dog")], {"lr": 1e30, "steps": 5}, "finite loss"),
    ],
)
def test_invalid_requests_and_settings_are_errors(
    pipe: Any, method: ScoreMethod, requests: Any, settings: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        method.fit(pipe, requests, **quick(**settings))


def test_float16_is_an_error() -> None:
    half = make_pipeline("sd1")
    half.to(torch.float16)
    with pytest.raises(InputError, match="bfloat16"):
        ESD_X.fit(half, [Erase("a dog")], **QUICK)


def test_a_damaged_checkpoint_is_an_error(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    file.write_bytes(b"no tensors here")
    with pytest.raises(InputError, match="delete it"):
        ESD_X.fit(pipe, [Erase("a dog")], checkpoint=file, **QUICK)
    assert file.read_bytes() == b"no tensors here"
