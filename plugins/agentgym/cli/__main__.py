"""`python -m agentgym.cli`."""

from __future__ import annotations

import sys

from agentgym.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
