"""Renders a `DifferenceReport`: one dict collected, then HTML, Markdown or a folder."""
