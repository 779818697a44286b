"""Find the fastest: estimate all candidates, measure the few that may be it."""
