"""Integrations: one module or package for each framework.

Only a framework's own module uses its types. Two modules serve all of them: `shared_models` loads
each model once per process and batches concurrent requests, and `embedded_store` holds a store's
texts and vectors.
"""
