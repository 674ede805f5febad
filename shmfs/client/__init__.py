"""What commands use of mounts: start and find them, ask their daemons, clean up."""
