"""`genlm env`."""

from __future__ import annotations

import sys

from genlm.cli import options
from genlm.tasks.env import describe
from genlm.version import __version__
from genlm.views.env import show_env


def env(format: options.Format = "text") -> None:
    """Show versions, hardware, settings and the Hub cache, for a bug report.

    Paste it into the report. Tokens and proxies are never shown, only whether they are set.

    genlm env
    genlm env --format json
    """
    show_env(describe(__version__), format, sys.stdout)
