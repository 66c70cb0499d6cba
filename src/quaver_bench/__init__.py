"""Speed of Quaver and other engines: latency, throughput, real text, concurrent clients and start.

A part (`latency`, `throughput`, `text`, `concurrency`, `start`) has cases. The engines run each case in
turns, and each engine adds a row to the result. Tables and plots are made from the rows.
"""
