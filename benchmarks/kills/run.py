"""Commands that are killed at random moments and run again give the results of undisturbed runs.

Each command runs once undisturbed. Then it is killed with SIGKILL at random moments, again and
again, with the same output folder, checkpoint and cache. Whenever a run comes to its end, its
result must equal the undisturbed one (sentences and statistics, pixels, tensors, scored claims),
and the next run starts from nothing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from rowfiles import measure_missing

from visdiff.bench import minidiffbench

SEED = 22
DPM = ("--scheduler", "DPMSolverMultistep")
UNCOMPARED = frozenset({"provenance", "seconds", "created", "command", "source"})
"""Keys of results that state when and where something was computed."""


@dataclass(frozen=True)
class Command:
    """A command and how to read what it computed.

    Attributes:
        words: Data folder and output folder → its arguments.
        result: Output folder → what must be equal.
    """

    words: Callable[[Path, Path], list[str]]
    result: Callable[[Path], Any]


def numbers(file: Path) -> Any:
    """Returns a JSON file without when and where it was computed."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in UNCOMPARED}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(file.read_text())), sort_keys=True)


def pixels(folder: Path) -> Any:
    """Returns the bytes of all images of a folder and its subfolders, by name."""
    return {
        str(p.relative_to(folder)): np.asarray(Image.open(p)).tobytes()
        for p in sorted(folder.rglob("*.png"))
    }


def tensors(file: Path) -> Any:
    """Returns the tensors of an edit as bytes, by name."""
    return {name: value.tobytes() for name, value in sorted(load_file(file).items())}


def claims(file: Path) -> Any:
    """Returns the scored hypotheses of each pair, in any order of the pairs."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k not in UNCOMPARED} for row in rows]
    return sorted(json.dumps(row, sort_keys=True) for row in kept)


COMMANDS: Mapping[str, Command] = {
    "compare": Command(
        lambda data, out: [
            "compare", f"{data}/easy/00/A", f"{data}/easy/00/B", "--preset", "miniature",
            "--out", str(out),
        ],
        lambda out: numbers(out / "report.json"),
    ),
    "generate": Command(
        lambda data, out: [
            "generate", "miniature", "--prompt", "a dog", "--prompt", "a church", "--seeds", "0-23",
            "--steps", "8", *DPM, "--edit", f"{data}/edit.safetensors", "--out", str(out),
        ],
        pixels,
    ),
    "audit": Command(
        lambda data, out: [
            "audit", "--base", "miniature", "--edit", f"{data}/edit.safetensors", "--images", "8",
            "--steps", "3", "--preset", "miniature", "--out", str(out),
        ],
        lambda out: numbers(out / "audit.json"),
    ),
    "edit --checkpoint": Command(
        lambda data, out: [
            "edit", "erase", "miniature", "--concept", "church", "--method", "esd-x",
            "--set", "steps=40", "--set", "save_every=4", "--checkpoint", f"{out}/checkpoint.st",
            "--out", f"{out}/edit.safetensors",
        ],
        lambda out: tensors(out / "edit.safetensors"),
    ),
    "bench run": Command(
        lambda data, out: [
            "bench", "run", str(data), "--judge", "world", "--preset", "miniature",
            "--out", f"{out}/results.jsonl",
        ],
        lambda out: claims(out / "results.jsonl"),
    ),
}  # fmt: skip


class Trials:
    """Runs commands to their end, or until they are killed.

    Args:
        data: Rendered pairs, and an edit.
        work: Folder of what the commands write.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self._data, self._work = data, work

    def run(self, name: str, kills: int) -> dict[str, Any]:
        """Returns how long a command takes, and how many of the completed results are equal."""
        command = COMMANDS[name]
        folder = self._work / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        whole, cut = folder / "whole", folder / "cut"
        started = time.perf_counter()
        self._end(command, whole)
        seconds = time.perf_counter() - started
        rng = np.random.default_rng([SEED, *name.encode()])
        killed, equal = 0, []
        while killed < kills:
            if self._kill(command, cut, rng.uniform(0.1, 1) * seconds):
                killed += 1
                continue
            equal.append(command.result(whole / "out") == command.result(cut / "out"))
            shutil.rmtree(cut)
        self._end(command, cut)
        equal.append(command.result(whole / "out") == command.result(cut / "out"))
        return {
            "seconds": round(seconds, 1),
            "kills": killed,
            "completed": len(equal),
            "equal": sum(equal),
        }

    def _start(self, command: Command, folder: Path) -> "subprocess.Popen[bytes]":
        (folder / "out").mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "VISDIFF_CACHE_DIR": str(folder / "cache")}
        words = [sys.executable, "-m", "visdiff.cli", *command.words(self._data, folder / "out")]
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log)

    def _end(self, command: Command, folder: Path) -> None:
        if code := self._start(command, folder).wait():
            raise RuntimeError(f"Expected exit status 0, got {code}; read {folder / 'log.txt'}.")

    def _kill(self, command: Command, folder: Path, after: float) -> bool:
        """Kills a run after some seconds; returns False if it ended before."""
        process = self._start(command, folder)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        return False


def prepare(data: Path, art: Path) -> None:
    """Renders eight pairs and fits an edit, once."""
    minidiffbench.render(data, art, seed=SEED, pairs=2, null_pairs=2, size=60)
    if not (data / "edit.safetensors").is_file():
        words = ["edit", "erase", "miniature", "--concept", "church"]
        edit = [*words, "--out", str(data / "edit.safetensors")]
        subprocess.run([sys.executable, "-m", "visdiff.cli", *edit], check=True)


def main() -> None:
    """Runs the commands that are missing, prints the table and writes ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, default=Path(".art"), help="folder with node_modules")
    parser.add_argument("--work", type=Path, default=Path("runs/kills"))
    parser.add_argument("--kills", type=int, default=10, help="kills of each command")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.work / "data"
    prepare(data, args.art)
    trials = Trials(data, args.work)
    rows = measure_missing(
        args.work / "rows.jsonl", "command", args.commands,
        lambda name: trials.run(name, args.kills), "commands",
    )  # fmt: skip
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    if args.kills >= 10 and list(args.commands) == list(COMMANDS):
        file = Path(__file__).with_name("results.json")
        file.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
