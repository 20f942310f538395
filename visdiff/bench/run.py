"""Running a benchmark: compare every pair, judge its hypotheses, and store each result immediately.

An interrupted run can be resumed and gives the same results as an uninterrupted one, because no
random number depends on the pairs that ran before. A failed pair is recorded with the reason and
retried by the next run, and so are missing verdicts. Neither counts as a wrong answer.
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
from visdiff.bench.purity import mix
from visdiff.bench.scoring import Agreement, agreement
from visdiff.bench.store import Record, Results, sole_writer
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.compare import compare
from visdiff.config import Config
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.imageset import ImageSet
from visdiff.judges import Claim, Judge, Verdict
from visdiff.progress import is_hidden
from visdiff.results import DifferenceReport, Direction

Directions = Literal["A", "both"]

#: Version of the list of hypotheses, in the header so that a file has only one. 1: differences
#: only. 2: differences, then the unconfirmed candidates with scores in their direction.
_LISTING = 2


@dataclass(frozen=True)
class Finding:
    """A hypothesis of a system for a pair.

    Attributes:
        text: The sentence.
        direction: The set that it should be more true of.
        auroc: AUROC of its scores, or None if the system does not report it.
        confirmed: Whether the system confirms it.
    """

    text: str
    direction: Direction
    auroc: float | None = None
    confirmed: bool = False


@dataclass(frozen=True)
class SystemOutput:
    """The output of a system for a pair.

    Attributes:
        findings: Hypotheses, best first.
        unreadable: Number of images that could not be decoded.
        warnings: Warnings for the reader.
        tested: Number of candidates that were tested, listed or not; None if unknown.
    """

    findings: Sequence[Finding]
    unreadable: int = 0
    warnings: Sequence[str] = ()
    tested: int | None = None


System = Callable[[ImageSet, ImageSet], SystemOutput]
"""A function that compares set A with set B, without knowing the pair or its difference."""


def comparison(config: Config, cache: Cache) -> System:
    """Returns `comparison.compare.compare` as a system.

    The paper's Acc@k covers all ranked hypotheses, whether they pass a test or not. The system
    therefore lists the report's differences in their order, confirmed ones first, followed by the
    rejected candidates with an AUROC above 0.5 in their direction, sorted by AUROC. Confirmed
    hypotheses are marked and also evaluated on their own (``acc5_confirmed`` in
    `visdiff.bench.table.rows`); an unconfirmed one is not a false alarm on a null pair.

    A pair with a failed request of the proposer is recorded as failed, not as a wrong answer.
    """
    backends = Backends.of(config, cache)

    def system(a: ImageSet, b: ImageSet) -> SystemOutput:
        report = compare(a, b, config=config, backends=backends)
        if report.unanswered:
            raise VisdiffError(
                f"Expected an answer to every request of the proposer, got none to "
                f"{len(report.unanswered)} (first: {report.unanswered[0]}); run the pair again."
            )
        if report.failed_stages:
            raise VisdiffError(
                f"Expected more than half of what every stage asks for, got less: "
                f"{report.failed_stages[0].sentence}; run the pair again."
            )
        unreadable = report.set_a.n_unreadable + report.set_b.n_unreadable
        tested = len(report.rejected) + sum(1 + len(d.synonyms) for d in report.differences)
        return SystemOutput(rank_findings(report), unreadable, report.warnings, tested)

    return system


def rank_findings(report: DifferenceReport) -> list[Finding]:
    """Returns the differences of a report, then the rejected candidates with AUROC above 0.5."""
    differences = [Finding(d.text, d.direction, d.auroc, d.confirmed) for d in report.differences]
    candidates = [
        Finding(r.text, r.direction, r.auroc)
        for r in report.rejected
        if r.auroc is not None and r.auroc > 0.5
    ]
    return differences + sorted(candidates, key=lambda f: -(f.auroc or 0.0))


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
    """Runs the pairs without a result, and judges the hypotheses without a verdict.

    Args:
        benchmark: The pairs. A part (`Benchmark.only`) and the full benchmark can use one file.
        out: The results file, one per run; created if missing.
        config: Configuration of the comparison; its seed is also used for the purity.
        judge: The judge.
        cache: Cache of captions and embeddings; the user's cache by default.
        system: The system to evaluate; by default `comparison` with this configuration.
        proposer: Name of the proposer in tables, by default its backend.
        ranker: Name of the ranker in tables, by default its backend.
        purity: Purity to which the sets are mixed, see `visdiff.bench.purity`.
        directions: "A" judges only the hypotheses about set A, as the paper's Acc@k does; "both"
            judges all, each in its own direction.
        top: Maximum number of judged hypotheses per pair, best first; Acc@N is over these.
        progress: Whether to show progress on stderr.

    Returns:
        All results in the file.

    Raises:
        InputError: The file has another run, another process is writing it, a backend does not
            exist, or the judge cannot be used.
        MissingBackendError: A library or a model's weights are not available.
    """
    if not 0.5 <= purity <= 1:
        raise InputError(f"Expected a purity from 0.5 (fully mixed) to 1 (pure), got {purity}.")
    if top < 1:
        raise InputError(f"Expected to judge 1 hypothesis or more of a pair, got {top}.")
    if directions not in ("A", "both"):
        raise InputError(f'Expected directions "A" or "both", got {directions!r}.')
    if system is None:
        # A backend that does not exist fails here, not for every pair.
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
                _run(benchmark, results, comparison(config, store), judge, config.seed, progress)
    return results


def rejudge(
    results: Results, out: str | os.PathLike[str], judge: Judge, progress: bool = True
) -> Results:
    """Judges the hypotheses of a run with another judge, without comparing anything again.

    Args:
        results: A run.
        out: The results file of this judge, created if missing; verdicts in it are kept.
        judge: The other judge.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: `out` is the run's own file, has other content, or another process is writing
            it.
    """
    if os.path.realpath(out) == os.path.realpath(results.path):
        raise InputError(f"Expected another file for the new verdicts, got {out}; choose another.")
    with sole_writer(out):
        judged = Results.open(out, {**results.header, "judge": dict(judge.identity)})
        for name, record in tqdm(results.records.items(), "judging", disable=is_hidden(progress)):
            known = judged.records.get(name)
            if known is None and record["status"] == "done":
                unjudged = [
                    {**h, "score": None, "reason": "not judged"} for h in record["hypotheses"]
                ]
                judged.append(_judge_record({**record, "hypotheses": unjudged}, judge))
            elif known is not None and _has_unscored(known):
                _judge_and_store(judged, known, judge)
    return judged


def claims(results: Results) -> list[Claim]:
    """Returns the claims that the judge of a run evaluates, in order, without null pairs."""
    return [
        claim
        for record in results.records.values()
        if record["status"] == "done" and record["split"] != NULL
        for claim in _claims(record, record["hypotheses"])
    ]


def agree(first: Results, second: Results) -> Agreement:
    """Compares the verdicts of two judges on the hypotheses that both runs have.

    Raises:
        InputError: They have no hypothesis in common.
    """
    scores = [_scores_by_claim(results) for results in (first, second)]
    common = [name for name in scores[0] if name in scores[1]]
    if not common:
        raise InputError(
            f"Expected two judges of the same hypotheses, got {first.path} and {second.path}, "
            f"which have none in common; judge one run twice (`visdiff bench score`)."
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
    for pair in tqdm(benchmark.pairs, "pairs", disable=is_hidden(progress)):
        known = results.records.get(pair.id)
        if known is None or known["status"] == "failed":
            record = _compare_pair(pair, system, results.header, seed)
            if record["status"] == "failed":
                if progress:
                    tqdm.write(f"{pair.id} failed: {record['reason']}", file=sys.stderr)
                # The same failure is recorded once.
                if known != record:
                    results.append(record)
                continue
            _judge_and_store(results, record, judge, is_new=True)
        elif _has_unscored(known):
            _judge_and_store(results, known, judge)


def _compare_pair(pair: Pair, system: System, header: Mapping[str, Any], seed: int) -> Record:
    record: Record = {"pair": pair.id, "split": pair.split, "missing": len(pair.missing)}
    try:
        for side, files in (("A", pair.images_a), ("B", pair.images_b)):
            if not files:
                raise InputError(
                    f"Expected images of set {side}, got none (first missing: "
                    f"{pair.missing[0] if pair.missing else 'none is named'}); add the files."
                )
        # Seeded with the pair's id, so that the mixture does not depend on the other pairs.
        rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
        a, b = mix(pair.images_a, pair.images_b, header["purity"], rng)
        found = system(ImageSet.open(a, name="A"), ImageSet.open(b, name="B"))
    except MissingBackendError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        return {**record, "status": "failed", "reason": f"{type(error).__name__}: {reason}"}
    selected = [f for f in found.findings if header["directions"] == "both" or f.direction == "A"]
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
            for f in selected[: header["top"]]
        ],
    }


def _judge_and_store(results: Results, record: Record, judge: Judge, is_new: bool = False) -> None:
    """Adds the missing verdicts of a record and stores it if it is new or has changed.

    A new record is stored even if the judge fails, so that the comparison is not lost.
    """
    try:
        judged = _judge_record(record, judge)
    except BaseException:
        if is_new:
            results.append(record)
        raise
    if is_new or judged != record:
        results.append(judged)


def _judge_record(record: Record, judge: Judge) -> Record:
    hypotheses = [dict(h) for h in record["hypotheses"]]
    unscored = [h for h in hypotheses if h["score"] is None]
    if record["split"] == NULL:
        verdicts = [Verdict(0.0, "the sets do not differ") for _ in unscored]
    else:
        verdicts = judge.judge(_claims(record, unscored)) if unscored else []
    for hypothesis, verdict in zip(unscored, verdicts, strict=True):
        hypothesis.update(score=verdict.score, reason=verdict.reason)
    return {**record, "hypotheses": hypotheses}


def _claims(record: Record, hypotheses: Sequence[Record]) -> list[Claim]:
    return [Claim(h["text"], h["direction"], record["a"], record["b"]) for h in hypotheses]


def _has_unscored(record: Record) -> bool:
    return any(h["score"] is None for h in record.get("hypotheses", ()))


def _scores_by_claim(results: Results) -> dict[tuple[str, str, str], float | None]:
    return {
        (name, h["direction"], h["text"]): h["score"]
        for name, record in results.records.items()
        if record["split"] != NULL
        for h in record.get("hypotheses", ())
    }


def _check_truths(benchmark: Benchmark, results: Results) -> None:
    for pair in benchmark.pairs:
        record = results.records.get(pair.id)
        if record is None or record["status"] != "done":
            continue
        if (record["split"], record["a"], record["b"]) != (pair.split, pair.a, pair.b):
            raise InputError(
                f"Expected {results.path} to have results of this benchmark, got another pair "
                f"{pair.id} in it ({record['a']!r} against {record['b']!r}); choose another "
                f"results file."
            )
