"""Benchmarks of s2s-infer, beside other engines: ``python -m tools.bench``."""
