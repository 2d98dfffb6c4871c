"""One interface to run tools apart from the host, with several backends."""
