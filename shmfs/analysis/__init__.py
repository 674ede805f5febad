"""From events to findings: faults, sharing, lives, deaths, sizes, budgets."""
