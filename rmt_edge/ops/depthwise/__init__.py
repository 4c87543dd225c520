"""x + dwconv(x) with what lies around it in an RMT block: one definition, several executions."""
