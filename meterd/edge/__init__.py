"""HTTP in and out: where bytes become values, and refusals become statuses."""
