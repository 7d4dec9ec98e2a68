"""``python -m flyproxy.ctl``."""

import sys

from flyproxy.ctl.main import main

if __name__ == "__main__":
    sys.exit(main())
