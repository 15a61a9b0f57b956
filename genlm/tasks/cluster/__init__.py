"""A batch on more than one machine, with Ray Data."""
