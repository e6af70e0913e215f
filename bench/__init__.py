"""What the mirror's promises cost, measured: each bench runs the mirror as a process, beside a direct fetch."""
