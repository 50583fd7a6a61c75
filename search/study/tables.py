"""The tables that a database has beside those of Optuna, for runs whose files are in an artifact store.

A file is made of *pieces*: each is an artifact. Files that are gone keep their row, without a size, so that workers
hear of it.
"""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, MetaData, String, Table, Text, func

METADATA = MetaData()
NAME, KEY = String(512), String(160)

RUNS = Table(
    "mergesearch_runs",
    METADATA,
    Column("run", KEY, primary_key=True),
    Column("mark", String(32), nullable=False),  # tells it from a run of its name in another database
    Column("changes", BigInteger, nullable=False),  # how often its files have changed
)
LOCKS = Table(
    "mergesearch_locks",
    METADATA,
    Column("run", KEY, primary_key=True),
    Column("holder", String(320), nullable=False),  # who took the lock last; empty where it was released
    Column("turn", BigInteger, nullable=False),  # how often it was taken
)
WORKERS = Table(
    "mergesearch_workers",
    METADATA,
    Column("run", KEY, primary_key=True),
    Column("worker", String(320), primary_key=True),
    Column("application", String(64), nullable=False),  # how its connections are called
    Column("seen", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("is_living", Boolean, nullable=False),
    Column("is_stopping", Boolean, nullable=False),
)
CLAIMS = Table(
    "mergesearch_claims",
    METADATA,
    Column("run", KEY, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("worker", String(320), nullable=False),
)
FILES = Table(
    "mergesearch_files",
    METADATA,
    Column("run", KEY, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("version", String(40), nullable=False),
    Column("change", BigInteger, nullable=False),  # which of the run's changes was the last
    Column("size", BigInteger),
    Index("mergesearch_files_change", "run", "change"),
)
PIECES = Table(
    "mergesearch_pieces",
    METADATA,
    Column("artifact", String(200), primary_key=True),
    Column("run", KEY, nullable=False),
    Column("name", NAME, nullable=False),
    Column("begin", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("worker", String(320)),  # that has put it aside; none once it is part of a version
    Column("version", String(40)),  # neither worker nor version: it is to be removed
    Index("mergesearch_pieces_name", "run", "name"),
)
LOG = Table(
    "mergesearch_log",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=True),
    Column("run", KEY, nullable=False, index=True),
    Column("lines", Text, nullable=False),
)
