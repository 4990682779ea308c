"""Real brokers, started privately for the tests: on free ports, with data of their own, loopback only."""
