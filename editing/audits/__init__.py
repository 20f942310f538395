"""Audits of edits: intended changes and side effects, measured with `visdiff`."""
