"""What a device is and what it lacks: profiles, this machine, preflight, doctor, the TensorRT that is installed."""
