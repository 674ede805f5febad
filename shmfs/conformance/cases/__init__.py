"""The cases, one module per subject. The name of a case says what it does or looks at."""
