"""Helpers shared by the test layers. Nothing here sleeps blindly: `wait_for` polls a condition until a deadline."""
