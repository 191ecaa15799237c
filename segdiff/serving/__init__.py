"""The interactive page: two images dropped on it, their change at any threshold."""
