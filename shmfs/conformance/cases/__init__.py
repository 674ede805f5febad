"""The cases, one module per section of what a tmpfs does. The name of a case is its sentence."""
