"""Benchmarks of set comparison: load pairs with known differences, run, judge, score, tabulate."""
