"""`python -m segdiff`."""

from segdiff.cli import main

main()
