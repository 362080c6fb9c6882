"""Which kernel serves which device: one protocol, several answers."""
