"""What each client must be told so that it pulls through the mirror: a configuration and a URL in, files out.

Nothing here reads or writes a file, or asks a network: whoever prints or places the files does.
"""
