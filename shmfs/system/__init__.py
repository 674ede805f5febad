"""The kernel's interfaces that Python lacks, each wrapped once. Every room may import it; it imports none."""
