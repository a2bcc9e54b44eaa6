"""Commands that made the packaged weights of the digiface domain."""
