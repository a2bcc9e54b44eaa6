"""What one does with an inversion: move w, draw again with the same residuals."""
