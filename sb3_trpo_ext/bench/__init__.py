"""Room 5: measurements beside sb3-contrib's TRPO; the only room that imports it."""
