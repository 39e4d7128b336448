"""What crosses a process: frozen records with a version, shared with Rust by golden files."""
