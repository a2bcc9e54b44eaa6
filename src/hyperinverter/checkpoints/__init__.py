"""Where pretrained numbers come from."""
