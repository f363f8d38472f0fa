"""Drawings of cats and dogs, made by the package itself: data for those who have none."""
