"""What users of a server wait for: requests, steps and queues on top of estimates."""
