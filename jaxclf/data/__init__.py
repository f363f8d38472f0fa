"""Data: where pictures come from, how they are decoded, and in what order they reach the device."""
