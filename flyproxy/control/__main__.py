"""``python -m flyproxy.control``: started by the master, never by hand."""

from flyproxy.boot import leave
from flyproxy.control.main import main

leave(main())
