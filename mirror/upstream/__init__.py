"""HTTP out: challenges and tokens, redirects, retries, what is peculiar to each registry."""
