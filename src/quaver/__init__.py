"""int8 embedding and reranking on plain CPUs."""
