"""Training of the bundled models: ``python -m visdiff.miniature.train``."""
