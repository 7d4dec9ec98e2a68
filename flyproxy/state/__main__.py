"""``python -m flyproxy.state``: started by the master, never by hand."""

import sys

from flyproxy.state.main import main

sys.exit(main())
