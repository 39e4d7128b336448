"""One server: data directory, supervised components, doctor."""
