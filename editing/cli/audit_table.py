"""The rows of ``visdiff audit compare``, one an audit."""

from pathlib import Path
from typing import Any

from visdiff.errors import InputError
from visdiff.files import load_json, read_text


def read_audit(folder: Path) -> dict[str, Any]:
    """Returns the JSON of an audit.

    Args:
        folder: Folder that ``visdiff audit`` wrote.

    Raises:
        InputError: It holds no audit, or one that is damaged.
    """
    file = folder / "audit.json"
    text = read_text(file, "a folder that visdiff audit wrote")
    try:
        found = load_json(text)
    except ValueError as error:
        raise InputError(
            f"Expected JSON in {file}, got a syntax error ({error}); run the audit again."
        ) from error
    if not isinstance(found, dict) or not {"about", "outcomes", "groups"} <= found.keys():
        raise InputError(
            f"Expected an audit in {file}, got other JSON; name a folder that visdiff audit wrote."
        )
    return found


def table_row(name: str, audit: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of an audit: requests met, side effects, and the drift of each group."""
    outcomes, groups = audit["outcomes"], audit["groups"]
    effects = audit.get("side_effects")
    if effects is None:  # an audit of an earlier version
        effects = [d for g in groups if not g["meant"] for d in g["confirmed"]]
    row: dict[str, Any] = {
        "audit": name,
        "method": audit["about"].get("method", "–"),
        "asked": len(outcomes),
        "met": sum(o["met"] == "yes" for o in outcomes),
        "side effects": len(effects),
    }
    for group in groups:
        if group["drift"] is not None:
            row[f"drift, {group['name']}"] = round(group["drift"]["value"], 3)
    return row
