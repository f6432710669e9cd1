"""A run: prepared, trained step by step, reported."""
