"""``visdiff doctor``: reports installed versions and which presets can run."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from visdiff.cli.options import Json
from visdiff.errors import MissingWeightsError, VisdiffError


def doctor(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", help="Also print versions, the cache, and all that a preset lacks."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print which presets can run on this machine, one line each."""
    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(asdict(diagnosis), indent=2))
        return
    if verbose:
        for name, value in {**diagnosis.machine, **diagnosis.packages}.items():
            typer.echo(f"{name:16} {value}")
        typer.echo(f"{'torchvision':16} {diagnosis.torchvision}")
        typer.echo(f"{'cache':16} {diagnosis.cache}")
    for check in diagnosis.presets:
        state = "usable" if check.usable else f"not usable: {', '.join(check.lacks)}"
        typer.echo(f"{check.name:10} {state}")
        if verbose and check.reason:
            typer.echo(f"{'':10} {check.reason}")


@dataclass(frozen=True)
class PresetCheck:
    """The result of a check whether a preset can run on this machine.

    Attributes:
        name: Name of the preset.
        usable: Whether all its weights load without a network connection.
        reason: What is missing and how to get it; "" if usable.
        lacks: What is missing, in a few words each.
    """

    name: str
    usable: bool
    reason: str
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """The output of ``visdiff doctor``.

    Attributes:
        machine: Python, platform, device, cores.
        packages: Package → version.
        torchvision: Whether torchvision's operators match torch.
        cache: Folder and size of the cache.
        presets: One check per preset.
    """

    machine: dict[str, str]
    packages: dict[str, str]
    torchvision: str
    cache: str
    presets: list[PresetCheck]


def diagnose() -> Diagnosis:
    """Checks the installation: loads the models of each preset from disk, without downloads."""
    from visdiff.cache import Cache
    from visdiff.comparison.provenance import versions
    from visdiff.config import preset_names
    from visdiff.engine.device import resolve_device
    from visdiff.torchvision_compat import ensure_torchvision

    declared = ensure_torchvision()
    with Cache() as cache:
        stats = cache.stats()
    return Diagnosis(
        machine={
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": resolve_device("auto"),
            "cores": str(os.cpu_count()),
        },
        packages=versions(),
        torchvision=(
            "compiled operators do not match torch: everything except detection works"
            if declared
            else "matches torch"
        ),
        cache=", ".join(f"{k} {v}" for k, v in stats.items()),
        presets=[check_preset(name) for name in preset_names()],
    )


def check_preset(name: str) -> PresetCheck:
    """Runs the models of a preset on one blank image, with weights from the local disk.

    A chat model is not called; only its name and, if required, its API key are checked.
    """
    from PIL import Image

    from visdiff.comparison.backends import Backends
    from visdiff.config import Config
    from visdiff.encoders.hub import hub_offline
    from visdiff.imageset import ImageSet
    from visdiff.llm import Message, Request
    from visdiff.llm.budget import Ledger
    from visdiff.llm.make import chat_model
    from visdiff.results import Hypothesis

    blank = ImageSet.open([Image.new("RGB", (64, 64), "white")])
    config = Config.of(name)
    try:
        backends = Backends.of(config)
    except VisdiffError as error:
        return PresetCheck(name, False, str(error), (_in_short(error),))
    question = Request((Message("user", ("a dog",)),), "doctor")
    dog = [Hypothesis("a dog", "A", "doctor")]
    uses: list[Callable[[], object]] = [lambda: backends.ranker.score(dog, blank, ["a dog"])]
    if backends.proposer.needs_captions or backends.ranker.needs_captions:
        uses.insert(0, lambda: backends.captioner.captions(blank))
    if backends.proposer.calls:
        uses.append(lambda: chat_model(config, None, Ledger()).check([question]))
    missing = list[VisdiffError]()
    with hub_offline():
        for use in uses:
            try:
                use()
            except VisdiffError as error:
                missing.append(error)
    lacks = dict.fromkeys(_in_short(error) for error in missing)
    return PresetCheck(name, not missing, "; ".join(map(str, missing)), tuple(lacks))


def _in_short(error: VisdiffError) -> str:
    if isinstance(error, MissingWeightsError):
        return f"no weights of {error.what}"
    # "Expected a chat model, got none; …": what was expected is what is missing.
    return str(error).partition(", got")[0].replace("Expected ", "no ", 1)
