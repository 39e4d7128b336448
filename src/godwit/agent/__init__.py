"""One per host: owns its machines and drives them."""
