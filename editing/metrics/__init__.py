"""Measures of generated images: the effect of an edit and its side effects.

Pure functions on arrays (`proportions`, `ratios`, `distances`, `drift`, `similarity`), and adapters
that compute these arrays from images (`features`, `classifiers`, `detectors`, `perceptual`).
"""
