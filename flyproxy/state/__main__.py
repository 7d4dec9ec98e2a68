"""``python -m flyproxy.state``: started by the master, never by hand."""

from flyproxy.boot import leave
from flyproxy.state.main import main

leave(main())
