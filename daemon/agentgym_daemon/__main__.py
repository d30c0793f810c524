"""`python -m agentgym_daemon`."""

from __future__ import annotations

import sys

from agentgym_daemon.cli import main

sys.exit(main())
