"""One module for each target of iptables, named like it in small letters: what it covers, and its translation."""
