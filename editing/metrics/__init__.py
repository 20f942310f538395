"""Measures of generated images: the effect of an edit and its side effects.

Pure functions on arrays (`proportions`, `ratios`, `distances`, `drift`, `similarity`, `subject`),
and adapters that compute these arrays from images (`features`, `image_encoders`, `masks`,
`classifiers`, `detectors`, `perceptual`).
"""
