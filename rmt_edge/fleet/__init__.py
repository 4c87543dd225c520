"""Boards over SSH: one run on many devices, by the user's own ssh."""
