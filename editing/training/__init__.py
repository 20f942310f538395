"""The training loop of all gradient methods: an optimizer on float32 copies of selected weights.

The caller chooses the weights and the loss. The loop guarantees the following for any of them.

- The given tensors are not modified. Float32 copies are trained, because an update of Adam is often
  too small to be added to a bfloat16 weight.
- Sample i of step s depends on ``(seed, s, i)`` only. Splitting a batch into micro-batches or among
  processes changes the result by rounding at most. A resumed run is bitwise identical to an
  uninterrupted one, with any optimizer, schedule, average and loss scale.
- A tensor that the loss of a step does not read is not changed by that step.
- The loop does not print or log; progress is reported to a callback.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from editing.training.estimates import estimate
from editing.training.events import (
    Cost,
    Estimate,
    OnEvent,
    Sampled,
    Saved,
    Skipped,
    Started,
    Stepped,
    Validated,
)
from editing.training.gradients import Substituted, accumulate
from editing.training.losses import Loss, Losses, Tensor, Weights, generator, mean_losses
from editing.training.observers import Observer, observe
from editing.training.plan import Group, Plan
from editing.training.processes import Processes
from editing.training.run import Run
from editing.training.state import load, save
from visdiff.errors import InputError

__all__ = [
    "Cost",
    "Estimate",
    "Group",
    "Loss",
    "Losses",
    "Observer",
    "OnEvent",
    "Plan",
    "Sampled",
    "Saved",
    "Skipped",
    "Started",
    "Stepped",
    "Substituted",
    "Tensor",
    "Validated",
    "Weights",
    "estimate",
    "generator",
    "mean_losses",
    "train",
]


def train(
    weights: Weights,
    loss: Loss,
    plan: Plan,
    *,
    on_event: OnEvent | None = None,
    checkpoint: Path | None = None,
    about: str = "",
    observers: Sequence[Observer] = (),
    substituted: Substituted | None = None,
) -> dict[str, Tensor]:
    """Trains copies of weights.

    Args:
        weights: Name → initial value, of any floating dtype, all on one device.
        loss: Loss to minimise; it receives float32 tensors.
        plan: Hyperparameters.
        on_event: Called with each event.
        checkpoint: Safetensors file of the state, written atomically every ``plan.save_every``
            steps and at the end. If it exists, training resumes from it, with the same bits as
            without an interruption.
        about: Anything else that must match for resuming (a hash of the base and the settings).
        observers: Called before the first step of a run that starts anew, after every so many
            steps, and after the last. They do not change the result.
        substituted: (Trained weights) → a context that is held over the forward and the backward
            pass of each micro-batch. A model that is not called with the weights, but changed to
            use them, needs it for gradient checkpointing, which runs the model in the backward
            pass.

    Returns:
        Name → trained weights, float32; their moving average if the plan has an ``ema``.

    Raises:
        InputError: There is nothing to train, a package is missing, the checkpoint belongs to
            another run or has more steps or cannot be written, or the loss or a gradient is not
            finite.
    """
    if not weights:
        raise InputError("Expected at least one tensor to train, got none; add weights.")
    report: OnEvent = on_event or (lambda event: None)
    run = Run(weights, plan)
    identity = {"about": about, **plan.identity()}
    done = 0
    if checkpoint is not None and checkpoint.is_file():
        stored, state, done = load(checkpoint, run.weights, identity)
        if done > plan.steps:
            raise InputError(
                f"Expected a checkpoint of at most {plan.steps} steps, got {checkpoint} with "
                f"{done}; train for more steps, or name another file."
            )
        run.restore(stored, state)
    processes = Processes()
    # The others wait for the first at the next sum of the gradients.
    observers = observers if processes.first else ()
    report(Started(done, plan.steps))
    if done == 0:
        observe(observers, 0, plan.steps, run.average, report)
    for step in range(done, plan.steps):
        started = time.perf_counter()
        means = accumulate(run.weights, loss, plan, step, processes, run.scaler, substituted)
        norm, skipped = run.update(step, means)
        done = step + 1
        seconds = time.perf_counter() - started
        if skipped:
            report(Skipped(done, run.skipped, run.scaler.get_scale()))
        parts = {name: mean for name, mean in means.items() if name}
        report(Stepped(done, plan.steps, means[""], parts, norm, plan.rate(step), seconds))
        # Before the checkpoint, so that a resumed run lacks no observation.
        observe(observers, done, plan.steps, run.average, report)
        if checkpoint is not None and (done % plan.save_every == 0 or done == plan.steps):
            if processes.first:
                save(checkpoint, run.weights, run.state(), identity, done)
            report(Saved(done, checkpoint))
    return run.average.values()
