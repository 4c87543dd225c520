"""The bundle: one sealed file with models, plugin libraries and a validation subset for a device."""
