"""Latency: measured in turns with telemetry beside it, kept as records, and what they decide."""
