"""HTTP in: routing of /v2/, handlers, how bytes leave, who may ask."""
