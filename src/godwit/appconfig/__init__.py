"""The app's own configuration file: fly.toml, JSON or YAML.

Read by `files.load` into a `model.Config`, turned into what the Machines API takes by
`machine.to_machine_config`, written by `writing`. The CLI is its caller.
"""
