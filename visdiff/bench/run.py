"""Run a benchmark: compare every pair, have its hypotheses judged, keep each result at once.

A killed run goes on where it stopped and ends with what an uninterrupted one would have: nothing
random depends on which pairs ran before. A pair that fails is recorded with the reason and tried
again by the next run; so are verdicts that are missing. Neither ever counts as a wrong answer.
"""

import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from visdiff.bench.pairs import NULL, Benchmark, Pair
from visdiff.bench.purity import mixed
from visdiff.bench.scoring import Agreement, agreement
from visdiff.bench.store import Record, Results, sole_writer
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.judges import Claim, Judge, Verdict
from visdiff.results import DifferenceReport, Direction

Directions = Literal["A", "both"]

#: Which hypotheses a comparison lists, in the header so that no file mixes two ways. 1: differences
#: alone. 2: behind them every other candidate that the scores speak for, unconfirmed.
_LISTING = 2


@dataclass(frozen=True)
class Finding:
    """A hypothesis that a system put forward for a pair.

    Attributes:
        text: The sentence.
        direction: The set it is claimed to be truer of.
        auroc: How well it separates the sets, when the system says.
        confirmed: Whether the system vouches for it.
    """

    text: str
    direction: Direction
    auroc: float | None = None
    confirmed: bool = False


@dataclass(frozen=True)
class Found:
    """What a system says of a pair.

    Attributes:
        findings: Best first.
        unreadable: Images that it could not decode.
        warnings: What its reader must know.
        tested: Candidates that it tested, those that it does not list included; None if it does not
            say.
    """

    findings: Sequence[Finding]
    unreadable: int = 0
    warnings: Sequence[str] = ()
    tested: int | None = None


System = Callable[[ImageSet, ImageSet], Found]
"""Compares set A with set B; told neither which pair they are nor what their difference is."""


def comparison(config: Config, cache: Cache) -> System:
    """Return `comparison.compare.compare` as a system: the differences in the report's order.

    Acc@k of the paper is of everything that was ranked, tested or not. So are these: first the
    report's differences, the confirmed ones before the others, and then, as suggestions that nobody
    vouches for, the candidates that it rejects and yet scores in their claimed direction (an AUROC
    above 0.5), by AUROC. What is confirmed stays marked, and is scored on its own beside it
    (``acc5_confirmed`` in `visdiff.bench.table.rows`); a suggestion is no false alarm on a null
    pair.

    A pair about which a question to a model was lost fails: what was not said is not wrong.
    """
    backends = Backends.of(config, cache)

    def system(a: ImageSet, b: ImageSet) -> Found:
        report = compare(a, b, config=config, backends=backends)
        if report.unanswered:
            raise VisdiffError(
                f"{len(report.unanswered)} questions of the proposer had no answer "
                f"(first: {report.unanswered[0]})"
            )
        unreadable = report.set_a.n_unreadable + report.set_b.n_unreadable
        tested = len(report.rejected) + sum(1 + len(d.synonyms) for d in report.differences)
        return Found(listed(report), unreadable, report.warnings, tested)

    return system


def listed(report: DifferenceReport) -> list[Finding]:
    """Return the differences of a report, then the candidates that it only suggests, best first."""
    differences = [Finding(d.text, d.direction, d.auroc, d.confirmed) for d in report.differences]
    suggested = [
        Finding(r.text, r.direction, r.auroc)
        for r in report.rejected
        if r.auroc is not None and r.auroc > 0.5
    ]
    return differences + sorted(suggested, key=lambda f: -(f.auroc or 0.0))


def run(
    benchmark: Benchmark,
    out: str | os.PathLike[str],
    *,
    config: Config,
    judge: Judge,
    cache: Cache | None = None,
    system: System | None = None,
    proposer: str | None = None,
    ranker: str | None = None,
    purity: float = 1.0,
    directions: Directions = "A",
    top: int = 10,
    progress: bool = True,
) -> Results:
    """Run what is not done yet, and judge what has no verdict yet.

    Args:
        benchmark: The pairs. A part of one (`Benchmark.only`) goes into the same file as the whole.
        out: The results file, one a run; made when missing.
        config: The comparison; its seed is also that of the purity's swap.
        judge: Gives the verdicts.
        cache: Where captions and embeddings are kept; the user's cache by default.
        system: What finds the differences; by default `comparison` with this configuration.
        proposer: What to call the proposer in tables, by default its backend.
        ranker: The same for the ranker.
        purity: Mix the sets first, see `visdiff.bench.purity`.
        directions: "A" judges the hypotheses about set A alone, as the paper's Acc@k does; "both"
            each in its own direction.
        top: Judge at most so many hypotheses of a pair, best first; Acc@N is over these.
        progress: Show progress on stderr.

    Returns:
        All the results in the file.

    Raises:
        InputError: The file holds another run, another process is writing it, a backend does not
            exist, or the judge cannot judge.
        MissingBackendError: A library or a model's weights are not available.
    """
    if not 0.5 <= purity <= 1:
        raise InputError(f"expected a purity from 0.5 (fully mixed) to 1 (pure), got {purity}.")
    if top < 1:
        raise InputError(f"expected to judge 1 hypothesis or more of a pair, got {top}.")
    if directions not in ("A", "both"):
        raise InputError(f'expected directions "A" or "both", got {directions!r}.')
    if system is None:
        # A backend that does not exist fails here, not once a pair.
        Backends.of(config)
    header = {
        "benchmark": benchmark.name,
        "proposer": proposer or config.proposer.backend,
        "ranker": ranker or config.ranker.backend,
        "purity": float(purity),
        "directions": directions,
        "top": top,
        "listing": _LISTING,
        "judge": dict(judge.identity),
        "config": config.model_dump(mode="json"),
    }
    with sole_writer(out):
        results = Results.open(out, header)
        _check_truths(benchmark, results)
        if system is not None:
            _run(benchmark, results, system, judge, config.seed, progress)
        else:
            with Cache() if cache is None else nullcontext(cache) as store:
                found_by = comparison(config, store)
                _run(benchmark, results, found_by, judge, config.seed, progress)
    return results


def rejudge(
    results: Results, out: str | os.PathLike[str], judge: Judge, progress: bool = True
) -> Results:
    """Have the hypotheses of a run judged by another judge; nothing is compared again.

    Args:
        results: A run.
        out: The results file of this judge, made when missing; verdicts in it are kept.
        judge: The other judge.
        progress: Show progress on stderr.

    Raises:
        InputError: `out` is the run's own file, holds something else, or another process is writing
            it.
    """
    if os.path.realpath(out) == os.path.realpath(results.path):
        raise InputError(f"expected another file than {out} for another judge's verdicts.")
    with sole_writer(out):
        judged = Results.open(out, {**results.header, "judge": dict(judge.identity)})
        for name, record in tqdm(results.records.items(), "judging", disable=not progress):
            known = judged.records.get(name)
            if known is None and record["status"] == "done":
                bare = [{**h, "score": None, "reason": "not judged"} for h in record["hypotheses"]]
                judged.append(_judged({**record, "hypotheses": bare}, judge))
            elif known is not None and _open_verdicts(known):
                _judge_again(judged, known, judge)
    return judged


def claims(results: Results) -> list[Claim]:
    """List what was put before the judge of a run, in order; null pairs have nothing to judge."""
    return [
        claim
        for record in results.records.values()
        if record["status"] == "done" and record["split"] != NULL
        for claim in _claims(record, record["hypotheses"])
    ]


def agree(first: Results, second: Results) -> Agreement:
    """Compare the verdicts of two judges on the hypotheses that both runs have.

    Raises:
        InputError: They have none in common.
    """
    scores = [_by_claim(results) for results in (first, second)]
    common = [name for name in scores[0] if name in scores[1]]
    if not common:
        raise InputError(
            f"expected two judges of the same hypotheses, got {first.path} and {second.path}, "
            f"which have none in common: judge one run twice (`visdiff bench score`)."
        )
    return agreement(*([side[name] for name in common] for side in scores))


def _run(
    benchmark: Benchmark,
    results: Results,
    system: System,
    judge: Judge,
    seed: int,
    progress: bool,
) -> None:
    for pair in tqdm(benchmark.pairs, "pairs", disable=not progress):
        known = results.records.get(pair.id)
        if known is None or known["status"] == "failed":
            record = _compared(pair, system, results.header, seed)
            if record["status"] == "failed":
                if progress:
                    tqdm.write(f"{pair.id} failed: {record['reason']}", file=sys.stderr)
                # The same failure again is no news.
                if known != record:
                    results.append(record)
                continue
            _judge_again(results, record, judge, keep=True)
        elif _open_verdicts(known):
            _judge_again(results, known, judge)


def _compared(pair: Pair, system: System, header: Mapping[str, Any], seed: int) -> Record:
    record: Record = {"pair": pair.id, "split": pair.split, "missing": len(pair.missing)}
    try:
        for side, files in (("A", pair.images_a), ("B", pair.images_b)):
            if not files:
                raise InputError(
                    f"no image of set {side} is there (first missing: "
                    f"{pair.missing[0] if pair.missing else 'none is named'})"
                )
        # By the pair's own name, so that a pair is mixed alike whichever pairs ran before it.
        rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
        a, b = mixed(pair.images_a, pair.images_b, header["purity"], rng)
        found = system(ImageSet.open(a, name="A"), ImageSet.open(b, name="B"))
    except MissingBackendError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        return {**record, "status": "failed", "reason": f"{type(error).__name__}: {reason}"}
    wanted = [f for f in found.findings if header["directions"] == "both" or f.direction == "A"]
    return {
        **record,
        "status": "done",
        "a": pair.a,
        "b": pair.b,
        "n_a": len(a),
        "n_b": len(b),
        "unreadable": found.unreadable,
        "warnings": list(found.warnings),
        "found": len(found.findings),
        "tested": found.tested,
        "confirmed": sum(f.confirmed for f in found.findings),
        "hypotheses": [
            {
                "text": f.text,
                "direction": f.direction,
                "auroc": f.auroc,
                "confirmed": f.confirmed,
                "score": None,
                "reason": "not judged",
            }
            for f in wanted[: header["top"]]
        ],
    }


def _judge_again(results: Results, record: Record, judge: Judge, keep: bool = False) -> None:
    """Ask for the verdicts that a record lacks; write it when that changes it, or to keep it."""
    try:
        judged = _judged(record, judge)
    except BaseException:
        if keep:
            results.append(record)
        raise
    if keep or judged != record:
        results.append(judged)


def _judged(record: Record, judge: Judge) -> Record:
    hypotheses = [dict(h) for h in record["hypotheses"]]
    still = [h for h in hypotheses if h["score"] is None]
    if record["split"] == NULL:
        verdicts = [Verdict(0.0, "the sets do not differ") for _ in still]
    else:
        verdicts = judge.judge(_claims(record, still)) if still else []
    for hypothesis, verdict in zip(still, verdicts, strict=True):
        hypothesis.update(score=verdict.score, reason=verdict.reason)
    return {**record, "hypotheses": hypotheses}


def _claims(record: Record, hypotheses: Sequence[Record]) -> list[Claim]:
    return [Claim(h["text"], h["direction"], record["a"], record["b"]) for h in hypotheses]


def _open_verdicts(record: Record) -> bool:
    return any(h["score"] is None for h in record.get("hypotheses", ()))


def _by_claim(results: Results) -> dict[tuple[str, str, str], float | None]:
    return {
        (name, h["direction"], h["text"]): h["score"]
        for name, record in results.records.items()
        if record["split"] != NULL
        for h in record.get("hypotheses", ())
    }


def _check_truths(benchmark: Benchmark, results: Results) -> None:
    for pair in benchmark.pairs:
        record = results.records.get(pair.id)
        if record is not None and record["status"] == "done":
            there = (record["split"], record["a"], record["b"])
            if there != (pair.split, pair.a, pair.b):
                raise InputError(
                    f"expected {results.path} to hold results of this benchmark, got another pair "
                    f"{pair.id} in it ({record['a']!r} against {record['b']!r}): choose another "
                    f"results file."
                )
