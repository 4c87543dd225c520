"""The network: as published (rmt, variants), from a file (checkpoint), ready for export (deploy), its layers."""
