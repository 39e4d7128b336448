"""SQL adapters of control's ports."""
