"""What things cost, measured here and now, beside the peer in the same run: `make bench`."""
