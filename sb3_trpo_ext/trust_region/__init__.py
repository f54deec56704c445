"""Room 2: what TRPO and its relatives share: a policy as θ → distribution, its samples, and a step in a region."""
