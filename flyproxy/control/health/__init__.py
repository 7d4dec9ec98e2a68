"""Health: the service checks of apps, run against the machines of this host."""
