"""A content-addressed store for the results of models, so that each is computed once.

Text, JSON and arrays are rows of one SQLite database in WAL mode. Large content is stored in files
next to it, written atomically. Each row has a checksum; a damaged row counts as a miss. Values are
text, JSON or raw bytes with a dtype and a shape, so reading a cache cannot execute code.

A cache failure never loses results of a run. If the disk is full or the folder cannot be written,
one warning is logged, and values are kept in memory for the rest of the run.
"""

from visdiff.cache.store import Cache, Mode, Parts, Value

__all__ = ["Cache", "Mode", "Parts", "Value"]
