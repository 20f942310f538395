"""Diffusion pipelines: loading, families, weights, text encoding, sampling and denoising."""
