"""Spark Connect: embed a corpus on a cluster that this process only talks to.

python examples/bulk/cluster/spark_connect.py MODEL SOURCE TARGET [REMOTE]

REMOTE is sc://host:15002; without it, Spark starts a server here. SOURCE and TARGET must be the same places for the
server's workers, which need `pip install 'quaver[spark]'`. A MODEL that is a folder here is sent to them.
"""

from __future__ import annotations

import os
import sys

from pyspark.sql import SparkSession

import quaver.bulk


def main(model: str, source: str, target: str, remote: str = "local[2]") -> None:
    """Embed the files, with the session as the active one."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.remote(remote).getOrCreate()
    try:
        report = quaver.bulk.embed(source, target, model=model, engine="spark")
        print(f"{report.total_rows} rows of {len(report.records)} shards in {report.target}")
        assert not report.failed
    finally:
        session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
