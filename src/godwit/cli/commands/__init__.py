"""One module per command or group of commands; `registry` says which is which."""
