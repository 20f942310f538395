"""Benchmarks of set comparison: pairs with known differences, runs, verdicts, scores and tables."""
