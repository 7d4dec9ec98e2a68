"""The worker process: one compiled engine in a thread of its own, and the little Python that looks after it."""
