"""A batch on more than one machine, by Ray Data."""
