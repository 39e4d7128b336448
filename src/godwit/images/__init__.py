"""OCI images: pull, verify, flatten, convert to EROFS, and the local bases."""
