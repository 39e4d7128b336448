"""Source in, image out."""
