"""Traces in the formats of other programs: CSV, JSON lines, Parquet, Perfetto."""
