"""The command line: ``entry_point`` runs ``application``, which lists ``commands``, a module for each.

Imports go this way alone, and from the commands to what they share, which lies beside them: ``options``, ``arguments``,
``screen``, ``errors`` with the exit statuses, tables. Whatever needs TensorFlow is imported inside the command that
needs it.
"""

from segdiff.cli.application import app
from segdiff.cli.entry_point import main

__all__ = ["app", "main"]
