"""`python -m agentgym_daemon`."""

import sys

from agentgym_daemon.cli import main

sys.exit(main())
