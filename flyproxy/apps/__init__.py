"""What an app is: the typed model, the rules it must keep, and ``fly.toml``, from which owners make it."""
