"""Images: data sets, decoding, and the one preprocessing of every model."""
