"""Captioning and judging through the Batch API: submit now, collect later, at half the price."""
