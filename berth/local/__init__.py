"""What runs Berth on one machine: an embedded PostgreSQL and the supervisor of `berth up`. Never used in a cluster."""
