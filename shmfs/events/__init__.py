"""What happens on a mount, as records and hooks: the words that every other room uses. Imports nothing."""
