"""Reports on a run and on a trace, as text and as HTML."""
