"""Others' controllers for the same jobs, as they come, beside ours in one run: `make bench-peers`."""
