"""Application of a model on a Ray cluster. Only paths and values are sent, never pixels.

Each worker is a Ray Data actor with its own copy of the model. A worker that dies is restarted, and
only its current batch is recomputed. Batches are those of the local engine, so values agree up to
the rounding of each machine.

Files must have the same paths on all machines. Images without a file (Pillow images) are computed
by the local engine.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from visdiff import errors
from visdiff.cache import rows as cache_rows
from visdiff.engine import ImageModel, LocalEngine, Refused, compute_batch, prepare_or_refuse
from visdiff.errors import InputError, MissingBackendError, VisdiffError
from visdiff.files import read_whole
from visdiff.imageset import ImageSet, decode

# Maximum number of blocks; more cost the scheduler more than they gain.
_MAX_BLOCKS = 1000


class RayEngine:
    """An engine on a Ray cluster.

    It uses the cluster that this process is connected to, else the one at ``RAY_ADDRESS``, else a
    local cluster, which ends with the process.

    Args:
        workers: Number of copies of the model. Each uses one CPU and, if the cluster has GPUs and
            the model's device is not "cpu", one GPU.
        **_: Other fields of the configuration, ignored.

    Raises:
        InputError: The number of workers is below 1.
        MissingBackendError: Ray is not installed.
    """

    name = "ray"

    def __init__(self, workers: int = 2, **_: Any) -> None:
        if workers < 1:
            raise InputError(f"Expected engine.workers of at least 1, got {workers}; increase it.")
        if importlib.util.find_spec("ray") is None:
            raise MissingBackendError(
                "Expected Ray Data for the engine 'ray', got no installation; install it with "
                "`pip install \"visdiff[ray]\"`, or use the engine 'local'."
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
        """Yields batches as they complete (see `visdiff.engine.Engine`).

        An image whose file has changed since it was listed is refused.
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
            yield [(digest, _unpack(value)) for digest, value in json.loads(row["batch"])]

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
            override_num_blocks=min(len(work), _MAX_BLOCKS),
        ).map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(work))),
            fn_constructor_args=(model, workers),
            num_cpus=1,
            num_gpus=1 if gpus and getattr(model, "device", "auto") != "cpu" else 0,
            # Killed workers are restarted, and their batches retried.
            max_restarts=-1,
            max_task_retries=-1,
        )
        return dataset.iter_rows()

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        # Do not send usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # An existing cluster has its own size.
        ray.init(
            num_cpus=None if os.environ.get("RAY_ADDRESS") else self.workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )


class _Worker:
    """An actor with one copy of the model."""

    def __init__(self, model: ImageModel, workers: int) -> None:
        self.model = model
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="visdiff")

    def __call__(self, batch: Any) -> Any:
        """Computes a batch: from a table of digests and paths to a table of digests and values."""
        import pyarrow

        (text,) = batch.column("batch").to_pylist()
        fatal = ""
        try:
            files = json.loads(text)
            items = list(self.pool.map(self._prepare, files))
            pairs = list(zip((digest for digest, _ in files), items, strict=True))
            result = json.dumps([(d, self._pack(v)) for d, v in compute_batch(self.model, pairs)])
        except VisdiffError as error:
            # Sent as text, since Ray would wrap the exception in its own.
            fatal, result = type(error).__name__, str(error)
        return pyarrow.table({"fatal": [fatal], "batch": [result]})

    def _prepare(self, file: tuple[str, str]) -> Any:
        digest, path = file
        try:
            data = read_whole(path)
        except OSError as error:
            return Refused(
                str(decode.unreadable_error(path, f"a file that cannot be read ({error})"))
            )
        if hashlib.sha256(data).hexdigest() != digest:
            return Refused(f"{path} has changed during the run")
        return prepare_or_refuse(self.model, lambda: decode.to_rgb(decode.decode(data, path), path))

    def _pack(self, value: Any) -> Any:
        """Returns a value as JSON, in the encoding of the cache."""
        if value is None:
            return None
        if isinstance(value, Refused):
            return {"refused": value.reason}
        entry = cache_rows.encode(self.model.kind, {}, value)
        return {
            "type": entry.type, "dtype": entry.dtype, "shape": entry.shape, "hex": entry.value.hex()
        }  # fmt: skip


def _unpack(packed: Any) -> Any:
    if packed is None:
        return None
    if "refused" in packed:
        return Refused(packed["refused"])
    fields = {name: packed[name] for name in ("type", "dtype", "shape")}
    empty = cache_rows.Entry("", "", "", "", None, None, b"", "", 0.0)
    return cache_rows.decode(empty._replace(**fields, value=bytes.fromhex(packed["hex"])))
