"""The decisions: fresh or stale, hit or fill, what is read ahead."""
