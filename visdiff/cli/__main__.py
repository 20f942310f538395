"""``python -m visdiff.cli``."""

from visdiff.cli import main

main()
