"""Quaver in the frameworks people already use: one module or package per framework.

A framework's own types stay in its module. What several need has one home: ``shared_models`` loads
each model once per process, ``micro_batches`` joins concurrent requests.
"""
