"""The machine a run works on: its files, its processes, its terminal. Nothing of the paper, no torch at import."""
