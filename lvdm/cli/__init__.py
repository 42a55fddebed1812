"""Commands: parse, build, run, print. The only room that reads the config and prints; imports all others, is imported by none."""
