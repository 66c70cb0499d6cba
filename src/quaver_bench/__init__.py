"""How fast: latency, throughput, real text, many clients and start, against other engines.

A part (`latency`, `throughput`, `text`, `concurrency`, `start`) has cases; every engine runs a case
in turns with the others; each gives a row. Rows make a result, a result makes tables and plots.
"""
