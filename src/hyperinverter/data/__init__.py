"""Photos on disk to batches."""
