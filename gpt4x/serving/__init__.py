"""Models behind HTTP: requests of many clients, decoded together."""
