"""How good an inversion is: one protocol, the same photos for every model, every number with its interval.

``protocol`` says what decides a score, ``scoring`` makes the numbers, ``measure`` brings models and photos together,
``work`` keeps what is done, ``statistics`` says what may be concluded, ``tables`` and ``figures`` show it, and
``report`` is the folder with all of it.
"""
