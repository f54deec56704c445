"""Room 3: measurements beside sb3-contrib's TRPO; the only room that imports it."""
