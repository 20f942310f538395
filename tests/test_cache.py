"""The cache: round trips, modes, concurrency, damage and full disks."""

import json
import logging
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkContext, SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visdiff.cache import Cache
from visdiff.errors import CacheMissError, InputError, UnreadableImageError, VisdiffError
from visdiff.files import write_whole
from visdiff.hashing import key

PARTS = {"model": "m", "image": "d"}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as opened:
        yield opened


def damage(cache: Cache, sql: str, *values: Any) -> None:
    """Changes the database without the cache."""
    cache.close()
    connection = sqlite3.connect(cache.directory / "cache.sqlite")
    with connection:
        connection.execute(sql, values)
    connection.close()


VALUES: list[Any] = [
    "a dog on grass",
    "",
    "é\n\0\ud800",
    {"a": [1, 2.5, None, True], "é": {}},
    [],
    0,
    False,
    0.1,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_returned_unchanged(cache: Cache, value: Any) -> None:
    cache.put("k", PARTS, value)
    found = cache.get("k", PARTS)
    assert found == value
    assert type(found) is type(value)


ARRAYS = [
    np.array([[np.nan, -0.0, np.inf], [1e-45, 3.4e38, 0.1]], dtype=np.float32),
    np.frombuffer(b"\x01\x00\xc0\x7f", dtype="<f4"),
    np.arange(6, dtype=">i2").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::3],
    np.zeros((0, 4), dtype=np.float16),
    np.array(3.5),
    np.array([True, False]),
    np.array(["é", "ab"]),
    np.array([1 + 2j], dtype=np.complex64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_array_round_trip_is_bit_exact(cache: Cache, array: np.ndarray) -> None:
    cache.put("k", PARTS, array)
    found = cache.get("k", PARTS)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    # A caller may modify it without affecting later reads.
    assert found.flags.writeable


@pytest.mark.parametrize(
    "bad",
    [None, np.array([object()]), np.array([(1, 2)], dtype="i4,i4"), float("nan"), {1, 2}, b"x"],
    # Not repr: an address in a test id differs between pytest-xdist's workers.
    ids=["None", "objects", "records", "nan", "set", "bytes"],
)
def test_invalid_values_raise_and_store_nothing(cache: Cache, bad: Any) -> None:
    with pytest.raises(InputError, match="Expected"):
        cache.put_many("k", [({"n": 1}, "good"), ({"n": 2}, bad)])
    assert cache.get_many("k", [{"n": 1}, {"n": 2}]) == [None, None]


def test_many_keys_in_order_with_gaps_and_repeats(cache: Cache) -> None:
    # More than one query.
    cache.put_many("k", [({"n": n}, f"value {n}") for n in range(0, 2500, 2)])
    parts = [{"n": n} for n in [*range(2500), 4, 4]]
    expected = [None if n % 2 else f"value {n}" for n in [*range(2500), 4, 4]]
    assert cache.get_many("k", parts) == expected
    assert (cache.hits, cache.misses) == (1252, 1250)
    assert cache.get_many("k", []) == []


def test_kind_is_part_of_the_key(cache: Cache) -> None:
    cache.put("caption", PARTS, "a")
    assert cache.get("vqa", PARTS) is None


def test_last_value_wins(cache: Cache) -> None:
    cache.put("k", PARTS, "old")
    cache.put("k", PARTS, np.zeros(2))
    cache.put("k", PARTS, "new")
    assert cache.get("k", PARTS) == "new"
    assert cache.stats()["entries"] == 1


def test_values_persist(tmp_path: Path) -> None:
    with Cache(tmp_path) as cache:
        cache.put("k", PARTS, "kept")
    with Cache(str(tmp_path)) as cache:
        assert cache.get("k", PARTS) == "kept"
        cache.close()
        assert cache.get("k", PARTS) == "kept"


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISDIFF_CACHE_DIR", str(tmp_path / "there"))
    assert Cache().directory == tmp_path / "there"
    assert not (tmp_path / "there").exists()
    monkeypatch.delenv("VISDIFF_CACHE_DIR")
    assert Cache().directory.name == "visdiff"


class TestModes:
    """What each mode reads and writes."""

    @pytest.fixture(autouse=True)
    def _filled(self, cache: Cache) -> None:
        cache.put("k", PARTS, "old")

    def test_ro_reads_and_does_not_write(self, cache: Cache) -> None:
        with Cache(cache.directory, mode="ro") as other:
            assert other.get("k", PARTS) == "old"
            other.put("k", PARTS, "new")
            other.put("k", {"n": 1}, "new")
            assert other.get("k", {"n": 1}) is None
        assert cache.get("k", PARTS) == "old"

    def test_off_does_neither(self, cache: Cache) -> None:
        with Cache(cache.directory, mode="off") as other:
            other.put("k", {"n": 1}, "new")
            assert other.get_many("k", [PARTS, {"n": 1}]) == [None, None]
        assert cache.get("k", {"n": 1}) is None

    def test_refresh_recomputes_everything_once(self, cache: Cache) -> None:
        with Cache(cache.directory, mode="refresh") as other:
            assert other.get("k", PARTS) is None
            other.put("k", PARTS, "new")
            # What this run has written is read again.
            assert other.get("k", PARTS) == "new"
        assert cache.get("k", PARTS) == "new"

    def test_replay_reads_and_a_miss_names_the_key(self, cache: Cache) -> None:
        with Cache(cache.directory, mode="replay") as other:
            other.put("k", {"n": 1}, "new")
            assert other.get("k", PARTS) == "old"
            with pytest.raises(CacheMissError, match="cached caption") as caught:
                other.get_many("caption", [{"model": "blip", "image": "abc123"}])
        assert '"image":"abc123"' in str(caught.value)
        assert '"model":"blip"' in str(caught.value)
        assert "--cache rw" in str(caught.value)

    @pytest.mark.parametrize("mode", ["ro", "replay", "off"])
    def test_reading_creates_no_files(self, tmp_path: Path, mode: Any) -> None:
        with Cache(tmp_path / "new", mode=mode) as other:
            if mode == "replay":
                with pytest.raises(CacheMissError):
                    other.get("k", PARTS)
            else:
                assert other.get("k", PARTS) is None
            other.put("k", PARTS, "x")
            written = other.write_file("k", PARTS, ".txt", b"x")
            assert written.read_bytes() == b"x"
        assert not (tmp_path / "new").exists()

    def test_unknown_mode(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="rw, ro, refresh, off, replay"):
            Cache(tmp_path, mode="readonly")  # pyright: ignore[reportArgumentType]


def _write(directory: Path, writer: int, n: int, start: Any) -> None:
    """Writes own and shared keys, while other processes do the same."""
    start.wait()
    with Cache(directory) as cache:
        for number in range(n):
            cache.put("own", {"writer": writer, "n": number}, np.full(8, number, dtype=np.float32))
            cache.put("shared", {"n": number}, f"value {number}")
            cache.write_file("file", {"n": number}, ".bin", bytes([number]) * 10_000)


@pytest.mark.parametrize(
    "context", [multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")]
)
def test_four_processes_write_one_cache_concurrently(
    tmp_path: Path, context: ForkContext | SpawnContext
) -> None:
    n = 30
    start = context.Barrier(4)
    writers = [
        context.Process(target=_write, args=(tmp_path / "c", writer, n, start))
        for writer in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(240)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with Cache(tmp_path / "c", mode="replay") as cache:
        for writer in range(4):
            found = cache.get_many("own", [{"writer": writer, "n": m} for m in range(n)])
            assert [value is not None and value[7] for value in found] == list(range(n))
        shared = cache.get_many("shared", [{"n": m} for m in range(n)])
        assert shared == [f"value {m}" for m in range(n)]
        assert cache.verify() == []
        stats = cache.stats()
    assert (stats["entries"], stats["files"]) == (5 * n, n)
    assert not list((tmp_path / "c").rglob(".writing-*"))
    for number in range(n):
        path = cache.path_for("file", {"n": number}, ".bin")
        assert path.read_bytes() == bytes([number]) * 10_000


def _use_inherited(cache: Cache, start: Any) -> None:
    start.wait()
    cache.put("k", {"from": "child"}, "child")


def test_a_cache_in_use_works_after_a_fork(cache: Cache) -> None:
    context = multiprocessing.get_context("fork")
    cache.put("k", {"from": "parent"}, "parent")
    barrier = context.Barrier(2)
    # A lock held by another thread during the fork must not block the child.
    with cache._database._lock:
        child = context.Process(target=_use_inherited, args=(cache, barrier))
        child.start()
    barrier.wait()
    cache.put("k", {"from": "parent again"}, "parent")
    child.join(60)
    assert child.exitcode == 0
    names = ("parent", "child", "parent again")
    assert None not in cache.get_many("k", [{"from": name} for name in names])


def test_threads_share_a_cache(cache: Cache) -> None:
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(25):
                cache.put("k", {"t": thread, "n": number}, f"{thread} {number}")
                assert cache.get("k", {"t": thread, "n": number}) == f"{thread} {number}"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (cache.hits, cache.stats()["entries"]) == (150, 150)


class TestDamage:
    """Damaged values are never returned, and a failing disk never ends a run."""

    @pytest.mark.parametrize(
        "change",
        [
            "value = x'00'",
            "value = 'text'",
            "shape = '[3]'",
            "dtype = '<f8'",
            "type = 'json'",
            "checksum = ''",
            "kind = 'other'",
            "parts = '{}'",
            "parts = x'ff'",
        ],
    )
    def test_a_damaged_row_is_detected_and_never_used(
        self, cache: Cache, change: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.put("k", {"n": 1}, np.zeros(2, dtype=np.float32))
        cache.put("k", {"n": 2}, "sound")
        bad = key("k", {"n": 1})
        damage(cache, f"UPDATE entries SET {change} WHERE key = ?", bad)
        assert cache.verify() == [bad]
        assert cache.get_many("k", [{"n": 1}, {"n": 2}]) == [None, "sound"]
        assert "damaged" in caplog.text
        with Cache(cache.directory, mode="replay") as replay, pytest.raises(CacheMissError):
            replay.get("k", {"n": 1})
        cache.put("k", {"n": 1}, "again")
        assert cache.verify() == []

    def test_a_value_under_a_wrong_key_is_detected(self, cache: Cache) -> None:
        cache.put("k", {"n": 1}, "one")
        wrong = key("k", {"n": 2})
        damage(cache, "UPDATE entries SET key = ?", wrong)
        assert cache.verify() == [wrong]
        assert cache.get("k", {"n": 2}) is None

    @pytest.mark.parametrize("call", ["get", "put", "stats", "verify"])
    @pytest.mark.parametrize("how", ["not a database", "torn"])
    def test_a_damaged_file_raises_with_a_hint(self, tmp_path: Path, call: str, how: str) -> None:
        path = tmp_path / "cache.sqlite"
        if how == "torn":
            with Cache(tmp_path) as cache:
                cache.put_many("k", [({"n": n}, "x" * 900) for n in range(200)])
            data = bytearray(path.read_bytes())
            # The header is intact; the pages after it are random.
            data[4096:] = np.random.default_rng(0).bytes(len(data) - 4096)
            path.write_bytes(data)
        else:
            path.write_bytes(b"not a database " * 500)
        arguments = {"get": ["k", {"n": 1}], "put": ["k", {"n": 1}, "v"]}.get(call, [])
        with Cache(tmp_path) as cache, pytest.raises(InputError, match="move the file away") as it:
            getattr(cache, call)(*arguments)
        assert "visdiff cache verify" in str(it.value)
        assert str(path) in str(it.value)

    def test_another_version_is_not_modified(self, cache: Cache) -> None:
        cache.put("k", PARTS, "x")
        damage(cache, "PRAGMA user_version = 99")
        with pytest.raises(InputError, match="format 99"):
            cache.get("k", PARTS)

    def test_an_unwritable_directory_loses_no_values(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("a file, so that no folder can be made in it")
        with Cache(tmp_path / "file" / "cache") as cache, caplog.at_level(logging.WARNING):
            assert cache.get("k", PARTS) is None
            for number in range(3):
                cache.put("k", {"n": number}, np.full(2, number))
            path = cache.write_file("k", PARTS, ".bin", b"content")
            assert path.read_bytes() == b"content"
            found = cache.get("k", {"n": 2})
            assert isinstance(found, np.ndarray)
            assert found.tolist() == [2, 2]
            assert cache.stats()["entries"] == 0
        assert [record.levelname for record in caplog.records].count("WARNING") == 1
        assert "cannot be written" in caplog.text

    def test_a_full_disk_loses_no_values(
        self, cache: Cache, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.put("k", {"n": 0}, "before")
        connection = cache._database.connect()
        assert connection is not None
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        cache.put_many("k", [({"n": n}, "x" * 5000) for n in (1, 2)])
        cache.put("k", {"n": 3}, "after")
        found = cache.get_many("k", [{"n": n} for n in range(4)])
        assert found == ["before", "x" * 5000, "x" * 5000, "after"]
        assert len(caplog.records) == 1
        assert "full" in caplog.text
        cache.close()
        # A batch is written to disk completely or not at all.
        assert Cache(cache.directory).get_many("k", [{"n": n} for n in range(4)])[1:] == [None] * 3

    def test_a_failed_write_leaves_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError("no space left")

        (tmp_path / "kept").write_bytes(b"old")
        monkeypatch.setattr("os.replace", refuse)
        with pytest.raises(OSError, match="no space"):
            write_whole(tmp_path / "kept", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]
        assert (tmp_path / "kept").read_bytes() == b"old"

    def test_an_empty_content_file_is_detected(self, cache: Cache) -> None:
        path = cache.write_file("image", PARTS, ".png", b"data")
        assert cache.verify() == []
        path.write_bytes(b"")
        assert cache.verify() == [path.name]


def test_path_for_contains_the_key_and_creates_nothing(cache: Cache) -> None:
    path = cache.path_for("image", PARTS, ".png")
    assert path.name == key("image", PARTS) + ".png"
    assert not path.parent.exists()
    assert cache.write_file("image", PARTS, ".png", b"data") == path
    for kind, suffix in (("../up", ".png"), ("image", "png"), ("image", "./x")):
        with pytest.raises(InputError, match="Expected a kind"):
            cache.path_for(kind, PARTS, suffix)


def test_prune_by_size_keeps_the_newest(cache: Cache) -> None:
    for number in range(4):
        cache.put("k", {"n": number}, "x" * 100)
        time.sleep(0.01)
    assert cache.prune(max_bytes=250) == 2
    assert [v is None for v in cache.get_many("k", [{"n": n} for n in range(4)])] == [1, 1, 0, 0]
    assert cache.stats()["bytes"] == 200


def test_prune_by_age_and_files(cache: Cache) -> None:
    cache.put("k", {"n": 1}, "old")
    cache.put("k", {"n": 2}, "new")
    path = cache.write_file("image", PARTS, ".png", b"data")
    damage(cache, "UPDATE entries SET created = 0 WHERE key = ?", key("k", {"n": 1}))
    assert cache.prune(older_than_days=1) == 1
    assert path.exists()
    assert cache.get_many("k", [{"n": 1}, {"n": 2}]) == [None, "new"]
    assert cache.prune(max_bytes=0) == 2
    assert not path.exists()


def test_prune_needs_a_limit_and_a_cache_that_writes(cache: Cache) -> None:
    with pytest.raises(InputError, match="neither"):
        cache.prune()
    with pytest.raises(InputError, match="mode 'ro'"):
        Cache(cache.directory, mode="ro").prune(max_bytes=0)


def test_stats_by_kind(cache: Cache) -> None:
    cache.put("caption", PARTS, "12345")
    cache.put("embedding", PARTS, np.zeros(3, dtype=np.float32))
    stats = cache.stats()
    assert stats["kinds"] == {
        "caption": {"entries": 1, "bytes": 5},
        "embedding": {"entries": 1, "bytes": 12},
    }
    assert json.loads(json.dumps(stats)) == stats


def test_export_is_lines_of_json_without_damaged_entries(cache: Cache, tmp_path: Path) -> None:
    cache.put("caption", {"n": 1}, "é")
    cache.put("vector", {"n": 2}, np.array([1.0], dtype="<f4"))
    cache.put("caption", {"n": 3}, "bad")
    damage(cache, "UPDATE entries SET checksum = '' WHERE key = ?", key("caption", {"n": 3}))
    assert cache.export(tmp_path / "out.jsonl") == 2
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    rows = {row["kind"]: row for row in map(json.loads, lines)}
    assert rows["caption"]["value"] == "é"
    assert rows["caption"]["parts"] == {"n": 1}
    assert rows["vector"]["shape"] == [1]
    assert np.frombuffer(bytes.fromhex(rows["vector"]["value"]), rows["vector"]["dtype"]) == [1]


def test_errors_derive_from_builtin_errors() -> None:
    assert issubclass(InputError, (VisdiffError, ValueError))
    assert issubclass(CacheMissError, (VisdiffError, LookupError))
    assert issubclass(UnreadableImageError, VisdiffError)
