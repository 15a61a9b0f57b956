"""Records in, text out: for a terminal, for a pipe, as JSON."""
