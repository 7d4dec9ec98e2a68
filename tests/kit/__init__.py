"""The harness of the outside tests: a real daemon, VMs that do what a test says, a client that sends raw bytes."""
