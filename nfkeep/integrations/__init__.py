"""What makes other programs use nfkeep, one package for each of them.

They are thin, and written against the public names: nothing here knows how the kernel keeps a ban.
"""
