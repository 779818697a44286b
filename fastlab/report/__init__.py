"""One page of a store: the question, the winner, the frontier, and how to have it."""
