"""The paper's table: proposers × rankers by split, next to published numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from visdiff.bench.pairs import NULL
from visdiff.bench.scoring import Verdicts, acc_at, accuracy
from visdiff.bench.store import Record, Results

Row = dict[str, Any]

#: Splits that the paper combines: name of the combination → the splits.
_COMBINED: Mapping[str, tuple[str, ...]] = {"imagenet-r/*": ("imagenet-r", "imagenet-star")}
_ORDER = ("easy", "medium", "hard", "imagenet-r", "imagenet-star", "imagenet-r/*")


@dataclass(frozen=True)
class Published:
    """A number from the literature, on VisDiffBench.

    Attributes:
        proposer: Our equivalent backend, or the name of another method.
        ranker: Our equivalent backend, or "".
        split: The split.
        acc1: Acc@1, or None.
        acc5: Acc@5, or None.
        system: The models that were evaluated.
        source: The publication.
        second_hand: Whether the number is quoted from another publication than its own.
    """

    proposer: str
    ranker: str
    split: str
    acc1: float | None
    acc5: float | None
    system: str
    source: str
    second_hand: bool = False


_HEAD = (
    "proposer", "ranker", "split", "n", "Acc@1", "interval", "Acc@5", "unscored",
    "published Acc@1/@5",
)  # fmt: skip

_PAPER = "Dunlap et al., CVPR 2024"
_INVDIFF = "InvDiff, README"
_CAPTIONS = "BLIP-2 + GPT-4, CLIP ViT-bigG-14"

#: Only numbers with a verified source.
PUBLISHED: tuple[Published, ...] = (
    Published("captions-llm", "clip", "easy", 0.88, 0.99, _CAPTIONS, _PAPER),
    Published("captions-llm", "clip", "medium", 0.75, 0.86, _CAPTIONS, _PAPER),
    Published("captions-llm", "clip", "hard", 0.61, 0.80, _CAPTIONS, _PAPER),
    Published("captions-llm", "clip", "imagenet-r/*", 0.78, None, _CAPTIONS, _PAPER, True),
    Published("images-vlm", "clip", "easy", 0.95, 1.00, "GPT-4V", _PAPER),
    Published("images-vlm", "clip", "medium", 0.75, 0.87, "GPT-4V", _PAPER),
    Published("images-vlm", "clip", "hard", 0.57, 0.74, "GPT-4V", _PAPER),
    Published("images-vlm", "clip", "hard", 0.28, None, "LLaVA-1.5", _PAPER, True),
    Published("blip2-features", "clip", "hard", 0.12, None, "BLIP-2", _PAPER, True),
    Published("InvDiff", "", "easy", 0.95, 0.98, "inverse CCA", _INVDIFF),
    Published("InvDiff", "", "medium", 0.75, 0.84, "inverse CCA", _INVDIFF),
    Published("InvDiff", "", "hard", 0.60, 0.75, "inverse CCA", _INVDIFF),
    Published(
        "ImageSet2Text", "", "hard", 0.66, None, "concept graph", "ImageSet2Text, AAAI 2026", True
    ),
)


def rows(runs: Sequence[Results], seed: int = 0) -> list[Row]:
    """Scores runs, with one row per run and split.

    Args:
        runs: Results files.
        seed: Seed of the bootstrap.

    Returns:
        Rows with ``proposer``, ``ranker``, ``split``, ``n`` (number of pairs), ``acc1``, ``acc5``,
        ``accn``, ``acc1_ci``, ``acc5_ci``, ``acc1_confirmed`` and ``acc5_confirmed`` (of confirmed
        hypotheses only), ``unscored`` (pairs without Acc@1 or Acc@5: failed, or with a missing
        verdict), ``failed``, ``missing`` (images), ``confirmed_pairs`` (pairs with a confirmed
        difference), ``purity``, ``directions``, ``benchmark``, ``judge`` and ``published``
        (published numbers for this row). Accuracies are None if unknown (Acc@5 of a run that judged
        fewer than five hypotheses) and on null pairs, where ``confirmed_pairs`` is the number of
        false alarms.
    """
    found = []
    for results in runs:
        by_split: dict[str, list[Record]] = {}
        for record in results.records.values():
            by_split.setdefault(record["split"], []).append(record)
        for name, parts in _COMBINED.items():
            if all(part in by_split for part in parts):
                by_split[name] = [record for part in parts for record in by_split[part]]
        order = [s for s in _ORDER if s in by_split] + [s for s in by_split if s not in _ORDER]
        found += [_row(results.header, split, by_split[split], seed) for split in order]
    return found


def render(table: Sequence[Row], published: bool = True) -> str:
    """Writes rows as a table in text.

    Args:
        table: What `rows` returned.
        published: Add the published systems that have no row of ours, and the sources.

    Returns:
        Lines with aligned columns; no line end at the end.
    """
    shown = [_HEAD, *(_cells(row) for row in table)]
    with_published = {(p["system"], p["split"]) for row in table for p in row["published"]}
    if published:
        shown += [
            (p.proposer, p.ranker, p.split, *[""] * 5, _reference(_published(p)))
            for p in PUBLISHED
            if (p.system, p.split) not in with_published
        ]
    text = tabulate(shown, tablefmt="plain", disable_numparse=True)
    lines = [line.rstrip() for line in text.splitlines()]
    if published or with_published:
        sources = dict.fromkeys(p.source for p in PUBLISHED)
        lines.append(f"Published, on VisDiffBench: {'; '.join(sources)}. * second-hand.")
    return "\n".join(lines)


def _row(header: Record, split: str, records: Sequence[Record], seed: int) -> Row:
    failed = sum(record["status"] == "failed" for record in records)
    verdicts = [
        None if r["status"] == "failed" else [h["score"] for h in r["hypotheses"]] for r in records
    ]
    acc = {k: accuracy(verdicts, k, np.random.default_rng(seed)) for k in (1, 5, None)}
    confirmed = [
        None if r["status"] == "failed" else [h["score"] for h in r["hypotheses"] if h["confirmed"]]
        for r in records
    ]
    acc_confirmed = {k: accuracy(confirmed, k, np.random.default_rng(seed)) for k in (1, 5)}
    null = split == NULL
    # Of fewer than five judged hypotheses, the best of the first five is not known.
    known5 = not null and header.get("top", 5) >= 5
    published = [
        _published(p)
        for p in PUBLISHED
        if (p.proposer, p.ranker, p.split) == (header["proposer"], header["ranker"], split)
        and header["benchmark"] == "VisDiffBench"
        and header["purity"] == 1
        and header["directions"] == "A"
    ]
    return {
        "proposer": header["proposer"],
        "ranker": header["ranker"],
        "split": split,
        "n": len(records),
        "acc1": None if null else acc[1].value,
        "acc5": acc[5].value if known5 else None,
        "accn": None if null else acc[None].value,
        "acc1_ci": None if null or acc[1].ci is None else list(acc[1].ci),
        "acc5_ci": list(acc[5].ci) if known5 and acc[5].ci is not None else None,
        "acc1_confirmed": None if null else acc_confirmed[1].value,
        "acc5_confirmed": acc_confirmed[5].value if known5 else None,
        "unscored": sum(_is_unscored(v) for v in verdicts),
        "failed": failed,
        "missing": sum(record.get("missing", 0) for record in records),
        "confirmed_pairs": sum(record.get("confirmed", 0) > 0 for record in records),
        "purity": header["purity"],
        "directions": header["directions"],
        "benchmark": header["benchmark"],
        "judge": header["judge"].get("judge", ""),
        "published": published,
    }


def _cells(row: Row) -> tuple[str, ...]:
    label = row["split"] if row["purity"] == 1 else f"{row['split']}, purity {row['purity']:g}"
    accuracies = (_number(row["acc1"]), _interval(row["acc1_ci"]), _number(row["acc5"]))
    if row["split"] == NULL:
        accuracies = (f"{row['confirmed_pairs']} with a confirmed difference", "", "")
    reference = "; ".join(_reference(published) for published in row["published"])
    counts = (str(row["n"]), *accuracies, str(row["unscored"]))
    return (row["proposer"], row["ranker"], label, *counts, reference)


def _is_unscored(verdicts: Verdicts | None) -> bool:
    # Acc@1 can be unknown where Acc@5 is known, and vice versa.
    return verdicts is None or acc_at(verdicts, 1) is None or acc_at(verdicts, 5) is None


def _published(p: Published) -> Row:
    return {
        "split": p.split,
        "acc1": p.acc1,
        "acc5": p.acc5,
        "system": p.system,
        "source": p.source,
        "second_hand": p.second_hand,
    }


def _reference(published: Row) -> str:
    star = "*" if published["second_hand"] else ""
    numbers = f"{_number(published['acc1'])}/{_number(published['acc5'])}"
    return f"{numbers}{star} ({published['system']})"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.2f}–{ends[1]:.2f}" if ends else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
