"""Accuracy of one model against another on the same images: runs, their predictions, limits, and what flipped."""
