"""The app's own configuration file: fly.toml, JSON or YAML."""
