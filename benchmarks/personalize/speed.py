"""Time of a training step relative to the bare one, and to that of diffusers' scripts.

- bare: forward pass, backward pass and optimizer on inputs in memory, with the same trained tensors
  in the same modules. Everything else that a step does is the overhead.
- diffusers: `train_dreambooth.py` and `train_dreambooth_lora.py` on the same pipeline, images and
  settings (`--scripts FOLDER`, see the README).

The two sides of a comparison are two processes that take turns after every step, so that other load
on the machine affects both alike. A step lasts from the end of one call of the optimizer to the end
of the next; the median is reported, and its CPU time for one thread.
"""

import argparse
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook

from editing.personalize import find, names
from editing.personalize.subject import Subject
from editing.personalize.trained import Trained
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings, draw
from editing.pipelines.substitute import without_gradients
from visdiff.miniature import folder as model_folder
from visdiff.torchvision_compat import ensure_torchvision

NOUN, IDENTIFIER = "dog", "olis"
INSTANCE, CLASS = f"a {IDENTIFIER} {NOUN}", f"a {NOUN}"
SCRIPTS = {"dreambooth": "train_dreambooth", "lora": "train_dreambooth_lora"}
RATE, DECAY, CLIP, RANK, SIZE = 1e-4, 1e-2, 1.0, 8, 64
WARM_UP = 12
"""Steps that are not counted: in them, most images are encoded for the first time."""

LIMITS = {"bare": 1.10, "diffusers": 1.3}


class Step(NamedTuple):
    """The duration of a step in seconds."""

    cpu: float
    wall: float


class Side:
    """A process that trains, one step a turn.

    Args:
        arguments: Arguments of this script that start it.
        log: File of its messages.
    """

    def __init__(self, arguments: Sequence[str], log: IO[bytes]) -> None:
        self._log, self._begun = log, False
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip

    def step(self) -> Step:
        """Lets the process compute until the end of its next step."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._begun:
            print("go", file=self._process.stdin, flush=True)
        self._begun = True
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A training ended early; see {self._log.name}.")
        return Step(*json.loads(line))

    def close(self) -> None:
        """Ends the process, which has more steps to do."""
        self._process.kill()
        self._process.communicate()


def take_turns() -> None:
    """Makes this process report after each step, and wait for a line on its input."""
    reports = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = [_now()]

    def report(*_: Any) -> None:
        now, last = _now(), started[0]
        print(json.dumps([now.cpu - last.cpu, now.wall - last.wall]), file=reports, flush=True)
        sys.stdin.readline()
        started[0] = _now()

    register_optimizer_step_post_hook(report)


def _now() -> Step:
    return Step(time.process_time(), time.perf_counter())


def ours(data: Path, method: str, prior: str, steps: int) -> None:
    """Trains as `editing.personalize` does."""
    settings: dict[str, Any] = {"rank": RANK} if method == "lora" else {}
    find(method).fit(
        load_pipeline("miniature"),
        Subject.open(data / "instance", IDENTIFIER, NOUN),
        prior=data / "class" if prior == "images" else "none",
        steps=steps, lr=RATE, weight_decay=DECAY, clip=CLIP, batch=1, **settings,
    )  # fmt: skip


def theirs(data: Path, method: str, prior: str, steps: int, scripts: Path) -> None:
    """Trains with a script of diffusers."""
    ensure_torchvision()
    script = scripts / f"{SCRIPTS[method]}.py"
    options: dict[str, Any] = {
        "pretrained_model_name_or_path": model_folder("diffusion"),
        "instance_data_dir": data / "instance",
        "instance_prompt": INSTANCE,
        "resolution": SIZE,
        "train_batch_size": 1,
        "max_train_steps": steps,
        "learning_rate": RATE,
        "adam_weight_decay": DECAY,
        "max_grad_norm": CLIP,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "checkpointing_steps": steps + 1,
        "mixed_precision": "no",
        "seed": 0,
        "output_dir": data / "out",
        "logging_dir": data / "logs",
    }
    if method == "lora":
        options["rank"] = RANK
    flags = []
    if prior == "images":
        flags = ["--with_prior_preservation"]
        options |= {
            "class_data_dir": data / "class",
            "class_prompt": CLASS,
            "num_class_images": len(list((data / "class").iterdir())),
        }
    sys.argv = [str(script), *(f"--{name}={value}" for name, value in options.items()), *flags]
    runpy.run_path(str(script), run_name="__main__")


def bare(data: Path, method: str, prior: str, steps: int) -> None:
    """Repeats the forward pass, the backward pass and the optimizer on one batch in memory."""
    pipe: Any = load_pipeline("miniature")
    personalizer = find(method)
    settings = {"rank": RANK} if method == "lora" else {}
    config = personalizer.configure(pipe, settings)
    token = f"<{IDENTIFIER}>" if config.new_token else IDENTIFIER
    subject = Subject.open(data / "instance", token, NOUN)
    with without_gradients(pipe):
        trained = personalizer.trained(pipe, [subject], config)
        with trained.installed():
            texts = [subject.phrase, *([CLASS] if prior == "images" else [])]
            _repeat(pipe, trained, texts, steps)


def _repeat(pipe: Any, trained: Trained, texts: Sequence[str], steps: int) -> None:
    weights = {n: v.detach().clone().requires_grad_() for n, v in trained.initial.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY, fused=True)
    ids = pipe.tokenizer(
        list(texts), padding="max_length", max_length=pipe.tokenizer.model_max_length,
        truncation=True, return_tensors="pt",
    ).input_ids  # fmt: skip
    side = SIZE // pipe.vae_scale_factor
    noisy, noise = torch.randn(2, len(texts), pipe.unet.config.in_channels, side, side)
    timesteps = torch.randint(1000, (len(texts),))
    with torch.no_grad(), trained.substituted(weights):
        states = pipe.text_encoder(ids)[0]

    def loss() -> torch.Tensor:
        known = states
        if trained.tokens:
            # Only the prompt of the subject has the new token.
            known = torch.cat([pipe.text_encoder(ids[:1])[0], states[1:]])
        predicted = pipe.unet(noisy, timesteps, known, return_dict=False)[0]
        parts = [(p - n).square().mean() for p, n in zip(predicted, noise, strict=True)]
        return torch.stack(parts).sum()

    for _ in range(steps):
        with trained.substituted(weights):
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()


def pictures(data: Path) -> None:
    """Draws 4 images of a subject and 4 of its class with the model."""
    pipe = load_pipeline("miniature")
    settings = Settings(steps=10, scheduler="DPMSolverMultistep")
    for name, prompt, count in (("instance", "a teapot", 4), ("class", CLASS, 4)):
        (data / name).mkdir()
        drawn = draw(pipe, [prompt] * count, list(range(count)), settings=settings)
        for i, image in enumerate(drawn):
            Image.fromarray(image).save(data / name / f"{i:02d}.png")


def compare(
    data: Path, method: str, prior: str, other: Sequence[str], steps: int, log: IO[bytes]
) -> dict[str, Any]:
    """Returns the medians of our steps and of another side's, in milliseconds, and ratios."""
    common = ["--data", str(data), "--method", method, "--prior", prior]
    common += ["--steps", str(steps + WARM_UP + 1)]
    sides = [Side(["--side", "ours", *common], log), Side(["--side", *other, *common], log)]
    try:
        turns = [[side.step() for side in sides] for _ in range(steps + WARM_UP)][WARM_UP:]
    finally:
        for side in sides:
            side.close()
    (own, own_wall), (their, their_wall) = (
        [statistics.median(getattr(turn[i], kind) for turn in turns) for kind in Step._fields]
        for i in range(2)
    )
    return {
        "method": method,
        "prior": prior,
        "ours": 1000 * own,
        "other": 1000 * their,
        "ratio": own / their,
        "ratio_of_wall": own_wall / their_wall,
    }


def run(args: argparse.Namespace) -> None:
    """Compares every method and prior, prints the tables and writes the results."""
    results: dict[str, Any] = {"cpu": platform.processor(), "torch": torch.__version__}
    others = {} if args.only == "diffusers" else {"bare": (names(), ["bare"])}
    if args.scripts is not None and args.only != "bare":
        others["diffusers"] = (list(SCRIPTS), ["theirs", "--scripts", str(args.scripts.resolve())])
    with tempfile.TemporaryDirectory() as folder, args.log.open("wb") as log:
        data = Path(folder)
        pictures(data)
        for name, (methods, other) in others.items():
            rows = []
            sys.stdout.write(
                f"\n| method | prior | ours, ms | {name}, ms | ratio | of wall time |\n"
            )
            sys.stdout.write("|---|---|---|---|---|---|\n")
            for method in methods:
                if method not in args.methods:
                    continue
                for prior in args.priors:
                    row = compare(data, method, prior, other, args.steps, log)
                    rows.append(row)
                    sys.stdout.write(
                        f"| {method} | {prior} | {row['ours']:.1f} | {row['other']:.1f} | "
                        f"{row['ratio']:.3f} | {row['ratio_of_wall']:.3f} |\n"
                    )
                    sys.stdout.flush()
            results[name] = rows
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def main() -> None:
    """Runs the comparison, or one side of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scripts", type=Path, help="folder of diffusers' scripts")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each side")
    parser.add_argument("--only", choices=list(LIMITS), help="one of the two comparisons")
    parser.add_argument("--methods", nargs="+", default=names())
    parser.add_argument("--priors", nargs="+", default=["none", "images"])
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "speed.log")
    parser.add_argument("--out", type=Path, help="file of the results, JSON")
    for name in ("side", "data", "method", "prior"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is None:
        return run(args)
    torch.set_num_threads(1)
    take_turns()
    about = (Path(args.data), args.method, args.prior, args.steps)
    if args.side == "theirs":
        return theirs(*about, args.scripts)
    return ours(*about) if args.side == "ours" else bare(*about)


if __name__ == "__main__":
    main()
