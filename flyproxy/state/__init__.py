"""The state of the platform on this host: records, the store that holds them, and their way into shared memory."""
