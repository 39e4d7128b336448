//! Twin of the Python records; see contracts/golden.
