"""The life of one run: check, settle, assemble, train, test, and the folder that says all of it."""
