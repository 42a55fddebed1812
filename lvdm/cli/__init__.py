"""Commands: parse arguments, call a function of the library, print. The only room that prints; no other imports it."""
