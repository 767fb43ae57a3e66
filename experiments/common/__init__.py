"""What the programs of experiments/ share."""
