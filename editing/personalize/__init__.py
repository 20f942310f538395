"""Personalisation: teaching a subject to a text-to-image model."""
