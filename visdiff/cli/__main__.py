"""``python -m visdiff.cli``."""

from visdiff.cli.app import main

main()
