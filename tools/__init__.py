"""Scripts of this repository: set-up, benches."""
