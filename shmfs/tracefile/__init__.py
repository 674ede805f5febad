"""The format of traces: its schema, one writer, one reader."""
