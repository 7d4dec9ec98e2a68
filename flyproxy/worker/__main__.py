"""``python -m flyproxy.worker``: started by the master, never by hand."""

import sys

from flyproxy.worker.main import main

sys.exit(main())
