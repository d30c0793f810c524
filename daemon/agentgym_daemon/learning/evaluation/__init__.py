"""Off-policy evaluation: what a policy would have been worth on runs that another one decided."""
