"""``python -m flyproxy.control``: started by the master, never by hand."""

import sys

from flyproxy.control.main import main

sys.exit(main())
