"""The ``visdiff`` command, one file a command; `visdiff.cli.app` puts them together."""
