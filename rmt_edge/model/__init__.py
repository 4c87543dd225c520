"""The network: as published (rmt, variants), from a file (checkpoint), and ready for export (deploy)."""

from rmt_edge.model.rmt import create_model

__all__ = ["create_model"]
