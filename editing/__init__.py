"""Edits of text-to-image diffusion models, each audited with `visdiff`.

The second half of the distribution. It changes models (closed-form concept edits, fine-tuned
erasure, personalisation) and then has `visdiff` say what the edit changed, meant or not.
"""
