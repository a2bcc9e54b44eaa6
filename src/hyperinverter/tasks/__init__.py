"""How the method learns."""
