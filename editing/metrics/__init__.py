"""Measures of generated images: what an edit did, and how much else it changed.

Pure functions on arrays (`proportions`, `ratios`, `distances`, `drift`, `similarity`), and the
adapters that make those arrays of images (`features`, `classifiers`, `detectors`, `perceptual`).
"""
