"""The configuration that the options of a command give."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visdiff.errors import InputError

if TYPE_CHECKING:
    from visdiff.config import Config


# Settings whose flag has another name.
_FLAGS = {
    "llm__model": "--llm",
    "llm__max_calls": "--max-calls",
    "llm__max_cost": "--max-cost",
    "null_repeats": "--null",
    "proposer__sampling": "--sampling",
}


def assignments(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Returns name → value of ``NAME=VALUE`` texts.

    Args:
        texts: The values of an option.
        option: Name of the option, for the error message.

    Raises:
        InputError: A text has another form.
    """
    values = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"Expected {option} name=value, got {text!r}; write it with '='.")
        values[name.strip()] = value
    return values


def configuration(
    preset: str | None,
    config: Path | None,
    set_: Sequence[str] | None = None,
    *,
    paired_by: str | None = None,
    **changes: Any,
) -> "Config":
    """Returns the configuration from the options of a command.

    Args:
        preset: ``--preset``; "laptop" if ``config`` is None as well.
        config: ``--config``.
        set_: ``--set``.
        paired_by: Column names, separated by commas.
        **changes: Other options, as for `visdiff.config.Config.changed`.

    Raises:
        InputError: Preset and file are both given, one of them does not exist or is invalid, or
            ``--set`` and another option give a setting two values.
    """
    from visdiff.config import Config

    if config is not None and preset is not None:
        raise InputError("Expected --config or --preset, got both; name the preset in the file.")
    base = Config.read(config) if config else Config.of(preset or "laptop")
    if paired_by:
        # A list, as TOML has it.
        changes["paired_by"] = [column.strip() for column in paired_by.split(",")]
    try:
        settings = base.with_set(assignments(set_, "--set"), **changes)
    except InputError as error:
        raise InputError(_with_flags(str(error), changes)) from None
    _check_names(settings)
    return settings


def _check_names(settings: "Config") -> None:
    """Raises InputError for unknown backends, before their libraries are imported."""
    from visdiff import registry

    used = {"captioner": settings.captioner, "ranker": settings.ranker}
    for role, backend in used.items():
        registry.check_name(role, backend.backend)
    for name in settings.proposer.backend.split(","):
        registry.check_name("proposer", name.strip())
    if settings.verify is not None:
        registry.check_name("ranker", settings.verify.backend)


def judge_settings(config: "Config", model: str | None, settings: Sequence[str] | None) -> "Config":
    """Returns a configuration with the chat judge's model, which may differ from the run's.

    Args:
        config: The configuration of the run.
        model: ``--judge-llm``.
        settings: ``--judge-set``.
    """
    given = assignments(settings, "--judge-set")
    changed = config.with_set({f"llm.{name}": value for name, value in given.items()})
    # Last, since another backend starts from its own defaults, without a model.
    return changed.changed(llm__model=model)


def _with_flags(message: str, changes: Mapping[str, Any]) -> str:
    """Returns an error about settings that names the flags they were given with."""
    for name in (name for name, value in changes.items() if value is not None):
        flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        for setting in (name.replace("__", "."), f"{name}.backend"):
            for source in ("the given settings", "--set"):
                message = message.replace(f"{setting} in {source}", flag)
    return message
