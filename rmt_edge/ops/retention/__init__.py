"""The retention op (Manhattan self-attention of RMT): one definition, several executions."""
