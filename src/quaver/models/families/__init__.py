"""Model families: config.json to geometry, tensors by name to weights, one module for each."""
