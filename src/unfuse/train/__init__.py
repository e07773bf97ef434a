"""Training: a table of stages (`stages`), one loop for all of them (`loop`)."""
