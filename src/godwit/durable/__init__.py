"""Operations that survive a crash: a journal and a runner. Knows nothing of machines."""
