"""Ray jobs, one per file: read the configuration, connect to Ray, call one function."""
