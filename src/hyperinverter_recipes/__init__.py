"""Commands that made what is published: weights, figures, tables. They need a checkout; the wheel leaves them out."""
