"""The chapters of the story: each makes the two processes do something, and says what should be seen."""
