"""Many prompts: rows in, a record for each out, nothing lost."""
