"""A module for each command, of its name. A new command is also listed in ``segdiff.cli.application``."""
