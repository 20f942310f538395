"""Renderers of a `DifferenceReport`: HTML, Markdown, or a folder with all formats."""
