"""Apply a model on a Ray cluster: paths go to the workers, values come back, pixels never travel.

Each worker is an actor of Ray Data with its own copy of the model. A worker that dies is started
anew, and only the batch that it had is computed again. Batches are those of the local engine, so
that values are the same to the last bits that a machine's arithmetic leaves open.

The files must lie under the same paths on every machine. Images without a file (Pillow images) are
computed here, by the local engine.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from visdiff import errors
from visdiff.cache import rows as cache_rows
from visdiff.engine import ImageModel, LocalEngine, Refused, computed, prepared
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.imageset import ImageSet, decode

# Blocks of one computation: more cost Ray's scheduler more than they spread the work.
_MOST_BLOCKS = 1000


class RayEngine:
    """Applies a model in actors of a Ray cluster.

    The cluster is the one that this process is connected to; else the one that ``RAY_ADDRESS``
    names; else one of this machine's own, which ends with the process.

    Args:
        workers: Copies of the model; each takes one CPU and, when the cluster has GPUs and the
            model is not told to stay on the CPU, one GPU.
        **_: Fields of the configuration that mean nothing here.

    Raises:
        InputError: The number of workers is below 1.
        MissingBackendError: Ray is not installed.
    """

    name = "ray"

    def __init__(self, workers: int = 2, **_: Any) -> None:
        if workers < 1:
            raise InputError(f"expected engine.workers of at least 1, got {workers}")
        if importlib.util.find_spec("ray") is None:
            raise MissingBackendError(
                "the engine 'ray' needs Ray Data, which is not installed: install it with "
                "`pip install \"visdiff[ray]\"`, or use the engine 'local'"
            )
        self.workers = workers

    def batches(
        self,
        model: ImageModel,
        images: ImageSet,
        todo: Sequence[tuple[str, int]],
        *,
        batch_size: int,
        workers: int,
    ) -> Generator[list[tuple[str, Any]]]:
        """Yield the batches as they are done (see `visdiff.engine.Engine`).

        An image whose file is no longer the one that was found is refused.
        """
        paths = {index: images.path(index) for _, index in todo}
        files = [(digest, str(paths[index])) for digest, index in todo if paths[index]]
        rest = [(digest, index) for digest, index in todo if not paths[index]]
        if rest:
            yield from LocalEngine().batches(
                model, images, rest, batch_size=batch_size, workers=workers
            )
        if not files:
            return
        chunks = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
        for row in self._rows(model, [json.dumps(chunk) for chunk in chunks], workers):
            if row["fatal"]:
                raise getattr(errors, row["fatal"], VisdiffError)(row["batch"])
            yield [(digest, _unpacked(value)) for digest, value in json.loads(row["batch"])]

    def _rows(self, model: ImageModel, work: Sequence[str], workers: int) -> Any:
        import ray

        self._connect()
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        gpus = ray.cluster_resources().get("GPU", 0)
        dataset = ray.data.from_items(
            [{"batch": batch} for batch in work],
            override_num_blocks=min(len(work), _MOST_BLOCKS),
        ).map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(work))),
            fn_constructor_args=(model, workers),
            num_cpus=1,
            num_gpus=1 if gpus and getattr(model, "device", "auto") != "cpu" else 0,
            # A killed worker is started anew, and its batch given to it or to another.
            max_restarts=-1,
            max_task_retries=-1,
        )
        return dataset.iter_rows()

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        # A comparison of somebody's images tells nobody that it happens.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A cluster that is there already knows its own size.
        ray.init(
            num_cpus=None if os.environ.get("RAY_ADDRESS") else self.workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )


class _Worker:
    """One copy of the model: an actor's code."""

    def __init__(self, model: ImageModel, workers: int) -> None:
        self.model = model
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="visdiff")

    def __call__(self, batch: Any) -> Any:
        """Turn a table with one batch of digests and paths into one with its values."""
        import pyarrow

        (text,) = batch.column("batch").to_pylist()
        fatal = ""
        try:
            files = json.loads(text)
            items = list(self.pool.map(self._prepared, files))
            pairs = list(zip((digest for digest, _ in files), items, strict=True))
            told = json.dumps([(d, self._packed(v)) for d, v in computed(self.model, pairs)])
        except VisdiffError as error:
            # Carried as text: what Ray makes of an exception is no longer one clear sentence.
            fatal, told = type(error).__name__, str(error)
        return pyarrow.table({"fatal": [fatal], "batch": [told]})

    def _prepared(self, file: tuple[str, str]) -> Any:
        digest, path = file
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            return Refused(
                str(decode.unreadable_error(path, f"a file that cannot be read ({error})"))
            )
        if hashlib.sha256(data).hexdigest() != digest:
            return Refused(f"{path} was changed while the run read it")
        return prepared(self.model, lambda: decode.to_rgb(decode.decode(data, path), path))

    def _packed(self, value: Any) -> Any:
        """Write a value as JSON, as the cache writes it."""
        if value is None:
            return None
        if isinstance(value, Refused):
            return {"refused": value.reason}
        entry = cache_rows.encode(self.model.kind, {}, value)
        return {
            "type": entry.type, "dtype": entry.dtype, "shape": entry.shape, "hex": entry.value.hex()
        }  # fmt: skip


def _unpacked(told: Any) -> Any:
    if told is None:
        return None
    if "refused" in told:
        return Refused(told["refused"])
    fields = {name: told[name] for name in ("type", "dtype", "shape")}
    empty = cache_rows.Entry("", "", "", "", None, None, b"", "", 0.0)
    return cache_rows.decode(empty._replace(**fields, value=bytes.fromhex(told["hex"])))
