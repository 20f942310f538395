"""A configuration as readers need it: parts at their defaults left out, and the command."""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.results import DifferenceReport


def used_settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns the configuration without the parts that were left at their defaults.

    Args:
        config: A configuration as JSON values.

    Returns:
        The configuration without tables that equal their defaults, such as the settings of a chat
        model that was not used, and without settings that are off; and their names.
    """
    defaults = Config().model_dump(mode="json")
    unused = [
        name
        for name, value in config.items()
        if name in defaults
        and value == defaults[name]
        and (isinstance(value, Mapping) or value in (None, [], 0))
        and name != "seed"
    ]
    return {name: value for name, value in config.items() if name not in unused}, unused


def command_of(report: DifferenceReport) -> str:
    """Returns the command that makes a comparison again.

    It is the one that was run, or one that is derived from the sets and the configuration.

    Returns:
        A command for a shell. "" if the sets were not read from files or if the command line cannot
        express the configuration.
    """
    if report.provenance.command:
        return report.provenance.command
    settings = _assignments(report.config)
    cards = (report.set_a, report.set_b)
    if settings is None or not all(Path(card.source).exists() for card in cards):
        return ""
    words = ["visdiff", "compare", *(card.source for card in cards)]
    for side, card in zip("ab", cards, strict=True):
        for column, value in card.where.items():
            words += [f"--where-{side}", f"{column}={value}"]
    words += ["--preset", str(report.config["preset"])]
    for name, text in settings.items():
        words += ["--set", f"{name}={text}"]
    return shlex.join([*words, "--out", "report"])


def _assignments(config: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the ``--set`` assignments that turn the preset into a configuration, or None."""
    try:
        preset = Config.of(str(config.get("preset")))
        backends = {
            f"{role}.backend": str(table["backend"])
            for role, table in config.items()
            if isinstance(table, Mapping) and "backend" in table
        }
        start = preset.with_set(backends).model_dump(mode="json")
        known = dict(_leaves(preset.model_dump(mode="json")))
        changed = {n: v for n, v in backends.items() if known.get(n) != v}
        base = dict(_leaves(start))
        changed |= {
            name: json.dumps(value, ensure_ascii=False)
            for name, value in _leaves(config)
            if value is not None and base.get(name) != value
        }
        made = preset.with_set(changed).model_dump(mode="json")
    except InputError:
        return None
    return changed if made == config else None


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns nested settings as (dotted name, text) pairs, in order."""
    rows: list[tuple[str, str]] = []
    for name, item in value.items():
        dotted = f"{prefix}{name}"
        if isinstance(item, Mapping):
            rows.extend(flatten(item, f"{dotted}."))
        elif isinstance(item, list | tuple):
            rows.append((dotted, ", ".join(str(i) for i in item) or "–"))
        else:
            rows.append((dotted, "–" if item is None else str(item)))
    return rows
