"""fail2ban with nfkeep: a ban is an element of a list in the kernel, and no rule changes for it.

`install` puts the two actions in place; `jail_bans` is what the Python action does for its jail, inside fail2ban.
"""
