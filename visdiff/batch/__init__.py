"""Captioning and judging jobs through the Batch API: submit now, collect later, half the price."""
