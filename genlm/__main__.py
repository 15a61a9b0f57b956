"""`python -m genlm`."""

from __future__ import annotations

from genlm.cli import main

if __name__ == "__main__":
    main()
