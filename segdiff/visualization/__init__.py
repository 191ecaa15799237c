"""Pictures for people: overlays of change masks on their images, and learning curves."""
