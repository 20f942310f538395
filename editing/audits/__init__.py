"""Audits of edits: what an edit changed, on purpose or not, compared with `visdiff`."""
