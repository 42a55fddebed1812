"""Probing every video once: its length, rate and size, a cache of them, and which videos are broken."""
