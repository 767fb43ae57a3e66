"""What goes past the lesson; each module here runs as `python -m experiments.NAME`."""
