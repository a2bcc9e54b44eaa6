"""Numbers to minimise."""
