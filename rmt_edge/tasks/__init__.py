"""Tasks: what a head's outputs mean, what is kept of each image, and what two models' difference is. numpy only."""
