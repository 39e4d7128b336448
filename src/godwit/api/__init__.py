"""HTTP: parse, authorize, call one service function of `godwit.control`, wrap the answer."""
