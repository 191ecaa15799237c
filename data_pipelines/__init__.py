"""Image pairs on disk, found, validated, decoded, augmented and batched. Knows nothing of segdiff."""

IGNORE = 255
"""The value that marks pixels without truth in every mask inside the program."""
