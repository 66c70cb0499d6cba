"""Quaver's server and others on this CPU, under the same load: `python -m quaver_bench.servers --help`.

Each server runs in a process and an environment of its own. One client, which measures its own share of
the CPU, sends all of them the same requests over the same dialect.
"""
